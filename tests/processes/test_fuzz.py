"""A live node under malformed frames: it stays up, keeps its peers, counts what it drops, stays small."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import hypothesis
import msgspec
import pytest
import trio
from hypothesis import strategies
from nacl.signing import SigningKey
from swarm import TRAIN, Swarm, averaged

from shoal.crypto.envelope import seal
from shoal.crypto.keys import PeerId
from shoal.gossip import messages
from shoal.gossip.admission.admission import MAX_STRIKES
from shoal.gossip.events import PeerFound, PeerLost
from shoal.gossip.net.host_config import HostConfig
from shoal.gossip.net.libp2p_host import Libp2pHost, open_host
from shoal.gossip.wire import PLAIN, SIGNED, swarm_id
from shoal.node.status import Status

FRAMES: Final = 10_000
ATTACKERS: Final = 4
"""Links at the same time."""
MAX_GROWTH_BYTES: Final = 40_000_000
"""What Python's heap may keep of frames that came and went; 10,000 frames of the largest size are 2.5 GB."""

REASONS: Final = (
    "malformed frame", "malformed message", "kind does not match", "other swarm", "replayed", "bad envelope",
    "not signed by the link's peer", "unsigned control message",
)  # fmt: skip
HASH: Final = bytes(32)
GROUP: Final = bytes(16)
KINDS: Final[tuple[messages.Message, ...]] = (
    messages.Leave(),
    messages.Describe(b"\x80"),
    messages.Ready(3, HASH),
    messages.Want(HASH),
    messages.NotHeld(HASH),
    messages.Fetch(HASH, (0, 1)),
    messages.Wait(HASH),
    messages.Alive(GROUP, 0),
    messages.Abandon(GROUP, 0),
    messages.Yield(GROUP, 0, 1, 2),
    messages.Claim(GROUP, 0, 1, 2),
    messages.Settle(9),
    messages.Applied(9, 1),
    messages.Coming(9, 1, 1 << 20),
    messages.SealedRecords(((b"\x00\x04junk", 1.0),)),
)
BULK: Final[tuple[messages.Message, ...]] = (
    messages.Part(GROUP, 0, 0, 0, 0),
    messages.Reveal(GROUP, 0, 1),
    messages.Offer(HASH, b"", 3, 800),
    messages.Chunk(HASH, 0),
    messages.Push(9, 1, 0, 1.0),
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
encode = msgspec.msgpack.Encoder().encode


class Attacker:
    """Somebody with a key of its own, who knows the swarm and the run, and the wire format by heart."""

    def __init__(self, run: bytes) -> None:
        self.key = SigningKey.generate()
        self.run = run
        self.sequence = 1 << 50

    def sealed(self, kind: str, body: bytes, *, swarm: str = "shoal", key: SigningKey | None = None) -> bytes:
        self.sequence += 1
        return SIGNED + seal(
            key or self.key,
            swarm=swarm_id(swarm),
            run=self.run,
            kind=kind,
            sequence=self.sequence,
            body=body,
        )

    def right(self, message: messages.Message) -> bytes:
        return self.sealed(type(message).__name__, encode(message))


# Each makes one frame that no correct peer sends: head and data.
Mangle = Callable[[Attacker, random.Random], tuple[bytes, bytes]]


def noise(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    # Not 00 with fewer bytes than an envelope nor 01 with a message: both have their own kind below.
    return bytes([dice.randrange(2, 256)]) + dice.randbytes(dice.randrange(300)), b""


def flipped(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    frame = bytearray(attacker.right(dice.choice(KINDS)))
    frame[dice.randrange(1, len(frame))] ^= 1 << dice.randrange(8)
    return bytes(frame), b""


def cut(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    frame = attacker.right(dice.choice(KINDS))
    return frame[: dice.randrange(1, len(frame))], b""


def signed_noise(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    kind = dice.choice([type(dice.choice(KINDS)).__name__, "Wire", "", "\u00fc" * 50])
    return attacker.sealed(kind, b"\xc1" + dice.randbytes(dice.randrange(400))), b""


def signed_structure(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    """Right msgpack of a wrong shape: other types, missing and further fields, numbers out of all bounds."""
    message = dice.choice(KINDS)
    fields = [type(message).__name__, *msgspec.structs.astuple(message)]
    junk: list[Any] = [None, -1, 1 << 63, float("nan"), "x" * 300, b"y" * 300, [[]] * 70, {"a": 1}, True]
    if len(fields) > 1 and dice.random() < 0.7:
        fields[dice.randrange(1, len(fields))] = dice.choice([{"deep": [[[[]]]]}, None, -(1 << 40)])
    else:
        fields.append(dice.choice(junk))
    return attacker.sealed(type(message).__name__, encode(fields)), b""


def huge_counts(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    """Headers of arrays and strings that announce gigabytes."""
    head = dice.choice(
        [b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"]
    )
    kind = b"\xa7Propose"
    return attacker.sealed("Propose", b"\x97" + kind + b"\x03" + head + dice.randbytes(50)), b""


def deep(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    return attacker.sealed("Fetch", b"\x91" * dice.randrange(100, 20_000)), b""


def other_kind(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    one, other = dice.sample(KINDS, 2)
    return attacker.sealed(type(one).__name__, encode(other)), b""


def bulk_signed(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    return attacker.right(dice.choice(BULK)), b""


def control_unsigned(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    return PLAIN + encode(dice.choice(KINDS)), dice.randbytes(dice.choice([0, 0, 500]))


def bulk_noise(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    return PLAIN + b"\xc1" + dice.randbytes(dice.randrange(100)), dice.randbytes(dice.choice([0, 10, 70_000]))


def not_a_number(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    part = [*("Part", GROUP, 0, 0, 0, 0), dice.choice([float("nan"), float("inf"), -1.0, 1e300])]
    return PLAIN + encode(part), dice.randbytes(800)


def of_another(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    return attacker.sealed("Leave", encode(messages.Leave()), key=SigningKey(dice.randbytes(32))), b""


def of_another_swarm(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    return attacker.sealed("Leave", encode(messages.Leave()), swarm="other"), b""


def replayed(attacker: Attacker, dice: random.Random) -> tuple[bytes, bytes]:
    """One with a sequence of long ago: the same to the guard as one that was recorded."""
    attacker.sequence, now = dice.randrange(1 << 40), attacker.sequence
    frame = attacker.right(messages.Want(HASH))
    attacker.sequence = now
    return frame, b""


MANGLES: Final[tuple[Mangle, ...]] = (
    noise, flipped, cut, signed_noise, signed_structure, huge_counts, deep, other_kind,
    bulk_signed, control_unsigned, bulk_noise, not_a_number, of_another, of_another_swarm, replayed,
)  # fmt: skip


async def attack(target: str, run: bytes, frames: list[tuple[int, int]]) -> None:
    """Send frames over one link, as many as the node takes, and wait until it closes the link."""
    attacker = Attacker(run)
    peer = PeerId(target.rpartition("/")[2])
    config = HostConfig(listen=(), mdns=False, dht=False)
    async with open_host(attacker.key, config) as host:
        host.dial_nowait(target)
        await wait_for(host, PeerFound)
        # A right one first: its sequence is known from now on, so that a lower one is a replay.
        host.send_nowait(peer, attacker.right(messages.Want(HASH)))
        for number, seed in frames:
            host.send_nowait(peer, *MANGLES[number](attacker, random.Random(seed)))
        await wait_for(host, PeerLost)


def malformed(status: Status) -> dict[str, int]:
    """Return what was dropped for what peers sent, without answers that found their receiver gone."""
    return {reason: count for reason, count in status.drops.items() if reason in REASONS}


async def wait_for(host: Libp2pHost, kind: type) -> None:
    with trio.fail_after(60):
        while not isinstance(await host.next_event(), kind):
            pass


def test_a_node_outlives_ten_thousand_malformed_frames_and_goes_on_averaging(tmp_path: Path) -> None:
    frame = strategies.tuples(strategies.integers(0, len(MANGLES) - 1), strategies.integers(0, 1 << 32))
    link = strategies.lists(frame, min_size=MAX_STRIKES, max_size=MAX_STRIKES)
    links = strategies.lists(link, min_size=ATTACKERS, max_size=ATTACKERS)
    sent: Counter[str] = Counter()
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *TRAIN, "--wait-for", "2")
        two = swarm.start("two", *TRAIN, "--wait-for", "2", join=one)
        before = one.wait("averages", lambda status: len(averaged(status)) >= 2)
        assert before.run is not None
        address, run = one.address, bytes.fromhex(before.run.run_id)

        @hypothesis.given(links)
        @hypothesis.settings(
            max_examples=-(-FRAMES // (MAX_STRIKES * ATTACKERS)),
            deadline=None,
            database=None,
            derandomize=True,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def break_in(links: list[list[tuple[int, int]]]) -> None:
            async def together() -> None:
                async with trio.open_nursery() as nursery:
                    for frames in links:
                        nursery.start_soon(attack, address, run, frames)

            trio.run(together)
            sent.update(MANGLES[number].__name__ for frames in links for number, _ in frames)
            assert sum(malformed(one.status).values()) == sum(sent.values()), one.status.drops

        break_in()
        after = one.status
        print(f"sent {dict(sent)}")
        print(f"dropped {malformed(after)}")
        grown = after.rss_bytes - before.rss_bytes
        print(f"memory {before.rss_bytes / 1e6:.0f} MB before, {after.rss_bytes / 1e6:.0f} MB after")
        assert sum(sent.values()) >= FRAMES
        assert set(sent) == {mangle.__name__ for mangle in MANGLES}
        assert set(malformed(after)) == set(REASONS)
        assert after.pid == before.pid
        assert grown < MAX_GROWTH_BYTES
        later = one.wait("averages on", lambda status: status.round >= after.round + 2)
        for status in (later, two.status):
            assert {each.outcome for each in status.history} == {"averaged"}
            assert {each.contributors for each in status.history} == {2}
        assert two.status.peer_id in {peer.peer for peer in one.status.peers if peer.link == "direct"}
