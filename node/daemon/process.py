"""The process of a daemon: opens what it stands on, runs it, and turns signals and errors into its end.

    main --> home locked, terminal, log --> run --> keys, store, host, nursery --> Daemon

The first SIGTERM, SIGINT or SIGHUP says goodbye to the peers, saves and ends. Another SIGTERM or SIGINT ends
at once.
"""

import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Final

import trio

from shoal.gossip.admission.admission import Admission
from shoal.gossip.net.libp2p_host import open_host
from shoal.node.config.settings import LogConfig, NodeConfig
from shoal.node.daemon.daemon import Daemon, Ground, Show
from shoal.node.daemon.terminal import Terminal, TerminalHandler
from shoal.node.errors import UserError
from shoal.node.service.log_file import LogFile
from shoal.node.storage.database import Store
from shoal.node.storage.home import Home
from shoal.node.storage.network_key import read_network_key
from shoal.node.text import LineFormatter

AT_ONCE: Final = 130
"""The exit code after a second signal."""


async def run(config: NodeConfig, show: Show) -> int:
    """Run a node in its locked home; returns the exit code."""
    is_stopping = trio.Event()
    _catch_signals(is_stopping.set)
    home, network = Home(config.home), config.network
    key, store = home.load_or_create_key(), Store(home.database)
    network_key = read_network_key(network.key_file)
    async with (
        open_host(key, network, Admission(network.max_links), network_key) as host,
        trio.open_nursery() as nursery,
    ):
        daemon = Daemon(config, Ground(home, key, network_key, store, host, nursery, is_stopping), show)
        await daemon.run()
        nursery.cancel_scope.cancel()
    daemon.close()
    return 0


def _catch_signals(stop: Callable[[], None]) -> None:
    """Leave at the first signal, end at once at the second; the end of the terminal is never a second.

    The handlers stay: what follows a run is the end of the process, in which a second Ctrl-C would
    otherwise cut off the last state or print a traceback.
    """
    token = trio.lowlevel.current_trio_token()
    signals = 0

    def handle(number: int, frame: object) -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            os._exit(AT_ONCE)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(stop)

    def hang_up(number: int, frame: object) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
    # Ignored is what nohup makes of it, for a node that is to outlive its terminal.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)


def _only_user_error(group: BaseExceptionGroup[BaseException]) -> UserError | None:
    """Return the user's error inside a nursery's group, if there is nothing else in it."""
    _, rest = group.split(UserError)
    found = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]  # type: ignore[assignment]
    return found if rest is None and isinstance(found, UserError) else None


def main(config: NodeConfig) -> int:
    """Run a node until it is stopped; returns the exit code.

    Raises:
        UserError: something that the person at the terminal can mend.
    """
    home = Home(config.home)
    home.load_or_create_key()
    with ExitStack() as stack:
        stack.enter_context(home.locked(os.environ))
        file = _log_file(home, config.log)
        if file is not None:
            stack.callback(file.close)
        terminal = stack.enter_context(Terminal(config.log, sys.stdout, sys.stderr, file))
        _log_to(terminal, config.log)
        try:
            start: Callable[..., Awaitable[int]] = run
            return trio.run(start, config, terminal.show)
        except BaseExceptionGroup as group:
            error = _only_user_error(group)
            if error is None:
                raise
            raise error from None
        finally:
            home.remove_sockets()


def _log_file(home: Home, config: LogConfig) -> LogFile | None:
    return LogFile(home.path / config.file, config.max_mb, config.keep) if config.file else None


def _log_to(terminal: Terminal, config: LogConfig) -> None:
    level = config.level.upper()
    line = "%(message)s" if config.format == "json" else "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler = TerminalHandler(terminal)
    handler.setFormatter(LineFormatter(line))
    logging.basicConfig(level=level, handlers=[handler])
    # Both log every byte of an address or a served request, and what a peer does wrong at full length.
    # What matters of them we log ourselves; without a handler Python would print theirs as they are.
    network = logging.getLogger("libp2p")
    network.addHandler(logging.NullHandler())
    network.propagate = level == "DEBUG"
    logging.getLogger("multiaddr").setLevel(logging.WARNING)
