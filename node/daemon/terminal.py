"""Terminal: the lines, or the live view, of a node that runs, written by a thread of its own.

    events, statuses, log records --queue--> thread --> standard output, standard error

A thread, because a terminal that is halted (Ctrl-S), or a pipe that nobody reads, blocks whoever writes to
it, and a node must answer its peers meanwhile. What does not fit into the queue is left out and counted. A
reader that is gone ends nothing: the rest is not written.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TextIO

import msgspec

from shoal.node.config.settings import LogConfig
from shoal.node.daemon.journal import Event, merged
from shoal.node.service.log_file import LogFile, stamp
from shoal.node.status import Status

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

MAX_WAITING: Final = 1000
"""Things to show that wait for a slow terminal."""
CLOSE_SECONDS: Final = 1.0
"""For what still waits, at the end."""
STYLES: Final = {"warning": "yellow", "error": "bold red"}


class Terminal:
    """Where a node shows what it does. See the module's docstring."""

    def __init__(self, config: LogConfig, out: TextIO, err: TextIO, file: LogFile | None = None) -> None:
        """Write nothing yet; a context manager starts and ends it.

        `file`: takes every line. Then streams that are no terminals take none: nobody bounds what they hold.
        """
        self._config, self._out, self._err, self._file = config, out, err, file
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(MAX_WAITING)
        self._left_out = 0
        self._status: Status | None = None
        """The newest one, where it has not been drawn yet."""
        self._thread = threading.Thread(target=self._write_all, name="terminal", daemon=True)
        self._console: Console | None = None
        self._live: Live | None = None
        self._is_gone = False

    def __enter__(self) -> "Terminal":
        """Begin to write; where standard output is a terminal, with a live view."""
        self._console = _console(self._out) if self._config.format == "auto" else None
        if self._console is not None and not self._config.quiet:
            from rich.live import Live

            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what waits, unless the terminal takes nothing; give the terminal back."""
        with suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_SECONDS)
        self._thread.join(CLOSE_SECONDS)

    def show(self, events: Sequence[Event], status: Status | None) -> None:
        """Tell what happened, and what the node does now."""
        kept = list(events) if self._file is not None else [each for each in events if self._is_shown(each)]
        if self._config.format != "json":
            kept = merged(kept)
        for event in kept:
            self._put(lambda event=event: self._event(event))  # type: ignore[misc]  # bound now, as it is meant
        if status is not None and self._live is not None:
            is_waiting, self._status = self._status is not None, status
            if not is_waiting and not self._put(self._draw):
                self._status = None

    def log(self, record: logging.LogRecord, text: str) -> None:
        """Write a record of the log."""
        self._put(lambda: self._record(record, text))

    def _put(self, job: Callable[[], None]) -> bool:
        """Hand a job to the thread; tells whether there was room."""
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            self._left_out += 1
            return False
        return True

    def _write_all(self) -> None:
        if self._live is not None:
            self._do(self._live.start)
        while (job := self._queue.get()) is not None:
            self._do(job)
            if self._left_out and self._queue.empty():
                left_out, self._left_out = self._left_out, 0
                text = f"{left_out} lines were left out: the terminal did not take them"
                event = Event(time=time.time(), level="warning", event="left-out", text=text)
                self._do(lambda event=event: self._event(event))  # type: ignore[misc]  # bound now
        if self._live is not None:
            self._do(self._live.stop)

    def _do(self, job: Callable[[], None]) -> None:
        if self._is_gone:
            return
        try:
            job()
        except (OSError, ValueError):  # the reader is gone, or the stream is closed
            self._is_gone = True

    def _is_shown(self, event: Event) -> bool:
        return event.level != "info" or not self._config.quiet

    def _event(self, event: Event) -> None:
        line = ""
        if self._config.format == "json":
            about = {"at": stamp(event.time), "time": event.time, "level": event.level, "event": event.event}
            line = msgspec.json.encode({**event.fields, **about, "text": event.text}).decode()
        if self._file is not None:
            text = event.text.replace("\n", "\n    ")
            self._file.write(line or f"{stamp(event.time)} {event.level.upper()} {text}")
            if not (self._out.isatty() and self._is_shown(event)):
                return
        if line:
            self._line(self._out, line)
            return
        clock = time.strftime("%H:%M:%S", time.localtime(event.time))
        text = event.text if event.event == "up" else f"{clock}  {event.text}"
        if self._console is not None:
            self._console.print(text, style=STYLES.get(event.level), soft_wrap=True)
        else:
            self._line(self._out, text)

    def _record(self, record: logging.LogRecord, text: str) -> None:
        if self._config.format == "json":
            about = {"at": stamp(record.created), "time": record.created, "level": record.levelname.lower()}
            text = msgspec.json.encode(
                {**about, "event": "log", "logger": record.name, "text": text}
            ).decode()
        if self._file is not None:
            self._file.write(text)
            if not self._err.isatty():
                return
        if self._console is not None and self._err.isatty():
            # Above the live view, which it would else be written into.
            self._console.print(text, style="dim", soft_wrap=True)
        else:
            self._line(self._err, text)

    def _draw(self) -> None:
        from shoal.node.daemon.live_view import live_view

        status, self._status = self._status, None
        assert self._live is not None
        assert status is not None
        self._live.update(live_view(status, self._live.console.width), refresh=True)

    def _line(self, stream: TextIO, text: str) -> None:
        stream.write(text + "\n")
        stream.flush()


class TerminalHandler(logging.Handler):
    """Hands log records to a terminal."""

    def __init__(self, terminal: Terminal) -> None:
        """Hand them to this one."""
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001  # as every handler does: a bad record ends nothing
            self.handleError(record)
        else:
            self._terminal.log(record, text)


def _console(out: TextIO) -> "Console | None":
    """Return a console where the output is a terminal that can be drawn on."""
    if not out.isatty():
        return None
    from rich.console import Console

    made = Console(file=out, markup=False, highlight=False, emoji=False)
    return made if made.is_terminal and not made.is_dumb_terminal else None
