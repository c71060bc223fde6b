"""Announcements: only records that their authors signed, and that are news, are taken and handed on."""

import pytest
import trio
from hosts import config, link, wait_for

from shoal.crypto.keys import new_key, peer_id_of
from shoal.gossip.host import Announced
from shoal.gossip.messages import Presence, Record, Records
from shoal.gossip.net.announcements import MAX_AUTHORS, Gate
from shoal.gossip.net.libp2p_host import open_host
from shoal.gossip.wire import Codec

KEY, OTHER = new_key(), new_key()
ME = peer_id_of(bytes(KEY.verify_key))


def sealed(sequence: int, swarm: str = "shoal") -> bytes:
    presence = Presence(b"", "", 0, b"", b"", "helping", 12.0)
    record = Record(ME, sequence, presence)
    return Codec(KEY, swarm, 0).encode_announcement(Records(((record, 0.0),)))


def test_a_record_is_admitted_once_and_never_an_older_one() -> None:
    gate = Gate("shoal")
    assert gate.admits(ME, sealed(5))
    assert not gate.admits(ME, sealed(5))
    assert not gate.admits(ME, sealed(4))
    assert gate.admits(ME, sealed(6))


@pytest.mark.parametrize(
    "noise",
    [b"", b"noise", bytes(100_001), sealed(7, "another"), sealed(7)[:-1] + b"x", sealed(7) + b"x"],
    ids=range(6),
)
def test_noise_is_not_admitted(noise: bytes) -> None:
    assert not Gate("shoal").admits(ME, noise)


def test_a_record_of_somebody_else_is_not_admitted() -> None:
    assert not Gate("shoal").admits(peer_id_of(bytes(OTHER.verify_key)), sealed(7))


def test_what_is_remembered_of_authors_is_bounded() -> None:
    gate = Gate("shoal")
    for number in range(MAX_AUTHORS + 5):
        gate._newest[f"author {number}"] = 1  # type: ignore[index]
    gate.admits(ME, sealed(1))
    gate._newest.popitem(last=False)
    assert gate.admits(ME, sealed(2))
    assert len(gate._newest) <= MAX_AUTHORS + 5


def test_noise_is_not_forwarded_and_records_are() -> None:
    key = new_key()

    async def main() -> None:
        with trio.fail_after(60):
            async with (
                open_host(key, config()) as author,
                open_host(new_key(), config()) as between,
                open_host(new_key(), config()) as far,
            ):
                await link(author, between)
                await link(between, far)
                codec = Codec(key, "shoal", 0)
                presence = Presence(b"", "", 0, b"", b"", "helping", 12.0)
                sequence = 0
                while True:  # until the mesh has grown
                    sequence += 1
                    record = Record(author.me, sequence, presence)
                    author.announce_nowait(b"noise %d" % sequence)
                    author.announce_nowait(codec.encode_announcement(Records(((record, 0.0),))))
                    with trio.move_on_after(1):
                        heard = await wait_for(far, Announced)
                        break
                assert heard.via == between.me
                assert b"noise" not in heard.sealed
                assert (await wait_for(between, Announced)).via == author.me

    trio.run(main)
