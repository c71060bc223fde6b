"""NewcomerWaits: a node waits for newcomers alone for at most a tenth of its time."""

from shoal.gossip.admission.newcomer_waits import DEBT, MOST, SHARE, NewcomerWaits


def test_however_many_keys_make_a_node_wait_it_loses_a_tenth_of_its_time() -> None:
    waits, now, lost = NewcomerWaits(), 0.0, 0.0
    while now < 1000.0:
        now += 0.1  # a round
        if waits.may_wait(now):
            now, lost = now + 0.5, lost + 0.5  # each with another key
            waits.charge(0.5, now)
    assert lost <= SHARE * now + MOST + 0.5


def test_debts_are_bounded_and_so_is_what_is_saved_up() -> None:
    waits = NewcomerWaits()
    waits.charge(1e9, 0.0)
    assert not waits.may_wait(DEBT / SHARE - 1.0)
    assert waits.may_wait(DEBT / SHARE + 1.0)
    waits.may_wait(1e9 - 1.0)
    waits.charge(MOST + 0.1, 1e9)
    assert not waits.may_wait(1e9), "what was not used for long is not saved"
