"""What becomes of asking a router for a port: which protocol, whose word counts, and what its owner reads."""

import ipaddress
from typing import Any

import pytest

from shoal.gossip.reachability.port_mapping import (
    LEAST_PAUSE,
    MOST_PAUSE,
    judge,
    map_port,
    mapped,
    not_mapped,
    pause_of,
)
from shoal.gossip.reachability.steps import Control, Datagram, Grant, NoMapping, Request, Step, Wanted
from shoal.gossip.scope import Here

GATEWAY, PUBLIC = "192.168.1.1", "8.9.10.11"
WANTED = Wanted(4710, "192.168.1.23", (4710,), lambda _: None)
GRANT = Grant("NAT-PMP", PUBLIC, 4710, 4710, 3600.0)
BY_UPNP = Grant("UPnP", PUBLIC, 4710, 4710, 3600.0, Control(5000, "/c", "x"))


def asked(
    before: Grant | None = None, answers: dict[str, bytes] | None = None
) -> tuple[list[Step], NoMapping]:
    """Return what a router is asked that answers nothing but this, and why it opened no port."""
    steps, found = map_port(WANTED, GATEWAY, before), list[Step]()
    said: bytes | None = None
    try:
        while True:
            step = steps.send(said)
            found.append(step)
            said = (answers or {}).get(step.to) if isinstance(step, Datagram) else None
    except NoMapping as error:
        return found, error


def test_nat_pmp_is_asked_first_and_upnp_where_it_is_silent() -> None:
    found, error = asked()
    kinds = [step.to if isinstance(step, Datagram) else "http" for step in found]
    assert kinds == ["nat-pmp"] * 3 + ["ssdp"] * 2
    assert error.why == "silent"


def test_a_refusal_counts_for_more_than_silence() -> None:
    refused = bytes((0, 128, 0, 2)) + bytes(8)
    assert asked(answers={"nat-pmp": refused})[1].why == "refused"


def test_a_renewal_asks_by_what_opened_the_port_alone() -> None:
    assert all(isinstance(step, Datagram) and step.to == "nat-pmp" for step in asked(GRANT)[0])
    assert [type(step) for step in asked(BY_UPNP)[0]] == [Request]


@pytest.mark.parametrize("host", ["10.0.0.7", "192.168.0.2", "100.71.3.9"])
def test_a_private_outer_address_is_in_vain_and_is_named(host: str) -> None:
    with pytest.raises(NoMapping) as error:
        judge(host, Here())
    told = not_mapped(error.value, WANTED)
    assert told.state == "in vain"
    assert told.is_unreachable
    assert f"the router's own address is {host}, which is not public" in told.text
    assert "IPv6" in told.fix


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "192.0.2.7", "", "evil", "2001:db8::1", "1"]
)
def test_an_outer_address_that_is_none_is_not_told_to_anybody(host: str) -> None:
    with pytest.raises(NoMapping) as error:
        judge(host, Here())
    assert error.value.why == "garbled"


def test_where_peers_see_this_node_elsewhere_the_router_is_not_believed() -> None:
    here = Here(observed=frozenset({"8.8.4.4", "2600::1"}))
    with pytest.raises(NoMapping) as error:
        judge(PUBLIC, here)
    assert f"calls its address {PUBLIC}, and peers see 8.8.4.4" in not_mapped(error.value, WANTED).text
    judge("8.8.4.4", here)
    judge(PUBLIC, Here(observed=frozenset({"2600::1"})))


def test_a_public_network_of_a_laboratory_is_public() -> None:
    judge("203.0.113.7", Here(internet=(ipaddress.ip_network("203.0.113.0/24"),)))


def test_a_mapping_says_where_it_leads_and_whether_it_stays_open() -> None:
    told = mapped(GRANT)
    assert told.text == f"the router leads {PUBLIC}:4710 here, by NAT-PMP"
    assert str(told.address) == f"/ip4/{PUBLIC}/tcp/4710"
    assert not told.is_unreachable
    assert "for ever" in mapped(Grant("UPnP", PUBLIC, 4710, 4710, 0.0, BY_UPNP.control)).text


@pytest.mark.parametrize("why", ["silent", "garbled", "refused"])
def test_what_fails_says_what_to_type_next(why: Any) -> None:
    told = not_mapped(NoMapping(why, "no\x1b[31m way"), WANTED)
    assert told.is_unreachable
    assert "forward TCP 4710 to 192.168.1.23" in told.fix
    assert "shoal start --announce" in told.fix
    assert "\x1b" not in told.text


@pytest.mark.parametrize(
    ("lease", "pause"), [(3600.0, MOST_PAUSE), (600.0, 300.0), (1.0, LEAST_PAUSE), (0.0, MOST_PAUSE)]
)
def test_a_lease_is_renewed_at_its_half_and_no_router_is_asked_without_end(
    lease: float, pause: float
) -> None:
    assert pause_of(Grant("NAT-PMP", PUBLIC, 1, 1, lease), 0) == pause


def test_a_router_that_opens_nothing_is_asked_ever_more_rarely() -> None:
    pauses = [pause_of(None, failures) for failures in range(1, 2000)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (2 * LEAST_PAUSE, MOST_PAUSE)
