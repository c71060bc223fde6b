"""What tests over real links share."""

import pytest

from shoal.gossip.net import links
from shoal.gossip.net.connecting import inbound, outbound, sockets

PATIENCE = 100.0


@pytest.fixture(autouse=True)
def _time_to_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests may take longer than a node waits for a peer to link."""
    monkeypatch.setattr(links, "HELLO_PATIENCE", PATIENCE)
    monkeypatch.setattr(sockets, "SPEAK_PATIENCE", PATIENCE)
    monkeypatch.setattr(outbound, "CONNECT_PATIENCE", PATIENCE)
    for module in (inbound, outbound):
        monkeypatch.setattr(module, "HANDSHAKE_PATIENCE", PATIENCE)
