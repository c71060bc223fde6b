"""Edicts count with enough distinct founders behind them, and travel as text."""

import msgspec
import pytest
from rosters import World, key, public

from shoal.gossip.admission.edicts import Edict, edict_of
from shoal.gossip.admission.errors import BadEdict

WORLD = World()
FOUNDERS = WORLD.charter.first_founders


def test_an_edict_comes_back_from_its_text() -> None:
    edict = WORLD.edict("ban", "mallory", until=5)
    assert edict_of(edict.text()) == edict
    wrapped = "\n".join(edict.text()[i : i + 60] for i in range(0, len(edict.text()), 60))
    assert edict_of(wrapped) == edict


def test_a_founder_adds_a_signature_to_what_another_signed() -> None:
    part = edict_of(WORLD.edict("admit", "carl", by=("ann",)).text())
    with pytest.raises(BadEdict, match="1 of the 2"):
        part.check(FOUNDERS)
    part.signed_by(key("eve")).check(FOUNDERS)


def test_signing_twice_counts_once() -> None:
    edict = WORLD.edict("admit", "carl", by=("ann",)).signed_by(key("ann"))
    with pytest.raises(BadEdict, match="1 of the 2"):
        edict.check(FOUNDERS)
    (signature,) = edict.signatures
    twice = msgspec.structs.replace(edict, signatures=(signature, signature))
    with pytest.raises(BadEdict, match="twice"):
        twice.check(FOUNDERS)


def test_a_stranger_that_signs_along_spoils_it() -> None:
    with pytest.raises(BadEdict, match="no founder"):
        WORLD.edict("admit", "carl", by=("ann", "bob", "mallory")).check(FOUNDERS)


@pytest.mark.parametrize(
    "change",
    [{"subject": public("mallory")}, {"verb": "ban"}, {"epoch": 2}, {"until": 9}, {"reason": "x"}],
)
def test_an_altered_edict_is_signed_by_nobody(change: dict[str, object]) -> None:
    altered = msgspec.structs.replace(WORLD.edict("admit", "carl"), **change)
    with pytest.raises(BadEdict, match="does not verify"):
        altered.check(FOUNDERS)


def test_new_founders_must_have_signed() -> None:
    by_the_old = WORLD.change_founders("fay", "gus", threshold=1, former=FOUNDERS, by=("ann", "bob"))
    with pytest.raises(BadEdict, match="each new founder"):
        by_the_old.check(FOUNDERS)
    by_the_old.signed_by(key("fay"), key("gus")).check(FOUNDERS)


@pytest.mark.parametrize("threshold", [0, 3])
def test_founders_that_could_not_govern_are_none(threshold: int) -> None:
    by = ("ann", "bob", "fay", "gus")
    edict = WORLD.change_founders("fay", "gus", threshold=threshold, former=FOUNDERS, by=by)
    with pytest.raises(BadEdict, match="a threshold that they can reach"):
        edict.check(FOUNDERS)


@pytest.mark.parametrize("text", ["", "shoal-edict-", "shoal-edict-aaaa", "shoal-edict-ä", "x" * 9000])
def test_other_text_is_no_edict(text: str) -> None:
    with pytest.raises(BadEdict):
        edict_of(text)


def test_a_cut_text_is_no_edict() -> None:
    text = WORLD.edict("admit", "carl").text()
    for cut in range(20, len(text), 37):
        with pytest.raises(BadEdict):
            edict_of(text[:cut])


def test_an_edict_with_one_signature_has_about_300_characters() -> None:
    """It is copied by people, from a mail or a chat."""
    assert len(WORLD.edict("admit", "carl", by=("ann",)).text()) < 450


def test_ids_are_golden() -> None:
    """Another implementation must find the same: docs/wire.md says how."""
    edict = Edict(bytes(32), bytes([1]) * 32, 1, "ban", bytes([2]) * 32, 7, "spam")
    assert edict.id.hex() == "6a9e41e3affe1c1c64a70dfad73d884b99bc916f4f1b8903c231cad69c78bddb"
