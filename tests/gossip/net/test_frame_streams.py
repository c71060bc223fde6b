"""What is told of a bulk frame while it is on its way."""

from types import SimpleNamespace
from typing import Any

import trio
from trio.testing import MockClock

from shoal.crypto.keys import PeerId
from shoal.gossip.deadlines import BEAT
from shoal.gossip.events import Arriving
from shoal.gossip.net.frame_streams import LaneService
from shoal.gossip.net.peers import Events, Peer, Reading

PEER = PeerId("peer")


def test_a_frame_that_takes_longer_than_a_beat_is_told_of_as_far_as_it_has_come() -> None:
    async def main() -> None:
        events, stream, reading = Events(), SimpleNamespace(taken=0), Reading()
        service = LaneService(None, events, None)  # type: ignore[arg-type]
        told: list[Any] = []

        async def listen() -> None:
            while True:
                told.append(await events.next())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(service._watch, Peer(PEER), stream, reading)
            nursery.start_soon(listen)
            # A frame of 3000, of which nothing comes for a while; one of 10 at once; a third of the next.
            for frames, taken in ((0, 1000), (0, 2000), (0, 2000), (3010, 3010), (3010, 3510), (3010, 4010)):
                reading.taken, stream.taken = frames, taken
                await trio.sleep(1.01 * BEAT)
            nursery.cancel_scope.cancel()
        assert told == [Arriving(PEER, n_bytes) for n_bytes in (1000, 2000, 500, 1000)]

    trio.run(main, clock=MockClock(autojump_threshold=0))
