"""How a node sits in the network: the settings of a host (gossip/host.py), which any command may read.

Apart from the host itself, so that a command which only reads settings loads no NumPy.
"""

from typing import Annotated, Literal

import msgspec

from shoal.gossip.addresses import listen_at
from shoal.gossip.scope import DialPrivate


class HostConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a node sits in the network."""

    swarm: str = "shoal"
    """Nodes of swarms with other names do not talk."""
    listen: tuple[str, ...] = (listen_at("0.0.0.0", 4710), listen_at("::", 4710))
    """Multiaddrs to listen on; port 0 takes a free one. Of those that stand for every interface, one that the
    system does not have is left out."""
    announce: tuple[str, ...] = ()
    """Multiaddrs told to others instead of the ones found, for forwarded ports."""
    port_mapping: Literal["auto", "off"] = "auto"
    """auto: ask the router of this network for a port (NAT-PMP, UPnP), so that others can dial this node;
    only where it has a private address, and neither `announce` nor `hidden` is set."""
    mdns: bool = True
    """Find nodes in the local network."""
    dht: bool = True
    """Keep a Kademlia record under the swarm's name, and look there for others."""
    relay: bool = True
    """Carry circuits between nodes that cannot reach each other, within limits (circuit relay v2)."""
    hidden: bool = False
    """Nobody can dial this node, as behind most routers: do not listen, and be reached through nodes that
    this one dialled (circuit relay v2)."""
    key_file: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    """File with the key of a private network: only nodes with the same key talk. shoal key new makes one."""
    fast_links: bool = True
    """Prefer our AEAD records and muxer between shoal nodes; Noise and yamux stay for the rest."""
    local_sockets: bool = True
    """Talk over Unix sockets with nodes of this machine that are dialled by a loopback address: half the work
    of TCP. Linux only; elsewhere it is TCP all the same."""
    upload_mbit: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    """Mbit per second that this node sends at most, but for short words; 0: no limit. Its peers wait for what
    it sends, so a low limit makes their rounds longer too."""
    download_mbit: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    """Mbit per second that this node takes at most, but for short words; 0: no limit. To its peers it looks
    like a slower line."""
    max_links: int = 64
    """Places for links. Half may be taken by links without a hello; a quarter is held for known peers."""
    dial_private: DialPrivate = "near"
    """On whose word private addresses are dialled: near (that of peers of the same network), always, or
    never; what `--join` names is dialled as it is given."""
    internet: tuple[str, ...] = ()
    """Networks such as 10.213.0.0/16 that count as public addresses, for laboratories."""

    @property
    def asks_router(self) -> bool:
        """Whether the router is asked for a port, where there is one to ask."""
        return self.port_mapping == "auto" and not self.announce and not self.hidden
