"""Headless: pages in a Chromium without a window, driven over its DevTools protocol.

    Browser --pipe, JSON--> chromium --> Tab: open, ask, photograph; what went wrong in the page

No package for it: the protocol is JSON between zero bytes on two pipes. Reference: Chrome DevTools Protocol,
https://chromedevtools.github.io/devtools-protocol/.
"""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

PATIENCE: Final = 60.0
"""Seconds for an answer; a browser that needs longer hangs."""
NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
FLAGS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
)


def find_chromium() -> str:
    """Return the path of a Chromium; empty where none is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), "")


class Browser:
    """A Chromium of our own, with an empty profile; a context manager."""

    def __init__(self, path: str) -> None:
        """Start it."""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command_in, self._commands = os.pipe()
        self._answers, answer_out = os.pipe()
        flags = " ".join([*FLAGS, f"--user-data-dir={self._profile.name}"])
        # It reads file 3 and writes file 4.
        line = f'exec "$0" {flags} about:blank 3</dev/fd/{command_in} 4>/dev/fd/{answer_out}'
        self._process = subprocess.Popen(
            ["sh", "-c", line, path],
            pass_fds=(command_in, answer_out),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "TZ": "UTC"},
        )
        os.close(command_in)
        os.close(answer_out)
        self._buffer = b""
        self._asked = 0
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> "Browser":
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        with suppress(OSError, TimeoutError):
            self.ask("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._commands)
        os.close(self._answers)
        self._profile.cleanup()

    def ask(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Give a command, and return its result.

        Raises:
            TimeoutError: it does not answer.
            RuntimeError: it refused.
        """
        self._asked += 1
        message: dict[str, Any] = {"id": self._asked, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        left = memoryview(json.dumps(message).encode() + b"\0")
        while left:
            left = left[os.write(self._commands, left) :]
        while True:
            found = self._read()
            if found.get("id") == self._asked:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']['message']}")
                return found["result"]  # type: ignore[no-any-return]  # as the protocol says
            self._events.append(found)

    def take_events(self, session: str) -> list[dict[str, Any]]:
        """Return what a page told since the last call."""
        mine = [event for event in self._events if event.get("sessionId") == session]
        self._events = [event for event in self._events if event.get("sessionId") != session]
        return mine

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._answers, 1 << 20) if ready else b""
            if not piece:
                raise TimeoutError("the browser does not answer")
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)  # type: ignore[no-any-return]  # an object, as the protocol says


class Tab:
    """One page."""

    def __init__(self, browser: Browser, size: tuple[int, int], *, is_dark: bool = False) -> None:
        """Open an empty one, of this width and height in pixels."""
        self._browser, self._width = browser, size[0]
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        self._target = target
        self._session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size[0] < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give a command for this page."""
        return self._browser.ask(method, self._session, **parameters)

    def open(self, url: str) -> None:
        """Go to an address."""
        self.command("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Return what an expression, or the promise that it is, comes to.

        Raises:
            RuntimeError: it failed.
        """
        found = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until an expression is true; it is looked at after every drawn picture."""
        self.value(
            "new Promise((done) => { const look = () => { let is = false; try { is = (" + condition + "); }"
            " catch { } is ? done(true) : setTimeout(look, 20); }; look(); })"
        )

    def photograph(self, max_height: int) -> bytes:
        """Return a PNG of the page from its top, at most so many pixels high."""
        height = min(max_height, int(self.value("document.documentElement.scrollHeight")))
        clip = {"x": 0, "y": 0, "width": self._width, "height": height, "scale": 1}
        shot = self.command("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def complaints(self) -> Sequence[str]:
        """Return the errors and warnings that the page has given since the last call, one line each."""
        self.value("1")  # what was told before this answer has come
        found = []
        for event in self._browser.take_events(self._session):
            told = event.get("params", {})
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    found.append(str(told["exceptionDetails"].get("exception", {}).get("description")))
                case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                    found.append(str([each.get("value") for each in told["args"]]))
                case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                    found.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        return found

    def close(self) -> None:
        """End the page."""
        self._browser.ask("Target.closeTarget", targetId=self._target)
