"""Port mapper: has the router lead a port of its own to this node, as long as the node runs.

route, listening address --> map --> look again at half the lease --> close at the end
"""

import logging
import random
from typing import Final, Protocol

import trio

from shoal.gossip.addresses import Address, is_loopback
from shoal.gossip.net.router.asking import Places, run_steps
from shoal.gossip.net.router.routes import Route, default_route, local_towards
from shoal.gossip.reachability.port_mapping import (
    LOOKING,
    LOOPBACK,
    NO_ROUTER,
    OFF,
    PUBLIC,
    PortMapping,
    close_port,
    judge,
    look_at,
    map_port,
    mapped,
    not_mapped,
    pause_of,
)
from shoal.gossip.reachability.steps import Grant, NoMapping, Wanted
from shoal.gossip.scope import Here, Scope

log = logging.getLogger(__name__)

CLOSE_SECONDS: Final = 1.0
"""For the router to close the port; a lease ends by itself."""
ROUTE_EVERY: Final = 15.0
"""Seconds between two looks at whether this machine has moved to another network."""
OTHER_PORTS: Final = 3
"""That are asked for where another machine has the one of this node."""
_DRAWN: Final = (20_000, 60_000)


class Listening(Protocol):
    """The network of a node."""

    def listening(self) -> list[Address]:
        """Return where it listens."""
        ...

    def here(self) -> Here:
        """Return which networks it is in, and where peers see it."""
        ...


async def look_at_router(port: int, route: Route, places: Places) -> PortMapping:
    """Return what the router would do for a node that listens on this port; nothing is changed."""
    wanted = Wanted(port, route.local, (port,), lambda host: judge(host, Here()))
    return await run_steps(look_at(wanted, route.gateway), route, places)


class PortMapper:
    """See the module's docstring."""

    def __init__(
        self, network: Listening, *, is_wanted: bool, places: Places | None = None, route: Route | None = None
    ) -> None:
        """Nothing is asked before `run`.

        `is_wanted`: whether the router is to be asked at all. `places`, `route`: of a laboratory's router.
        """
        self.outcome: PortMapping = LOOKING if is_wanted else OFF
        self.is_wanted = is_wanted
        self._network, self._places, self._route = network, places or Places(), route
        self._others = tuple(random.randrange(*_DRAWN) for _ in range(OTHER_PORTS))
        self._grant: Grant | None = None
        self._used: Route | None = None
        """By which the port was opened."""
        self._failures = 0

    def addresses(self) -> list[Address]:
        """Return where others reach this node through the router."""
        return [self.outcome.address] if self.outcome.address is not None else []

    async def run(self) -> None:
        """Keep a port open until cancelled, then close it."""
        try:
            while True:
                await self.look()
                await self._wait(pause_of(self._grant, self._failures))
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
                await self._close()

    async def _wait(self, seconds: float) -> None:
        """Wait until the mapping is to be looked at, or this machine is in another network."""
        local = local_towards()
        until = trio.current_time() + seconds
        while (left := until - trio.current_time()) > 0 and local_towards() == local:
            await trio.sleep(min(ROUTE_EVERY, left))

    async def look(self) -> None:
        """Ask the router once."""
        route = self._route or await trio.to_thread.run_sync(default_route)
        wanted = self._wanted(route)
        if isinstance(wanted, PortMapping):
            self._grant, self.outcome, self._failures = None, wanted, self._failures + 1
            return
        assert route is not None
        if route != self._used:
            self._grant = None
        try:
            steps = map_port(wanted, route.gateway, self._grant)
            self._grant, self._used = await run_steps(steps, route, self._places), route
            self._failures, found = 0, mapped(self._grant)
        except NoMapping as error:
            await self._close()
            self._failures, found = self._failures + 1, not_mapped(error, wanted)
        if found.text != self.outcome.text:
            log.info("%s", found.text)
        self.outcome = found

    def _wanted(self, route: Route | None) -> Wanted | PortMapping:
        """Return what to ask the router for, or why it is not asked."""
        listens = [each for each in self._network.listening() if each.kind == "ip4"]
        if all(is_loopback(each.host) for each in listens) and self._route is None:
            return LOOPBACK
        if route is None:
            return NO_ROUTER
        here = self._network.here()
        if here.scope(route.local) is Scope.PUBLIC:
            return PUBLIC
        fitting = [each.port for each in listens if each.is_any or each.host == route.local]
        if not fitting:
            return LOOPBACK
        before = (self._grant.port,) if self._grant is not None else ()
        ports = tuple(dict.fromkeys((*before, fitting[0], *self._others)))
        return Wanted(fitting[0], route.local, ports, lambda host: judge(host, here))

    async def _close(self) -> None:
        grant, self._grant = self._grant, None
        if grant is None or self._used is None:
            return
        try:
            await run_steps(close_port(grant), self._used, self._places)
        except NoMapping as error:
            log.info("the router did not close port %d: %s", grant.port, error)
