"""Doors: whom a node links with when more come than it has places."""

from shoal.crypto.keys import PeerId
from shoal.gossip.admission.doors import (
    HELLO_DUE,
    SILENT_PER_ADDRESS,
    WAITING,
    WAITING_SECONDS,
    Doors,
    block_of,
)

KEPT = {PeerId("colleague"), PeerId("other colleague")}


def doors(places: int = 64) -> Doors[str]:
    return Doors(places, KEPT)


def enter(made: Doors[str], name: str, host: str, now: float, *, says_hello: bool = False) -> list[str]:
    """Let a link in, closing what is to be closed for it."""
    out = made.enter(name, PeerId(name), host, now, dialled=False)
    for each in out:
        made.leave(each)
    if says_hello and name not in out:
        out += made.hello(name, now)
    return out


def flood(made: Doors[str], count: int, now: float = 0.0, *, says_hello: bool, blocks: int = 200) -> None:
    for number in range(count):
        host = f"203.0.{number % blocks}.{number // blocks + 1}"
        enter(made, f"liar {number}", host, now + number / 1000, says_hello=says_hello)


def test_prefixes_are_of_24_and_48_bits_and_circuits_share_one() -> None:
    assert block_of("192.0.2.77") == block_of("192.0.2.1") == "192.0.2.0/24"
    assert block_of("2001:db8:1:2::1") == block_of("2001:db8:1:ffff::9") == "2001:db8:1::/48"
    assert block_of("") == ""


def test_keys_without_a_hello_take_half_of_the_places() -> None:
    made = doors()
    flood(made, 500, says_hello=False)
    assert sum(made.stays(f"liar {n}") for n in range(500)) == 32
    assert len(made) <= 64 + WAITING


def test_places_are_held_for_the_kept_however_many_strangers_come() -> None:
    for says_hello in (False, True):
        made = doors()
        flood(made, 500, says_hello=says_hello)
        assert sum(made.stays(f"liar {n}") for n in range(500)) <= 48
        for each in sorted(KEPT):
            enter(made, each, "203.0.0.9", 9.0)
            assert made.stays(each)


def test_a_kept_peer_takes_the_place_of_a_stranger_where_all_are_taken_and_never_that_of_another() -> None:
    made = doors(2)
    enter(made, "colleague", "198.51.100.1", 0.0, says_hello=True)
    enter(made, "stranger", "198.51.100.2", 1.0, says_hello=True)
    assert enter(made, "other colleague", "198.51.100.3", 2.0) == ["stranger"]
    assert enter(made, "late", "192.0.2.1", 3.0) == []
    assert not made.stays("late")
    assert made.stays("colleague")


def test_the_youngest_of_the_fullest_prefix_goes() -> None:
    made = doors(4)
    for number, host in enumerate(["203.0.113.1", "203.0.113.2", "198.51.100.1"]):
        enter(made, f"{number}", host, float(number), says_hello=True)
    assert enter(made, "of the fullest", "203.0.113.9", 3.0) == []
    assert not made.stays("of the fullest")
    made.leave("of the fullest")
    assert enter(made, "of another", "192.0.2.1", 4.0) == ["1"]
    assert made.stays("of another")


def test_one_address_has_few_silent_links_and_this_machine_as_many_as_there_are() -> None:
    made = doors()
    for number in range(20):
        enter(made, f"far {number}", "203.0.113.7", float(number) / 100)
        enter(made, f"near {number}", "127.0.0.1", float(number) / 100)
    assert sum(made.stays(f"far {n}") for n in range(20)) == SILENT_PER_ADDRESS
    assert sum(made.stays(f"near {n}") for n in range(20)) == 20


def test_a_link_whose_hello_is_overdue_goes_first() -> None:
    made = doors(4)
    for number, host in enumerate(["203.0.113.1", "198.51.100.1"]):
        enter(made, f"{number}", host, float(number))
    assert enter(made, "new", "203.0.113.2", HELLO_DUE + 0.5) == ["0"]
    assert made.stays("new")


def test_who_shows_an_invite_is_let_in_from_the_waiting_room_and_others_are_not() -> None:
    made = doors(4)
    for number in range(4):
        enter(made, f"{number}", "203.0.113.1", 0.0, says_hello=True)
    for name in ("invited", "not invited"):
        assert enter(made, name, "203.0.113.1", 1.0) == []
        assert not made.stays(name)
    assert made.hello("not invited", 1.1) == ["not invited"]
    assert made.hello("invited", 1.1, is_invited=True) == []
    assert made.stays("invited")


def test_the_waiting_room_is_bounded_and_lets_nobody_stay() -> None:
    made = doors()
    flood(made, 500, says_hello=True, blocks=1)
    assert len(made) == 48 + WAITING
    assert enter(made, "hasty", "203.0.0.1", 0.4) == ["hasty"]
    out = enter(made, "patient", "203.0.0.1", 0.5 + WAITING_SECONDS)
    assert out != ["patient"]
    assert len(out) == 1


def test_our_own_dials_are_not_counted_as_silent_and_end_where_all_is_full() -> None:
    made = doors(8)
    for number in range(8):
        assert made.may_dial(PeerId("anybody"))
        assert made.enter(f"{number}", PeerId(f"{number}"), "203.0.113.1", 0.0, dialled=True) == []
    assert not made.may_dial(PeerId("anybody"))
    assert not made.may_dial(None)
    assert made.may_dial(PeerId("colleague"))
