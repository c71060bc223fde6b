"""A charter has one text, and refuses what nobody could govern by."""

import pytest
from rosters import World, public

from shoal.gossip.admission.charter import OPEN, Charter, canonical, key_text, parse
from shoal.gossip.admission.errors import BadCharter


def test_a_charter_comes_back_from_its_text() -> None:
    charter = World("invite", ("ann", "bob", "eve"), 2, 1).charter
    assert parse(str(charter)) == charter


def test_an_empty_text_is_open_and_governed_by_nobody() -> None:
    assert parse("") == parse("open") == OPEN
    assert canonical("open") == "" == str(Charter())


def test_keys_in_another_order_are_the_same_charter() -> None:
    """Else two spellings of one charter would be two runs."""
    ann, bob = (key_text(public(name)) for name in ("ann", "bob"))
    assert canonical(f"closed:02:0:{ann},{bob}") == canonical(f"closed:2:0:{bob},{ann}")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("closed", "not a charter"),
        ("secret:1:1:x", "not a charter"),
        ("closed:1:1:", "no founder's key"),
        (f"closed:2:1:{key_text(public('ann'))}", "2 of 1 founders"),
        (f"closed:0:1:{key_text(public('ann'))}", "0 of 1 founders"),
        (f"closed:1:4:{key_text(public('ann'))}", "passed on 0 to 3"),
        (f"closed:-1:1:{key_text(public('ann'))}", "small numbers"),
        (f"closed:1:1:{key_text(public('ann'))[:-1]}", "no founder's key"),
        (f"closed:1:1:{','.join(key_text(public(str(i))) for i in range(17))}", "at most 16"),
        ("closed:1:1:" + "1" * 5000, "not a charter"),
    ],
)
def test_what_is_no_charter_is_said(text: str, why: str) -> None:
    with pytest.raises(BadCharter, match=why):
        parse(text)


def test_only_an_open_run_does_without_founders() -> None:
    with pytest.raises(BadCharter, match="shoal found"):
        Charter(mode="closed")
