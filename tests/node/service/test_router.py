"""Which node would ask its router; the router itself is in tests/gossip/net/router."""

import pytest

from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.router.routes import Route
from shoal.node.service import router
from shoal.node.service.router import ask_router

ANY, LOOPBACK = "/ip4/0.0.0.0/tcp/4710", "/ip4/127.0.0.1/tcp/4710"
HOME = Route("192.168.1.1", "192.168.1.23")


@pytest.mark.parametrize(
    "network",
    [
        HostConfig(listen=(ANY,), port_mapping="off"),
        HostConfig(listen=(ANY,), announce=("/ip4/8.8.8.8/tcp/1",)),
        HostConfig(listen=(ANY,), hidden=True),
        HostConfig(listen=(LOOPBACK,)),
        HostConfig(listen=("/ip6/::/tcp/4710",)),
    ],
)
def test_who_would_not_ask_is_told_nothing(network: HostConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "default_route", lambda: HOME)
    assert ask_router(network) is None


@pytest.mark.parametrize("route", [None, Route("8.8.8.1", "8.8.8.8")])
def test_without_a_router_or_with_a_public_address_none_is_asked(
    route: Route | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "default_route", lambda: route)
    assert ask_router(HostConfig(listen=(ANY,))) is None
