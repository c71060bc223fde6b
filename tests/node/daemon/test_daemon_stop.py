"""The end of a node as those see it who asked for it."""

from pathlib import Path

import httpx
import trio
from fake_node import make_status

from shoal.node.web.server import make_app, serve_http


class Ending:
    """A node that has nothing to do before it ends."""

    def __init__(self, end: trio.CancelScope) -> None:
        self.stop = end.cancel

    def pause(self, seconds: float | None) -> None:
        raise AssertionError

    def resume(self) -> None:
        raise AssertionError

    def reset_trust(self) -> None:
        raise AssertionError

    def add_bootstrap(self, address: str) -> None:
        raise AssertionError

    def remove_bootstrap(self, address: str) -> None:
        raise AssertionError


def test_who_asks_a_node_to_stop_gets_a_whole_answer_however_fast_it_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")

    async def main() -> None:
        async with trio.open_nursery() as client, trio.open_nursery() as node:
            await node.start(serve_http, make_app(make_status, Ending(node.cancel_scope)), f"unix:{path}")
            client.start_soon(ask)

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=path), timeout=60) as client:
            answer = await client.post("http://localhost/stop")
            assert (answer.status_code, answer.text) == (202, "stopping\n")

    for _ in range(5):
        trio.run(main)
