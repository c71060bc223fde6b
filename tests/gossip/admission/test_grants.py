"""No grant gives more than its parent, and each is used by whom it is for."""

import msgspec
import pytest
from rosters import DAY, NOW, World, key, public

from shoal.gossip.admission.errors import BadGrant
from shoal.gossip.admission.grants import Redeem, check_redeem

WORLD = World(delegates=3)
PARENT = WORLD.grant("carl", "parent", uses=3, depth=2, not_after=NOW + DAY, member_until=NOW + 9 * DAY)


def test_a_bearer_grant_is_used_by_whoever_holds_its_key() -> None:
    grant = WORLD.grant("carl", "token", uses=2)
    for subject in ("dora", "emil"):
        check_redeem(WORLD.redeem(subject, "token", grant), WORLD.charter)


def test_a_named_grant_is_used_by_whom_it_names() -> None:
    grant = WORLD.grant("carl", "dora", is_named=True)
    check_redeem(WORLD.redeem("dora", "dora", grant), WORLD.charter)
    with pytest.raises(BadGrant, match="names another peer"):
        check_redeem(WORLD.redeem("emil", "dora", grant), WORLD.charter)


def test_without_the_key_nobody_uses_a_grant() -> None:
    with pytest.raises(BadGrant, match="does not verify"):
        check_redeem(WORLD.redeem("mallory", "mallory", WORLD.grant("carl", "token")), WORLD.charter)


def test_nobody_is_made_a_member_without_a_word_of_its_own() -> None:
    grant = WORLD.grant("carl", "token")
    text = Redeem((grant,), public("dora"), NOW)
    with pytest.raises(BadGrant, match="does not verify"):
        check_redeem(text.signed_by(key("token"), key("mallory")), WORLD.charter)


def test_a_grant_is_not_used_after_its_time() -> None:
    with pytest.raises(BadGrant, match="too late"):
        check_redeem(
            WORLD.redeem("dora", "token", WORLD.grant("carl", "token"), at=NOW + DAY + 1), WORLD.charter
        )


def test_a_chain_passes_an_invite_on() -> None:
    child = WORLD.grant("dora", "child", uses=3, depth=1, parent=PARENT, member_until=NOW + 9 * DAY)
    last = WORLD.grant("emil", "last", uses=2, parent=child, member_until=NOW + DAY)
    check_redeem(WORLD.redeem("fred", "last", PARENT, child, last), WORLD.charter)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"uses": 4}, "wider"),
        ({"depth": 2}, "further than|wider"),
        ({"not_after": NOW + DAY + 1}, "longer than its parent"),
        ({"member_until": NOW + 10 * DAY}, "longer membership"),
        ({"member_until": 0}, "longer membership"),
    ],
)
def test_no_grant_is_wider_than_its_parent(change: dict[str, int], why: str) -> None:
    fits = {"uses": 3, "depth": 1, "member_until": NOW + 9 * DAY}
    child = WORLD.grant("dora", "child", parent=PARENT, **{**fits, **change})  # type: ignore[arg-type]
    with pytest.raises(BadGrant, match=why):
        check_redeem(WORLD.redeem("emil", "child", PARENT, child), WORLD.charter)


def test_a_chain_is_one_of_parents() -> None:
    stray = WORLD.grant("dora", "child", member_until=NOW + DAY)
    with pytest.raises(BadGrant, match="no chain"):
        check_redeem(WORLD.redeem("emil", "child", PARENT, stray), WORLD.charter)
    child = WORLD.grant("dora", "child", parent=PARENT, member_until=NOW + DAY)
    with pytest.raises(BadGrant, match="no beginning"):
        check_redeem(WORLD.redeem("emil", "child", child), WORLD.charter)


@pytest.mark.parametrize("delegates", [0, 1, 2])
def test_a_charter_says_how_far_invites_are_passed_on(delegates: int) -> None:
    world = World(delegates=delegates)
    grant = world.grant("carl", "token", depth=delegates)
    with pytest.raises(BadGrant, match="passed on"):
        check_redeem(world.redeem("dora", "token", grant), world.charter)


@pytest.mark.parametrize("mode", ["closed", "open"])
def test_only_a_run_by_invite_takes_invites(mode: str) -> None:
    world = World(mode=mode)  # type: ignore[arg-type]
    with pytest.raises(BadGrant, match="takes no invites"):
        check_redeem(world.redeem("dora", "token", world.grant("carl", "token")), world.charter)


@pytest.mark.parametrize("field", ["uses", "depth", "not_after", "key", "issuer", "serial"])
def test_an_altered_grant_is_signed_by_nobody(field: str) -> None:
    grant = WORLD.grant("carl", "token", uses=2, depth=1)
    value = {"key": public("mallory"), "issuer": public("mallory"), "serial": bytes([9]) * 16}.get(field, 2)
    altered = msgspec.structs.replace(grant, **{field: value if field != "uses" else 3})
    if field == "not_after":
        altered = msgspec.structs.replace(grant, not_after=NOW + 2 * DAY)
    holder = "mallory" if field == "key" else "token"
    with pytest.raises(BadGrant, match="does not verify"):
        check_redeem(WORLD.redeem("dora", holder, altered), WORLD.charter)


def test_ids_are_golden() -> None:
    """Another implementation must find the same: docs/wire.md says how."""
    assert (
        WORLD.redeem("dora", "token", WORLD.grant("carl", "token")).id.hex()
        == "7d5e6e273ddab0a2965939b3df4e3c36a90ff5c5342d2b15bf816b890967fe57"
    )
