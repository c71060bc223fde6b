"""A visitor who does not read is given up; one who reads slowly is not."""

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair

from shoal.node.web.visitor import PATIENCE, PIECE, Visitor


def test_a_visitor_who_takes_nothing_is_given_up_in_time() -> None:
    async def main() -> None:
        ours, theirs = lockstep_stream_pair()
        with pytest.raises(trio.BrokenResourceError):
            await Visitor(ours).send_all(bytes(3 * PIECE))
        assert trio.current_time() == pytest.approx(PATIENCE)
        with pytest.raises(trio.BrokenResourceError):
            await theirs.send_all(b"x")

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_visitor_who_takes_a_piece_now_and_then_gets_all_in_order() -> None:
    async def main() -> None:
        ours, theirs = lockstep_stream_pair()
        data = bytes(range(256)) * (5 * PIECE // 256)

        async def send() -> None:
            await Visitor(ours).send_all(data)
            await Visitor(ours).aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            taken = bytearray()
            while piece := await theirs.receive_some(PIECE):
                taken += piece
                await trio.sleep(PATIENCE - 1)
        assert taken == data

    trio.run(main, clock=MockClock(autojump_threshold=0))
