"""Bodies: the same values everywhere, the unreadable counted, large ones in slices."""

import pytest
from lockstep import names, run_round

import shoal.methods.coding.gathered
from shoal.gossip.errors import RemoteViolation
from shoal.methods.coding.gathered import Bodies, exchange, read_all, unpack


def read(body: bytes) -> int:
    if not body.isdigit():
        raise RemoteViolation("no number")
    return int(body)


def test_a_bad_body_is_left_out_alike_and_counted() -> None:
    peers = names(3)
    bodies = dict(zip(peers, (b"1", b"x", b"3"), strict=True))
    ended = run_round({peer: exchange(bodies[peer], read, tag="t") for peer in peers})
    expected = [Bodies(((peers[0], 1), (peers[2], 3)), refused=1, me=peer) for peer in peers]
    assert list(ended.results.values()) == expected
    assert expected[0].peers == (peers[0], peers[2])


def test_large_bodies_travel_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shoal.methods.coding.gathered, "SLICE_BYTES", 4)
    peers = names(2)
    bodies = {peers[0]: b"123456789", peers[1]: b"7"}
    ended = run_round({peer: exchange(bodies[peer], read, tag="t", bound=11) for peer in peers})
    assert ended.results[peers[1]].values == ((peers[0], 123456789), (peers[1], 7))
    assert [len(asks) for asks in ended.asked] == [2, 2, 2]


def test_who_dies_between_slices_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shoal.methods.coding.gathered, "SLICE_BYTES", 4)
    peers = names(3)
    ended = run_round(
        {peer: exchange(b"12345", read, tag="t", bound=8) for peer in peers}, drops={peers[1]: 1}
    )
    assert {bodies.peers for bodies in ended.results.values()} == {(peers[0], peers[2])}


def test_our_own_body_beyond_the_bound_is_our_bug() -> None:
    with pytest.raises(ValueError, match="expect at most 2"):
        next(exchange(b"123", read, tag="t", bound=2))


def test_msgpack_of_another_form_is_refused() -> None:
    def decode(body: bytes) -> int:
        raise RecursionError

    with pytest.raises(RemoteViolation, match="malformed"):
        unpack(b"", decode)
    assert read_all([], decode, names(1)[0]) == Bodies((), 0, names(1)[0])
