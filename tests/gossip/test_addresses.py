"""Addresses: everything people type is read, everything else is refused with what would be right."""

from pathlib import Path

import pytest

from shoal.crypto.keys import key_from_seed, peer_id_of
from shoal.gossip.addresses import (
    Address,
    BadAddress,
    Endpoint,
    beyond_this_machine,
    endpoint,
    from_socket,
    listen_at,
    parse,
    parse_listen,
)
from shoal.gossip.network_interfaces import expand, expand_all, is_inward

PEER = peer_id_of(bytes(key_from_seed(bytes(32)).verify_key))
RELAY = peer_id_of(bytes(key_from_seed(bytes(31) + b"r").verify_key))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/ip4/192.0.2.7/tcp/4710", Address("ip4", "192.0.2.7", 4710)),
        (f"/ip4/192.0.2.7/tcp/4710/p2p/{PEER}", Address("ip4", "192.0.2.7", 4710, PEER)),
        ("/ip6/2001:db8::7/tcp/1", Address("ip6", "2001:db8::7", 1)),
        ("/dns4/node.example/tcp/65535", Address("dns4", "node.example", 65535)),
        (f"/dns/node_1.example/tcp/0/p2p/{PEER}", Address("dns", "node_1.example", 0, PEER)),
        (
            f"/ip4/192.0.2.7/tcp/4710/p2p/{RELAY}/p2p-circuit/p2p/{PEER}",
            Address("ip4", "192.0.2.7", 4710, PEER, RELAY),
        ),
        ("192.0.2.7:4710", Address("ip4", "192.0.2.7", 4710)),
        ("[2001:db8::7]:4710", Address("ip6", "2001:db8::7", 4710)),
        (" node.example:4710\n", Address("dns", "node.example", 4710)),
        ("localhost:4710", Address("dns", "localhost", 4710)),
    ],
)
def test_an_address_in_any_form_is_read(text: str, expected: Address) -> None:
    assert parse(text) == expected
    assert parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "node.example",
        ":4710",
        "node.example:",
        "node.example:port",
        "node.example:65536",
        "node.example:-1",
        "node.example:١",
        "999.0.2.7:4710",
        "[192.0.2.7]:4710",
        "no such host:4710",
        "a..b:4710",
        "x" * 64 + ":4710",
        "/ip4/192.0.2.7",
        "/ip4/192.0.2.7/udp/4710",
        "/ip4/192.0.2.7/tcp/4710/ws",
        "/ip4/2001:db8::7/tcp/4710",
        "/ip6/192.0.2.7/tcp/4710",
        "/ip4/192.0.2.7/tcp/4710/p2p/",
        "/ip4/192.0.2.7/tcp/4710/p2p/nobody",
        f"/ip4/192.0.2.7/tcp/4710/p2p/{PEER[:-1]}",
        f"/p2p/{PEER}",
        f"/ip4/192.0.2.7/tcp/4710/p2p/{RELAY}/p2p-circuit",
        f"/ip4/192.0.2.7/tcp/4710/p2p-circuit/p2p/{PEER}",
        f"/ip4/192.0.2.7/tcp/4710/p2p/nobody/p2p-circuit/p2p/{PEER}",
        f"/ip4/192.0.2.7/tcp/4710/p2p/{RELAY}/p2p-circuit/p2p/nobody",
        f"/p2p/{RELAY}/p2p-circuit/p2p/{PEER}",
        f"/ip4/192.0.2.7/tcp/4710/p2p/{PEER}/p2p/{PEER}",
        "/ip4/192.0.2.7/tcp/4710/" + "x" * 1000,
        "/dns4/../tcp/4710",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadAddress):
        parse(text)


@pytest.mark.parametrize("text", ["nonsense", "node.example:4710", f"/ip4/0.0.0.0/tcp/4710/p2p/{PEER}", ""])
def test_one_listens_on_an_ip_address_only(text: str) -> None:
    with pytest.raises(BadAddress, match="write /ip4/0.0.0.0/tcp/4710"):
        parse_listen(text)


def test_every_interface_stands_for_the_addresses_of_this_machine_loopback_last() -> None:
    found = expand(Address("ip4", "0.0.0.0", 4710))
    assert Address("ip4", "127.0.0.1", 4710) in found
    assert [each.is_loopback for each in found] == sorted(each.is_loopback for each in found)
    assert not any(each.is_any for each in found)
    one = Address("ip4", "192.0.2.7", 4710)
    assert expand(one) == [one]
    assert expand_all([Address("ip4", "127.0.0.1", 4710), one, one]) == [
        one,
        Address("ip4", "127.0.0.1", 4710),
    ]


@pytest.mark.parametrize(
    "name", ["docker0", "virbr0", "virbr0-nic", "br-0123456789ab", "veth1a2b3c4", "cni0"]
)
def test_what_leads_to_our_own_containers_is_known_by_its_name(name: str, tmp_path: Path) -> None:
    assert is_inward(name, tmp_path)


@pytest.mark.parametrize("name", ["eth0", "enp3s0", "wlan0", "tun0", "wg0", "tailscale0", "lo", "en0"])
def test_cards_and_tunnels_lead_to_others(name: str, tmp_path: Path) -> None:
    assert not is_inward(name, tmp_path)


@pytest.mark.parametrize(("ports", "inward"), [([], True), (["tap0"], True), (["tap0", "card"], False)])
def test_a_bridge_leads_out_by_a_card_that_is_its_port(
    ports: list[str], inward: bool, tmp_path: Path
) -> None:
    (tmp_path / "br0" / "bridge").mkdir(parents=True)
    (tmp_path / "br0" / "brif").mkdir()
    (tmp_path / "card" / "device").mkdir(parents=True)
    for port in ports:
        (tmp_path / "br0" / "brif" / port).touch()
    assert is_inward("br0", tmp_path) is inward


def test_addresses_are_told_by_family_and_loopback_last() -> None:
    texts = ["::1", "2001:db8::7", "127.0.0.1", "192.0.2.7"]
    found = expand_all(from_socket(text, 4710) for text in texts)
    assert [each.host for each in found] == ["192.0.2.7", "2001:db8::7", "127.0.0.1", "::1"]


def test_an_end_of_a_socket_is_printed_as_a_multiaddr() -> None:
    assert str(from_socket("192.0.2.7", 1).of(PEER)) == f"/ip4/192.0.2.7/tcp/1/p2p/{PEER}"
    assert str(from_socket("fe80::1%eth0", 1)) == "/ip6/fe80::1/tcp/1"


@pytest.mark.parametrize(
    ("text", "spot"),
    [
        ("/ip4/20.0.0.1/tcp/4710/p2p/x", Endpoint("20.0.0.1", 4710)),
        ("/ip6/2600::1/tcp/1/p2p/relay/p2p-circuit/p2p/x", Endpoint("2600::1", 1)),
        ("/dns4/a.example/tcp/80", Endpoint("a.example", 80)),
        ("/ip4/20.0.0.1/udp/4710/quic-v1", None),
        ("/unix/x", None),
        ("", None),
        ("/ip4/20.0.0.1/tcp/999999/p2p/x", None),
    ],
)
def test_where_a_multiaddr_leads(text: str, spot: Endpoint | None) -> None:
    assert endpoint(text) == spot


@pytest.mark.parametrize("text", ["/ip4/0.0.0.0/tcp/4710", "/ip6/::1/tcp/0"])
def test_where_to_listen_is_made_as_it_is_read(text: str) -> None:
    at = parse_listen(text)
    assert listen_at(at.host, at.port) == text


def test_addresses_of_this_machine_alone_are_shown_where_there_are_no_others() -> None:
    here, there = ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"], "/ip4/192.0.2.7/tcp/1"
    assert beyond_this_machine([*here, there]) == [there]
    assert beyond_this_machine(here) == here
