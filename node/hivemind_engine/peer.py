"""One node's peer in hivemind's own network; this module alone imports hivemind, in a process of its own.

hivemind (Ryabinin et al., Moshpit SGD, NeurIPS 2021, https://arxiv.org/abs/2103.03239) brings a DHT of its
own over go-libp2p. A peer that seeks a group says so there, under the run's prefix and until when. The one
whose time ends first leads: it gathers followers until it has as many as it waits for or its time is up. So
any script with a `hivemind.DecentralizedAverager` of the same prefix and tensor is a member like a node.

hivemind runs the DHT and every averager in further processes, forked off this one.
"""

import asyncio
import logging
import multiprocessing as mp
import time
from functools import partial
from typing import Any, Final

import hivemind
import psutil
import torch
from hivemind.averaging import DecentralizedAverager as Averager
from hivemind.compression import Float16Compression, NoCompression, Uniform8BitQuantization
from hivemind.p2p import PeerID
from hivemind.utils.multiaddr import Multiaddr

from shoal.gossip.averaging.announcing import is_sane
from shoal.gossip.events import Vector
from shoal.node.hivemind_engine.ipc import MAX_PEERS, Average, EngineSpec, Mean, Unmade, Unmet, key_of

log = logging.getLogger(__name__)

COMPRESSIONS: Final = {
    "float32": NoCompression,
    "float16": Float16Compression,
    "int8": Uniform8BitQuantization,
}
WINDOW: Final = 5.0
"""Seconds for which a group is open to those nobody expects: hivemind's own, with which scripts come."""
LEAST_WINDOW: Final = 1.0
REQUEST_SHARE: Final = 0.6
"""Of the window: how long a leader may take to answer, as in hivemind's own settings."""
LOOK_EVERY: Final = 0.1
"""Seconds between two looks whether somebody seeks a group, while those expected are not there."""
MAX_NAME: Final = 64


class DecentralizedAverager(Averager):  # type: ignore[misc]  # untyped library
    """hivemind's, told before each step how many to wait for.

    Its name is that of its base: hivemind makes the names of its remote calls of the name of the class.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """See hivemind."""
        self.seconds: Any = mp.Value("d", 0.0)
        """How long the last exchange took; the averager's process writes it."""
        self.is_whole: Any = mp.Value("b", True)
        """Whether nobody was lost in it."""
        super().__init__(*arguments, **options)

    def aim(self, size: int, least: int) -> None:
        """Begin the next group as soon as `size` are there, and never with fewer than `least`."""
        # Orders to the averager's process are carried out one after the other.
        self._outer_pipe.send(("_aim", [size, least], {}))

    async def _aim(self, size: int, least: int) -> None:
        self._matchmaking.target_group_size, self._matchmaking.min_group_size = size, least

    async def _aggregate_with_group(self, group_info: Any, **options: Any) -> Any:
        start = time.perf_counter()
        said = await super()._aggregate_with_group(group_info, **options)
        self.seconds.value = time.perf_counter() - start
        exchange = self._running_groups[group_info.group_id].result()
        self.is_whole.value = not exchange.banned_senders and not exchange.tensor_part_container.failed_size
        return said


_under_way: set[Any] = set()


async def _connect(dht: Any, node: Any, *, address: str) -> bool:
    """Run in the DHT's process: dial an address, and take who answers into its table."""
    task = asyncio.current_task()
    # hivemind keeps no hold of it, and a task that nobody holds may be collected while it waits.
    _under_way.add(task)
    try:
        whole = Multiaddr(address)
        peer = PeerID.from_base58(whole["p2p"])
        await node.p2p._client.connect(peer, [whole.decapsulate(f"/p2p/{peer.to_base58()}")])
        return await node.protocol.call_ping(peer) is not None
    finally:
        _under_way.discard(task)


class HivemindPeer:
    """See the module's docstring."""

    def __init__(self, spec: EngineSpec, memory: Vector) -> None:
        """Start the DHT and the averager of a round's first ask.

        Raises:
            Exception: hivemind does not start, for any reason of its own.
        """
        self.spec, self._memory = spec, memory
        self.window = max(LEAST_WINDOW, min(WINDOW, spec.patience / 3))
        self._dht = hivemind.DHT(start=True, host_maddrs=list(spec.listen))
        self._averagers: dict[tuple[int, int], DecentralizedAverager] = {}
        self._averager(0, memory.size)

    def addresses(self) -> tuple[str, ...]:
        """Return where others reach the DHT."""
        return tuple(str(address) for address in self._dht.get_visible_maddrs())[:8]

    def meet(self, address: str) -> bool:
        """Dial another DHT; tells whether it answered."""
        try:
            return bool(self._dht.run_coroutine(partial(_connect, address=address)))
        except Exception:  # noqa: BLE001  # another's address, which may be anything
            return False

    def failure(self) -> str:
        """Return which of hivemind's processes is gone, or nothing."""
        if not self._dht.is_alive():
            return "hivemind's DHT process ended"
        if not all(averager.is_alive() for averager in self._averagers.values()):
            return "hivemind's averager process ended"
        children = psutil.Process().children(recursive=True)
        if not any(_is_daemon(child) for child in children):
            return "hivemind's libp2p daemon p2pd ended"
        return ""

    def average(self, order: Average) -> Mean | Unmet | Unmade:
        """Average the memory with whoever is there."""
        began = time.monotonic()
        averager = self._averager(order.index, order.numel)
        mine = self._memory[: order.numel]
        failure = ""
        waits = order.waits
        until = began + max(order.seconds, 2 * self.window)
        while True:
            left = until - time.monotonic()
            if waits and left <= self.window:
                # Not all came: now whoever is there will do.
                waits, left = False, 2 * self.window
                until = time.monotonic() + left
            seeking = self._seeking(order.index)
            members = max(order.expected, 1 + seeking, order.quorum)
            if members == 1 or left <= self.window:
                # A peer that is expected and did not come is not waited for beyond the time.
                return Unmade(number=order.number, text=failure) if failure else Unmet(number=order.number)
            members = min(members, MAX_PEERS)
            averager.aim(members, members if waits else max(2, order.quorum))
            with averager.get_tensors() as tensors:
                # Anew at every try: one that failed half-way leaves it half averaged.
                tensors[0].copy_(torch.from_numpy(mine))
            sought = time.monotonic()
            try:
                said = averager.step(
                    gather=[self.spec.me, order.base],
                    weight=order.weight,
                    timeout=left,
                    allow_retries=False,
                )
            except Exception as error:  # noqa: BLE001  # what hivemind lets out is what a peer did to it
                if time.monotonic() - sought < left:
                    failure = _line(error)
                    log.info("a try to average failed: %s", failure)
                time.sleep(LOOK_EVERY)
                continue
            return self._mean(order, averager, said, time.monotonic() - began)

    def close(self) -> None:
        """End hivemind's processes."""
        for averager in self._averagers.values():
            averager.shutdown()
        self._dht.shutdown()

    # --- inside -----------------------------------------------------------------------------------

    def _averager(self, index: int, numel: int) -> DecentralizedAverager:
        known = self._averagers.get((index, numel))
        if known is None:
            known = self._averagers[index, numel] = DecentralizedAverager(
                [torch.zeros(numel)],
                self._dht,
                start=True,
                prefix=key_of(self.spec.prefix, index),
                compression=COMPRESSIONS[self.spec.codec](),
                min_matchmaking_time=self.window,
                request_timeout=REQUEST_SHARE * self.window,
                next_chunk_timeout=self.spec.patience,
                allow_state_sharing=False,
                shutdown_timeout=1.0,
            )
        return known

    def _seeking(self, index: int) -> int:
        """Return how many others say in the DHT that they seek a group now."""
        try:
            found = self._dht.get(f"{key_of(self.spec.prefix, index)}.0b", latest=True)
        except Exception:  # noqa: BLE001  # the DHT is others' too
            return 0
        if found is None or not isinstance(found.value, dict):
            return 0
        mine = self._dht.peer_id.to_bytes()
        return sum(1 for peer, said in found.value.items() if peer != mine and getattr(said, "value", False))

    def _mean(
        self, order: Average, averager: DecentralizedAverager, said: Any, seconds: float
    ) -> Mean | Unmade:
        if order.base and not averager.is_whole.value:
            # Parts of it are our own numbers alone; of changes, no later mean would make up for that.
            return Unmade(number=order.number, text="a member was lost in the exchange")
        members: set[str] = set()
        strangers = 0
        for peer, words in said.items():
            name, base = _name_and_base(words)
            if order.base and name and base != order.base:
                return Unmade(number=order.number, text="the group had started from several states")
            is_node = bool(name) and name not in members
            members.add(name if is_node else str(peer))
            strangers += not is_node
        with averager.get_tensors() as tensors:
            mean = tensors[0].numpy()
            if not is_sane(mean):
                return Unmade(number=order.number, text="a peer's numbers were not finite")
            self._memory[: order.numel] = mean
        exchange = averager.seconds.value
        return Mean(
            number=order.number,
            members=tuple(sorted(members))[:MAX_PEERS],
            strangers=strangers,
            matchmaking_seconds=max(0.0, seconds - exchange),
            exchange_seconds=exchange,
        )


def _name_and_base(words: Any) -> tuple[str, str]:
    """Return what a member says of itself, if it says it as a node does."""
    if isinstance(words, list | tuple) and len(words) == 2 and all(isinstance(each, str) for each in words):
        name, base = words
        if 0 < len(name) <= MAX_NAME and len(base) <= MAX_NAME:
            return name, base
    return "", ""


def _is_daemon(process: psutil.Process) -> bool:
    try:
        return process.name() == "p2pd" and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _line(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"hivemind: {text or type(error).__name__}"[:500]
