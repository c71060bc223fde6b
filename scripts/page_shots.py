"""Photograph the status page in the states that docs/page.md shows, and measure how fast it draws a crowd.

    python scripts/page_shots.py                    # writes docs/page/*.png
    python scripts/page_shots.py --only alone,dark --to /tmp/page
    python scripts/page_shots.py --measure          # 200 peers, 10,000 rounds: milliseconds

The page is served by the same server as a node's, over statuses that are made up (scripts/page_scenes.py).
Needs Chromium, and Pillow to make the pictures small: pip install -e '.[testnet]' brings it.
"""

import argparse
import io
import sys
import tempfile
import threading
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec
import trio

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from scripts.headless import Browser, Tab, find_chromium  # noqa: E402
from scripts.page_scenes import RUN, SCENES, Scene  # noqa: E402
from shoal.node.daemon.journal import Event  # noqa: E402
from shoal.node.storage.database import Store  # noqa: E402
from shoal.node.web.events import kind_of  # noqa: E402
from shoal.node.web.past import Past  # noqa: E402
from shoal.node.web.server import make_app, serve_http  # noqa: E402

DRAWN: Final = (
    "Number(document.body.dataset.drawn) >= 1 && document.querySelectorAll('#events li').length > 0"
)
"""In the page: it has been drawn, and the events have come."""
COLORS: Final = 128
"""Of a picture; a page has few."""
MEASURED: Final = """JSON.stringify({
  first: performance.getEntriesByName('first-drawn')[0]?.startTime ?? null,
  again: performance.getEntriesByName('draw').at(-1).duration,
  nodes: document.getElementsByTagName('*').length,
})"""


class _Run:
    run = bytes.fromhex(RUN)


def _publish(past: Past, event: Event) -> None:
    past.events.publish(kind_of(event.event), msgspec.json.encode(event))


class Stage(AbstractContextManager["Stage"]):
    """Serves one scene, and what it is changed to, from a thread."""

    def __init__(self, scene: Scene) -> None:
        """Serve nothing yet."""
        self.url = ""
        self.scene = scene
        self._ready, self._folder = threading.Event(), tempfile.TemporaryDirectory()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,))

    async def _serve(self) -> None:
        self._token, self._scope = trio.lowlevel.current_trio_token(), trio.CancelScope()
        scene = self.scene
        with closing(Store(Path(self._folder.name) / "shoal.db")) as store:
            store.add_rounds(RUN, scene.rounds)
            self._past = past = Past(store, _Run())
            for event in scene.events:
                _publish(past, event)
            app = make_app(lambda: self.scene.status, None, past=past)
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self.url = await nursery.start(partial(serve_http, app, "127.0.0.1:0"))
                    self._ready.set()

    def tell(self, event: Event) -> None:
        """Have an event happen."""
        self._token.run_sync_soon(_publish, self._past, event)

    def __enter__(self) -> "Stage":
        """Begin to serve."""
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join()
        self._folder.cleanup()


def small(png: bytes) -> bytes:
    """Return a picture with few colours."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    made = io.BytesIO()
    image.save(made, "PNG", optimize=True)
    return made.getvalue()


def opened(browser: Browser, stage: Stage, scene: Scene) -> Tab:
    """Return the page of a scene once it is drawn."""
    tab = Tab(browser, scene.size, is_dark=scene.is_dark)
    tab.open(stage.url + "/")
    tab.wait_for(DRAWN)
    return tab


def shoot(browser: Browser, name: str) -> tuple[bytes, list[str]]:
    """Return the picture of a scene, and what the page complained about."""
    scene = SCENES[name]()
    with Stage(scene) as stage:
        tab = opened(browser, stage, scene)
        picture = small(tab.photograph(scene.height))
        complaints = list(tab.complaints())
        tab.close()
    return picture, complaints


def measure(browser: Browser) -> str:
    """Return how long the page took for a crowd, as JSON: milliseconds, and elements."""
    scene = SCENES["200-peers"]()
    with Stage(scene) as stage:
        tab = opened(browser, stage, scene)
        found = str(tab.value(MEASURED))
        tab.close()
    return found


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(SCENES), help="names of scenes, with commas between")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "page", help="the folder of the pictures")
    parser.add_argument("--measure", action="store_true", help="print figures instead, as JSON")
    arguments = parser.parse_args()
    path = find_chromium()
    if not path:
        print("no Chromium is installed: apt-get install chromium", file=sys.stderr)
        return 1
    with Browser(path) as browser:
        if arguments.measure:
            print(measure(browser))
            return 0
        arguments.to.mkdir(parents=True, exist_ok=True)
        failed = False
        for name in arguments.only.split(","):
            picture, complaints = shoot(browser, name)
            (arguments.to / f"{name}.png").write_bytes(picture)
            print(f"{name}.png  {len(picture) / 1000:.0f} kB", *complaints, sep="\n  ")
            failed |= bool(complaints)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
