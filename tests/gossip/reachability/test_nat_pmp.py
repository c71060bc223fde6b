"""NAT-PMP against a router that agrees, refuses, lies, babbles or is silent."""

import struct
from collections.abc import Callable

import pytest
import router_steps
from fake_router import Router
from hypothesis import given
from hypothesis import strategies as st

from shoal.gossip.reachability import nat_pmp
from shoal.gossip.reachability.steps import LEASE, Datagram, Grant, NoMapping, Step, Steps, T, Wanted

PUBLIC = "8.9.10.11"
ME = ("192.168.1.23", 40000)
Answer = Callable[[bytes], bytes | None]


def wanted(judge: Callable[[str], None] = lambda _: None) -> Wanted:
    return Wanted(4710, ME[0], (4710, 30000), judge)


def play(steps: Steps[T], answer: Answer) -> tuple[T, list[Datagram]]:
    """Answer datagrams as a router would: nothing else is asked."""
    asked: list[Datagram] = []

    def says(step: Step) -> bytes | None:
        assert isinstance(step, Datagram)
        asked.append(step)
        return answer(step.body)

    return router_steps.play(steps, says)[0], asked


def test_a_router_that_agrees_opens_the_port_and_closes_it_again() -> None:
    router = Router(PUBLIC)
    grant, asked = play(nat_pmp.map_port(wanted()), lambda packet: router.pmp(packet, ME))
    assert grant == Grant("NAT-PMP", PUBLIC, 4710, 4710, 3600.0)
    assert [each.body for each in asked] == [b"\0\0", struct.pack("!BBHHHI", 0, 2, 0, 4710, 4710, LEASE)]
    assert router.ports == {4710: (ME[0], 4710)}
    play(nat_pmp.close_port(grant), lambda packet: router.pmp(packet, ME))
    assert router.ports == {}


def test_another_port_than_asked_for_is_the_one_that_counts() -> None:
    router = Router(PUBLIC, shift=5, lease=120)
    grant, _ = play(nat_pmp.map_port(wanted()), lambda packet: router.pmp(packet, ME))
    assert (grant.port, grant.internal, grant.lease) == (4715, 4710, 120)


def test_a_lost_packet_is_asked_for_again() -> None:
    grant, asked = play(nat_pmp.map_port(wanted()), _losing_every_other(Router(PUBLIC)))
    assert grant.port == 4710
    assert [each.seconds for each in asked] == [0.25, 0.5, 0.25, 0.5]


def _losing_every_other(router: Router) -> Answer:
    count = 0

    def answer(packet: bytes) -> bytes | None:
        nonlocal count
        count += 1
        return None if count % 2 else router.pmp(packet, ME)

    return answer


def test_silence_is_told_after_three_tries() -> None:
    with pytest.raises(NoMapping) as error:
        play(nat_pmp.map_port(wanted()), lambda _: None)
    assert error.value.why == "silent"


@pytest.mark.parametrize(
    ("result", "words"), [(2, "set to open no ports"), (4, "no port left"), (99, "result 99")]
)
def test_a_refusal_is_told_in_words(result: int, words: str) -> None:
    with pytest.raises(NoMapping) as error:
        play(nat_pmp.map_port(wanted()), lambda packet: struct.pack("!BBHI", 0, 128 + packet[1], result, 7))
    assert (error.value.why, words in error.value.words) == ("refused", True)


def test_a_router_of_the_successor_alone_refuses() -> None:
    """PCP's answer to a packet of NAT-PMP: version 2, result 1."""
    with pytest.raises(NoMapping) as error:
        play(nat_pmp.map_port(wanted()), lambda _: bytes((2, 128, 0, 1)) + bytes(20))
    assert error.value.why == "refused"


def test_an_answer_about_another_port_is_passed_over() -> None:
    router = Router(PUBLIC)

    def answer(packet: bytes) -> bytes:
        said = router.pmp(packet, ME)
        return said if len(said) == 12 else said[:8] + struct.pack("!H", 1) + said[10:]

    with pytest.raises(NoMapping) as error:
        play(nat_pmp.map_port(wanted()), answer)
    assert error.value.why == "silent"


@pytest.mark.parametrize(("port", "lease"), [(0, 3600), (4710, 0)])
def test_a_grant_of_nothing_is_none(port: int, lease: int) -> None:
    router = Router(PUBLIC)

    def answer(packet: bytes) -> bytes:
        said = router.pmp(packet, ME)
        return said if len(said) == 12 else said[:10] + struct.pack("!HI", port, lease)

    with pytest.raises(NoMapping) as error:
        play(nat_pmp.map_port(wanted()), answer)
    assert error.value.why == "garbled"


def test_no_port_is_asked_for_where_the_outer_address_is_of_no_use() -> None:
    router = Router("100.71.3.9")

    def judge(host: str) -> None:
        raise NoMapping("in vain", host)

    with pytest.raises(NoMapping) as error:
        play(nat_pmp.map_port(wanted(judge)), lambda packet: router.pmp(packet, ME))
    assert (error.value.why, error.value.words) == ("in vain", "100.71.3.9")
    assert router.ports == {}


@given(st.binary(max_size=80))
def test_garbage_never_ends_in_another_error(packet: bytes) -> None:
    with pytest.raises(NoMapping):
        play(nat_pmp.map_port(wanted()), lambda _: packet)
