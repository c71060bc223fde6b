"""UPnP against a router that agrees, refuses, lies, babbles or is silent."""

from collections.abc import Callable

import pytest
from fake_router import CONTROL, Router, answered, described, fault, found
from hypothesis import given
from hypothesis import strategies as st
from router_steps import Says, play

from shoal.gossip.reachability import upnp
from shoal.gossip.reachability.steps import (
    MAX_WORDS,
    Control,
    Datagram,
    Grant,
    NoMapping,
    Request,
    Response,
    Step,
    Wanted,
)
from shoal.gossip.reachability.strict_xml import MAX_DEPTH, MAX_ELEMENTS, BadXml, parse_xml

GATEWAY = "192.168.1.1"
PUBLIC = "8.9.10.11"
ME = "192.168.1.23"
PLACE = f"http://{GATEWAY}:5000/root.xml"


def wanted(judge: Callable[[str], None] = lambda _: None) -> Wanted:
    return Wanted(4710, ME, (4710, 30000), judge)


def of(router: Router, location: str = PLACE, description: bytes = b"") -> Says:
    """Return a router's voice."""

    def says(step: Step) -> bytes | Response | None:
        if isinstance(step, Datagram):
            return found(location)
        if step.method == "GET":
            return Response(200, description or described())
        return Response(*router.soap(step.body.decode()))

    return says


def why(says: Says, judge: Callable[[str], None] = lambda _: None) -> NoMapping:
    """Return why no port was opened."""
    with pytest.raises(NoMapping) as error:
        play(upnp.map_port(wanted(judge), GATEWAY), says)
    return error.value


def test_a_router_that_agrees_opens_the_port_renews_and_closes_it() -> None:
    router = Router(PUBLIC)
    grant, asked = play(upnp.map_port(wanted(), GATEWAY), of(router))
    control = Control(5000, "/control", CONTROL)
    assert grant == Grant("UPnP", PUBLIC, 4710, 4710, 3600.0, control)
    assert router.ports == {4710: (ME, 4710)}
    renewed, asked = play(upnp.map_port(wanted(), GATEWAY, control), of(router))
    assert renewed == grant
    assert all(isinstance(step, Request) and step.method == "POST" for step in asked)
    play(upnp.close_port(grant), of(router))
    assert router.ports == {}


def test_the_lease_is_in_the_place_of_the_lease_and_no_remote_host_is_named() -> None:
    """A lease in the place of the remote host is taken for an address, and admits nobody but that one."""
    _, asked = play(upnp.map_port(wanted(), GATEWAY), of(Router(PUBLIC)))
    body = next(step.body for step in asked if isinstance(step, Request) and b"AddPort" in step.body)
    assert b"<NewRemoteHost></NewRemoteHost>" in body
    assert b"<NewLeaseDuration>3600</NewLeaseDuration>" in body


def test_where_another_machine_has_the_port_the_next_is_asked_for() -> None:
    router = Router(PUBLIC, ports={4710: ("192.168.1.99", 4710)})
    grant, _ = play(upnp.map_port(wanted(), GATEWAY), of(router))
    assert grant.port == 30000
    assert router.ports[4710] == ("192.168.1.99", 4710)


def test_a_router_without_leases_opens_for_ever() -> None:
    router = Router(PUBLIC)

    def says(step: Step) -> bytes | Response | None:
        if isinstance(step, Request) and b"<NewLeaseDuration>3600<" in step.body:
            return Response(500, fault(725, "OnlyPermanentLeasesSupported"))
        return of(router)(step)

    grant, _ = play(upnp.map_port(wanted(), GATEWAY), says)
    assert grant.lease == 0


def test_silence_is_told_after_two_searches() -> None:
    error = why(lambda _: None)
    assert error.why == "silent"


def test_a_refusal_is_told_in_the_routers_words_cut_short() -> None:
    def says(step: Step) -> bytes | Response | None:
        if isinstance(step, Request) and b"AddPort" in step.body:
            return Response(500, fault(606, "Action not\x0a authorized " + "x" * 500))
        return of(Router(PUBLIC))(step)

    error = why(says)
    assert error.why == "refused"
    assert error.words.startswith("Action not authorized xxx")
    assert len(error.words) <= MAX_WORDS


@pytest.mark.parametrize(
    "location",
    [
        "http://192.168.1.99:5000/root.xml",
        "http://192.168.1.1@evil.example/root.xml",
        "http://evil@192.168.1.1/root.xml",
        "https://192.168.1.1/root.xml",
        "http://192.168.1.1:99999/root.xml",
        "http://192.168.1.1:5000/" + "x" * 600,
        "http://192.168.1.1:5000/a b",
        "http://[192.168.1.1/",
        "file:///etc/passwd",
        "",
    ],
)
def test_a_description_anywhere_but_on_the_router_is_not_fetched(location: str) -> None:
    assert upnp.place_of(location, GATEWAY) is None
    assert why(of(Router(PUBLIC), location)).why == "silent"


@pytest.mark.parametrize(
    "control", ["http://192.168.1.99/control", "//192.168.1.99/control", "https://192.168.1.1/c"]
)
def test_a_service_anywhere_but_on_the_router_is_not_called(control: str) -> None:
    assert why(of(Router(PUBLIC), description=described(control))).why == "garbled"


def test_a_service_that_opens_no_ports_is_not_called() -> None:
    other = described(kind="urn:schemas-upnp-org:service:Layer3Forwarding:1")
    assert why(of(Router(PUBLIC), description=other)).why == "garbled"


def test_a_path_may_be_relative_to_the_base_that_the_router_names() -> None:
    base = f"<URLBase>http://{GATEWAY}:81/base/</URLBase><device>".encode()
    text = described("control?x=1").replace(b"<device>", base, 1)
    grant, _ = play(upnp.map_port(wanted(), GATEWAY), of(Router(PUBLIC), description=text))
    assert grant.control == Control(81, "/base/control?x=1", CONTROL)


def test_no_port_is_asked_for_where_the_outer_address_is_of_no_use() -> None:
    router = Router("10.0.0.7")

    def judge(host: str) -> None:
        raise NoMapping("in vain", host)

    assert why(of(router), judge).why == "in vain"
    assert router.ports == {}


def test_an_answer_to_another_call_is_none() -> None:
    assert why(_saying(answered("AddPortMapping"))).why == "garbled"


BOMB = (
    b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    b'<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><x>&c;</x>'
)
OUTSIDE = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'


@pytest.mark.parametrize(
    "document",
    [
        BOMB,
        OUTSIDE,
        b"",
        b"<a>",
        b"<a></b>",
        b"<a>&unknown;</a>",
        b'<?xml version="1.0" encoding="nonsense"?><a/>',
        b"<a>" * (MAX_DEPTH + 1) + b"</a>" * (MAX_DEPTH + 1),
        b"<a>" + b"<b/>" * MAX_ELEMENTS + b"</a>",
    ],
)
def test_hostile_xml_is_refused(document: bytes) -> None:
    with pytest.raises(BadXml):
        parse_xml(document)
    assert why(_saying(document)).why == "garbled"


def test_a_long_text_is_cut() -> None:
    assert len(parse_xml(b"<a>" + b"x" * 100_000 + b"</a>").get("a")) == 1024


@given(st.binary(max_size=300))
def test_garbage_never_ends_in_another_error(said: bytes) -> None:
    why(_saying(said))
    why(lambda step: said if isinstance(step, Datagram) else None)


def _saying(body: bytes) -> Says:
    """Return the voice of a router that answers every call with this."""

    def says(step: Step) -> bytes | Response | None:
        if isinstance(step, Request) and step.method == "POST":
            return Response(200, body)
        return of(Router(PUBLIC))(step)

    return says
