"""Scope: what each address is, whom it is told to, and on whose word it is dialled."""

import ipaddress
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.crypto.keys import PeerId
from shoal.gossip.addresses import Endpoint, endpoint
from shoal.gossip.events import Effects, Send
from shoal.gossip.membership.nearby import Nearby
from shoal.gossip.membership.tellers import MAX_DEAD, MAX_OF_A_BLOCK, MAX_UNTRIED, MUTED, Tellers
from shoal.gossip.messages import MAX_NEAR, Near
from shoal.gossip.scope import (
    USER,
    Here,
    Scope,
    Source,
    Teller,
    for_everyone,
    may_dial,
    may_tell,
    scope_of,
    wide_block_of,
)

GOLDEN = {
    Scope.PUBLIC: (
        *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "20.0.0.1", "100.63.255.255", "100.128.0.0"),
        *("126.255.255.255", "128.0.0.0", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.0.1.1"),
        *("192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255"),
        *("2001:4860::1", "2600::1", "2a00::1", "3ffe::1"),
    ),
    Scope.SHARED: ("100.64.0.0", "100.71.3.9", "100.127.255.255"),
    Scope.PRIVATE: (
        *("10.0.0.1", "10.255.255.255", "172.16.0.1", "172.17.0.1", "172.31.255.255", "192.168.0.1"),
        *("192.168.255.255", "fc00::1", "fd12:3456::1"),
    ),
    Scope.LINK: ("169.254.0.1", "169.254.169.254", "fe80::1", "febf::1"),
    Scope.LOOPBACK: ("127.0.0.1", "127.255.255.255", "::1"),
    Scope.NEVER: (
        *("0.0.0.0", "0.1.2.3", "192.0.0.1", "192.0.2.7", "198.51.100.1", "203.0.113.1", "198.18.0.1"),
        *("192.88.99.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::ffff:10.0.0.1", "64:ff9b::1"),
        *("2002::1", "2001:db8::1", "ff02::1"),
    ),
    Scope.NAME: ("node.example", "localhost"),
}
NOWHERE = Here()
LAN = Here(
    networks=(ipaddress.ip_network("192.168.1.0/24"),),
    observed=frozenset(("20.1.2.3",)),
    own=frozenset(("192.168.1.5", "203.0.113.5")),
)


def test_the_table_has_sixty_addresses() -> None:
    assert sum(map(len, GOLDEN.values())) == 60


@pytest.mark.parametrize(
    ("host", "scope"), [(host, scope) for scope, hosts in GOLDEN.items() for host in hosts], ids=str
)
def test_each_address_has_its_scope(host: str, scope: Scope) -> None:
    assert scope_of(host) is scope
    assert for_everyone(Endpoint(host, 4710), NOWHERE) == (scope in (Scope.PUBLIC, Scope.NAME))


def test_a_laboratory_may_call_a_network_the_internet() -> None:
    lab = (ipaddress.ip_network("10.213.0.0/16"),)
    assert scope_of("10.213.4.1", lab) is Scope.PUBLIC
    assert scope_of("10.214.4.1", lab) is Scope.PRIVATE


def test_wide_prefixes_are_of_16_and_32_bits() -> None:
    assert wide_block_of("20.1.2.3") == "20.1.0.0/16"
    assert wide_block_of("2600:1:2::3") == "2600:1::/32"
    assert wide_block_of("a.example") == ""


SOURCES: tuple[Source, ...] = ("peer", "dht", "book", "mdns")
FAR, NEAR, SAME_NAT, MACHINE = (
    Teller("peer", host) for host in ("20.9.9.9", "192.168.1.40", "20.1.2.3", "127.0.0.1")
)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("20.0.0.1", (FAR, NEAR, SAME_NAT, MACHINE, Teller("dht"), Teller("book"), Teller("mdns"))),
        ("100.71.3.9", (SAME_NAT,)),
        ("192.168.1.7", (NEAR, SAME_NAT, MACHINE, Teller("book"), Teller("mdns"))),
        ("192.168.2.7", (SAME_NAT, Teller("mdns"))),
        ("10.0.0.1", (SAME_NAT, Teller("mdns"))),
        ("169.254.169.254", (Teller("mdns"),)),
        ("127.0.0.1", (MACHINE, Teller("book"))),
        ("203.0.113.1", ()),
        ("::ffff:127.0.0.1", ()),
        ("node.example", (FAR, NEAR, SAME_NAT, MACHINE, Teller("dht"), Teller("book"), Teller("mdns"))),
    ],
)
def test_on_whose_word_an_address_is_dialled(host: str, allowed: tuple[Teller, ...]) -> None:
    spot = Endpoint(host, 4710)
    tellers = (FAR, NEAR, SAME_NAT, MACHINE, *(Teller(each) for each in SOURCES))
    expected = {*allowed, *((Teller("peer"),) if FAR in allowed else ())}
    assert {each for each in tellers if may_dial(spot, each, LAN)} == expected
    assert may_dial(spot, USER, LAN), "what a person typed is dialled as it is"


@pytest.mark.parametrize(
    ("port", "host", "is_fit"),
    [
        (4710, "20.0.0.1", True),
        (80, "20.0.0.1", True),
        (443, "20.0.0.1", True),
        (22, "20.0.0.1", False),
        (1023, "20.0.0.1", False),
        (80, "192.168.1.1", False),
        (443, "node.example", True),
        (0, "20.0.0.1", False),
    ],
)
def test_ports_of_a_machines_own_services_are_not_dialled(port: int, host: str, is_fit: bool) -> None:
    assert may_dial(Endpoint(host, port), NEAR, LAN) == is_fit


def test_private_addresses_may_be_dialled_always_or_never() -> None:
    spot = Endpoint("10.0.0.1", 4710)
    assert may_dial(spot, FAR, Here(dial_private="always"))
    assert not may_dial(spot, Teller("mdns"), Here(dial_private="never"))
    assert may_dial(spot, USER, Here(dial_private="never"))


@pytest.mark.parametrize(
    ("host", "listeners"),
    [
        ("20.0.0.1", {"", "20.9.9.9", "192.168.1.40", "192.168.2.40", "20.1.2.3", "127.0.0.1"}),
        ("192.168.1.7", {"192.168.1.40", "20.1.2.3", "127.0.0.1"}),
        ("100.71.3.9", {"20.1.2.3"}),
        ("127.0.0.1", {"127.0.0.1"}),
        ("169.254.1.1", set()),
        ("203.0.113.1", set()),
    ],
)
def test_whom_an_address_is_told_to(host: str, listeners: set[str]) -> None:
    every = ("", "20.9.9.9", "192.168.1.40", "192.168.2.40", "20.1.2.3", "127.0.0.1")
    assert {each for each in every if may_tell(Endpoint(host, 4710), each, LAN)} == listeners


def test_who_links_from_an_address_of_ours_is_on_this_machine() -> None:
    for host in ("203.0.113.5", "127.0.0.9", "::1"):
        assert may_tell(Endpoint("127.0.0.1", 4710), host, LAN)
        assert may_dial(Endpoint("127.0.0.1", 4710), Teller("peer", host), LAN)
    assert not may_tell(Endpoint("127.0.0.1", 4710), "203.0.113.6", LAN)


# --- what a node tells --------------------------------------------------------------------------------

ME, A, B, C = map(PeerId, "mabc")


def told(effects: Effects) -> dict[PeerId, tuple[str, ...]]:
    return {each.peer: each.message.addresses for each in effects if isinstance(each, Send)}  # type: ignore[union-attr]


def at(host: str, peer: PeerId) -> str:
    return f"/ip4/{host}/tcp/4710/p2p/{peer}"


any_host = st.one_of(
    st.sampled_from([host for hosts in GOLDEN.values() for host in hosts if ":" not in host]),
    st.integers(0, (1 << 32) - 1).map(lambda number: str(ipaddress.IPv4Address(number))),
)


@given(hosts=st.lists(any_host, max_size=12), listener=any_host)
def test_nothing_private_is_ever_for_a_record_nor_told_to_who_is_not_near(
    hosts: list[str], listener: str
) -> None:
    nearby = Nearby(ME)
    nearby.link_up(A, listener)
    everyone, effects = nearby.set_own([at(host, ME) for host in hosts], LAN)
    for address in everyone:
        spot = endpoint(address)
        assert spot is not None
        assert scope_of(spot.host) in (Scope.PUBLIC, Scope.NAME)
    for address in told(effects).get(A, ()):
        spot = endpoint(address)
        assert spot is not None
        assert may_tell(spot, listener, LAN)
        assert address not in everyone


def test_the_nodes_of_a_machine_find_each_other_through_any_of_them() -> None:
    nearby = Nearby(ME)
    assert nearby.set_own([at("127.0.0.1", ME), at("20.0.0.1", ME)], LAN) == ((at("20.0.0.1", ME),), [])
    assert told(nearby.link_up(A, "127.0.0.1")) == {A: (at("127.0.0.1", ME),)}
    assert not nearby.take(A, Near((at("127.0.0.1", A),)))
    assert told(nearby.link_up(B, "127.0.0.1")) == {B: (at("127.0.0.1", ME),)}
    assert not nearby.link_up(C, "20.9.9.9")
    both = told(nearby.take(B, Near((at("127.0.0.1", B),))))
    assert both == {B: (at("127.0.0.1", A),), A: (at("127.0.0.1", B),)}
    assert not nearby.take(B, Near((at("127.0.0.1", B),))), "once per link and address"


def test_what_was_heard_of_a_third_is_not_told_again_nor_by_a_circuit() -> None:
    nearby = Nearby(ME)
    nearby.set_own([at("192.168.1.5", ME)], LAN)
    nearby.link_up(A, "192.168.1.40")
    nearby.link_up(B, "192.168.1.41")
    assert not nearby.take(A, Near((at("192.168.1.66", C),)))
    assert nearby.said_by(A) == ()
    assert not nearby.link_up(C, "")
    nearby.link_down(A)
    assert nearby.host_of(A) == ""


def test_what_is_told_of_at_once_is_bounded() -> None:
    nearby = Nearby(ME)
    nearby.set_own([], LAN)
    for number in range(100):
        peer = PeerId(f"p{number}")
        nearby.link_up(peer, "127.0.0.1")
        nearby.take(peer, Near((at("127.0.0.1", peer),)))
    nearby.link_up(A, "127.0.0.1")
    assert len(told(nearby.take(A, Near((at("127.0.0.1", A),))))[A]) == MAX_NEAR


# --- who names much -----------------------------------------------------------------------------------


def charge(tellers: Tellers, number: int, now: float = 0.0, teller: str = "liar") -> bool:
    host = f"20.0.{number}.1"
    return tellers.charge(teller, at(host, ME), host, now, is_public=True)


def test_a_teller_names_few_addresses_at_a_time_and_fewer_of_one_prefix() -> None:
    tellers = Tellers()
    assert sum(charge(tellers, number) for number in range(100)) == MAX_UNTRIED
    assert charge(tellers, 100, teller="another")
    same = [f"20.0.0.{n}" for n in range(100)]
    assert (
        sum(tellers.charge("one", at(host, A), host, 0.0, is_public=True) for host in same) == MAX_OF_A_BLOCK
    )
    assert sum(tellers.charge("two", at(host, B), host, 0.0, is_public=False) for host in same) == MAX_UNTRIED


def test_who_names_only_the_dead_is_not_listened_to_for_an_hour() -> None:
    tellers = Tellers()
    for number in range(MAX_DEAD):
        assert charge(tellers, number)
        tellers.failed(at(f"20.0.{number}.1", ME), 10.0)
    assert not charge(tellers, 50, 10.0 + MUTED - 1)
    assert charge(tellers, 50, 10.0 + MUTED)


def test_one_that_answers_makes_up_for_the_dead() -> None:
    tellers = Tellers()
    for number in range(3 * MAX_DEAD):
        assert charge(tellers, number % 200)
        address = at(f"20.0.{number % 200}.1", ME)
        if number % MAX_DEAD == MAX_DEAD - 1:
            tellers.worked(address)
        else:
            tellers.failed(address, 0.0)
    assert charge(tellers, 201, math.nextafter(0.0, 1.0))
