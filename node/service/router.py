"""Router: what came of asking it for a port, as the status says it, and what it would do before a start."""

import trio

from shoal.gossip.addresses import parse
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.router.asking import Places
from shoal.gossip.net.router.port_mapper import look_at_router
from shoal.gossip.net.router.routes import Route, default_route
from shoal.gossip.reachability.port_mapping import PortMapping
from shoal.gossip.scope import Scope, scope_of
from shoal.node.status import PortMappingStatus


def mapping_status(found: PortMapping) -> PortMappingStatus:
    """Return what came of asking the router for a port."""
    return PortMappingStatus(
        state=found.state, text=found.text, fix=found.fix, is_unreachable=found.is_unreachable
    )


def ask_router(
    network: HostConfig, route: Route | None = None, places: Places | None = None
) -> PortMappingStatus | None:
    """Ask the router what it would do for a node with these settings; it takes five seconds at most.

    Nothing where such a node would not ask it. `route`, `places`: of a laboratory's router.
    """
    if not network.asks_router:
        return None
    listens = [parse(each) for each in network.listen]
    ports = [each.port for each in listens if each.kind == "ip4" and not each.is_loopback]
    route = route or (default_route() if ports else None)
    if not ports or route is None or scope_of(route.local) is Scope.PUBLIC:
        return None
    return mapping_status(trio.run(look_at_router, ports[0], route, places or Places()))
