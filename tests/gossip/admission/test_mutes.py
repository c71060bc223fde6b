"""Mutes and named faults: what a node keeps of conveners that did not keep to what they offered."""

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.marks import MAX_MARKED
from shoal.gossip.admission.mutes import MAX_DOUBLINGS, ROUNDS, Mutes
from shoal.gossip.admission.named_faults import MAX_NAMED, NamedFaults

A, B = PeerId("a"), PeerId("b")


def test_a_mute_holds_for_twenty_rounds_and_twice_as_long_every_time() -> None:
    mutes = Mutes()
    for doublings in range(MAX_DOUBLINGS + 2):
        mutes.add(A, 100)
        lasts = ROUNDS * 2 ** min(doublings, MAX_DOUBLINGS)
        assert mutes.at(100 + lasts - 1) == {A}
        assert mutes.at(100 + lasts) == frozenset()


def test_only_the_first_mute_is_taken_back_and_it_counts() -> None:
    mutes = Mutes()
    mutes.add(A, 0)
    mutes.excuse(A)
    mutes.excuse(B)
    assert mutes.at(1) == frozenset()
    mutes.add(A, 1)
    mutes.excuse(A)
    assert mutes.at(2 * ROUNDS) == {A}


def test_mutes_are_bounded_and_the_one_that_ends_first_goes() -> None:
    mutes = Mutes()
    for number in range(MAX_MARKED + 1):
        mutes.add(PeerId(f"peer{number}"), number)
    assert len(mutes.at(0)) == MAX_MARKED
    assert PeerId("peer0") not in mutes.at(0)


def test_faults_are_counted_by_peer_and_reason_and_the_last_one_comes_first() -> None:
    faults = NamedFaults()
    for peer, reason, now in ((A, "x", 1.0), (B, "x", 2.0), (A, "x", 3.0), (B, "y", 4.0)):
        faults.add(peer, reason, now)
    assert [(each.peer, each.reason, each.count, each.last) for each in faults.newest_first()] == [
        (B, "y", 1, 4.0),
        (A, "x", 2, 3.0),
        (B, "x", 1, 2.0),
    ]


def test_named_faults_are_bounded() -> None:
    faults = NamedFaults()
    for number in range(MAX_NAMED + 5):
        faults.add(PeerId(f"peer{number}"), "x", float(number))
    assert len(faults.newest_first()) == MAX_NAMED
    assert faults.newest_first()[-1].peer == "peer5"
