"""Scenes: nodes in the states that their page must show well, made up of the same types as real ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final

import base58
import msgspec

from shoal.node.daemon.journal import Event
from shoal.node.status import (
    AloneStatus,
    AttendeeStatus,
    CallPartStatus,
    CallsStatus,
    DonorStatus,
    ExchangeStatus,
    FetchStatus,
    HandoverStatus,
    HeardRunStatus,
    LineageStatus,
    PeerStatus,
    RoundStatus,
    RunStatus,
    Status,
)

AT: Final = 1_790_000_000.0
"""Unix seconds of all that has a time."""
RUN: Final = "7d3f90a1c2b4" + "00" * 26
ROUNDS: Final = 60
WIDE: Final = (1180, 800)
PHONE: Final = (390, 844)


@dataclass(frozen=True)
class Scene:
    """What one picture shows."""

    status: Status
    rounds: Sequence[RoundStatus] = ()
    """All that the node remembers."""
    events: Sequence[Event] = ()
    size: tuple[int, int] = WIDE
    """Pixels of the window."""
    height: int = 1100
    """At most so many pixels are kept."""
    is_dark: bool = False


def peer_id(number: int) -> str:
    """Return a peer id as they look."""
    digest = blake2b(number.to_bytes(4, "big"), digest_size=32).digest()
    return base58.b58encode(b"\x00\x24\x08\x01\x12\x20" + digest).decode()


def state_of(number: int) -> str:
    """Return the name of a state."""
    return blake2b(f"state {number}".encode(), digest_size=6).hexdigest()


ME: Final = peer_id(0)


def join_command(me: str = ME) -> str:
    """Return what the page says to type."""
    return f"shoal start --join /ip4/192.0.2.7/tcp/4710/p2p/{me} --task digits --method diloco"


def a_round(number: int, members: int = 5, **changes: Any) -> RoundStatus:
    """Return a round of a run that goes well."""
    part = number / ROUNDS
    wobble = 0.02 * math.sin(number * 2.1)
    done = RoundStatus(
        round=number,
        outcome="averaged" if members > 1 else "alone",
        contributors=members,
        loss=0.25 + 2.0 * math.exp(-5 * part) + wobble,
        metrics={"accuracy": 0.94 - 0.8 * math.exp(-6 * part) + wobble / 3},
        work_seconds=3.1 + 0.4 * math.sin(number),
        matchmaking_seconds=(0.35 + 0.2 * math.sin(number * 1.7)) if members > 1 else 0.0,
        exchange_seconds=(0.8 + 0.15 * math.cos(number)) if members > 1 else 0.0,
        finished_at=AT - 4.5 * (ROUNDS - number),
        state_hash=state_of(number),
        bytes_sent=int(3.6e6 + 2e5 * math.sin(number * 1.3)) if members > 1 else 20_000,
        bytes_received=int(3.5e6 + 2e5 * math.cos(number * 1.1)) if members > 1 else 20_000,
        members=[peer_id(n)[-8:] for n in range(min(members, 16))],
    )
    return msgspec.structs.replace(done, **changes)


def a_peer(number: int, round_: int, state: str, **changes: Any) -> PeerStatus:
    """Return a peer that takes part."""
    peer = PeerStatus(
        peer=peer_id(number),
        address=f"/ip4/198.51.100.{number % 250 + 1}/tcp/4710",
        link="direct",
        role="trainer",
        round=round_,
        state_hash=state,
        age_seconds=0.4 + number % 5,
        bytes_sent=31_000_000 + 1_700_000 * (number % 7),
        bytes_received=29_000_000 + 900_000 * (number % 9),
        phase="working",
        run=RUN[:12],
        run_name="digits at home",
    )
    return msgspec.structs.replace(peer, **changes)


def a_status(**changes: Any) -> Status:
    """Return a node that trains."""
    round_ = changes.get("round", 41)
    history = changes.get("history", [a_round(number) for number in range(round_)])
    last = history[-1] if history else None
    status = Status(
        peer_id=ME,
        name="attic",
        version="0.1.0",
        swarm="shoal",
        pid=1,
        uptime_seconds=312.0,
        addresses=[f"/ip4/192.0.2.7/tcp/4710/p2p/{ME}"],
        join_command=join_command(),
        role="trainer",
        phase="working",
        round=round_,
        state_hash=state_of(round_),
        run=RunStatus("digits at home", RUN, "diloco", "digits", ROUNDS, 8970, {"steps": 40, "lr": 0.05}),
        loss=last.loss if last else None,
        metrics=dict(last.metrics) if last else {},
        peers=[],
        bootstrap=[],
        refusals=[],
        problems=[],
        drops={},
        bytes_sent=sum(done.bytes_sent for done in history),
        bytes_received=sum(done.bytes_received for done in history),
        history=history[-200:],
        trainer="running",
        rss_bytes=92_000_000,
        utilisation=0.74 if history else None,
        page="http://127.0.0.1:4711",
        peers_met=4,
    )
    return msgspec.structs.replace(
        status, **{key: value for key, value in changes.items() if key != "history"}
    )


def an_event(seconds_ago: float, event: str, text: str, level: str = "info") -> Event:
    """Return an event of the journal."""
    return msgspec.convert(
        {"time": AT - seconds_ago, "event": event, "text": text, "level": level}, type=Event
    )


def company(round_: int, state: str) -> list[PeerStatus]:
    """Return four peers, one of them behind a relay and one a helper."""
    return [
        a_peer(1, round_, state),
        a_peer(2, round_, state),
        a_peer(3, round_, state, link="relayed", address=""),
        a_peer(4, round_ - 1, state_of(round_ - 1)),
        a_peer(5, 0, "", role="helper", phase="helping", run="", run_name=""),
    ]


def _story(rounds: int) -> list[Event]:
    told = [an_event(4.5 * rounds + 6, "run", "diloco on digits, 8,970 parameters, from the start")]
    for number in (1, 2, 3, 4):
        text = (
            f"peer {peer_id(number)[-8:]} joined at /ip4/198.51.100.{number + 1}/tcp/4710 (direct, trainer)"
        )
        told.append(an_event(4.5 * rounds + 5 - number, "peer-joined", text))
    for number in range(max(0, rounds - 8), rounds):
        done = a_round(number)
        text = (
            f"round {number + 1} of {ROUNDS}: the mean of 5, accuracy {done.metrics['accuracy']:.4g}, 4.4 s"
        )
        told.append(an_event(4.5 * (rounds - number), "round", text))
    return told


def training() -> Scene:
    """Five nodes in the middle of an exchange, after a round that was lost."""
    lost = a_round(
        30,
        outcome="failed",
        members=0,
        contributors=0,
        reason="a peer left the round; 1.2 of 3.6 MB had come",
    )
    history = [*(a_round(n) for n in range(30)), lost, *(a_round(n) for n in range(30, 41))]
    members = [ME, *(peer_id(n) for n in (1, 2, 3, 4))]
    took = (2_600_000, 2_900_000, 3_600_000, 900_000, 2_200_000)
    exchange = ExchangeStatus(
        [
            AttendeeStatus(peer, False, taken > 3_500_000, taken // 5 if peer != ME else 0, taken)
            for peer, taken in zip(members, took, strict=True)
        ],
        0.72,
    )
    status = a_status(phase="exchanging", history=history, exchange=exchange, peers=company(41, state_of(41)))
    return Scene(status, history, _story(41), height=1500)


def alone() -> Scene:
    """The first node of a run."""
    history = [a_round(n, members=1) for n in range(3)]
    status = a_status(round=3, history=history, peers_met=0, uptime_seconds=14.0, utilisation=0.99)
    return Scene(
        status,
        history,
        [an_event(14, "run", "diloco on digits, 8,970 parameters, from the start")],
        height=900,
    )


def forsaken() -> Scene:
    """A node whose company is gone."""
    history = [a_round(n) for n in range(24)]
    gone = AloneStatus(24, 130.0, 0, True, 28)
    status = a_status(round=24, history=history, alone=gone, phase="matchmaking")
    return Scene(status, history, _story(24))


def joining() -> Scene:
    """A newcomer that fetches the model."""
    donors = [DonorStatus(peer_id(n), chunks, 0.21 + 0.1 * n) for n, chunks in ((1, 31), (2, 24), (3, 11))]
    status = a_status(
        round=0,
        history=[],
        state_hash=state_of(0),
        phase="syncing",
        uptime_seconds=6.0,
        fetch=FetchStatus(41, 0.62, 224_000_000, donors),
        peers=company(41, state_of(41)),
        utilisation=None,
    )
    said = "the swarm is elsewhere than this node (round 0): fetching its state"
    told = [
        an_event(6, "run", "diloco on digits, 56,000,000 parameters, from the start"),
        *(an_event(5, "peer-joined", f"peer {peer_id(n)[-8:]} joined (direct, trainer)") for n in (1, 2, 4)),
        an_event(4, "fetching", said),
    ]
    return Scene(status, [], told, height=1000)


def split() -> Scene:
    """A swarm in two halves."""
    history = [a_round(n, members=3) for n in range(33)]
    theirs = state_of(999)
    others = [a_peer(n, 34, theirs) for n in (3, 4, 5)]
    status = a_status(
        round=33,
        history=history,
        peers=[a_peer(1, 33, state_of(33)), a_peer(2, 33, state_of(33)), *others],
        refused_lineages=[
            LineageStatus(
                round=34,
                state_hash=theirs,
                n_peers=3,
                peers=[each.peer for each in others],
                reason="no colleague of this node holds it",
            )
        ],
        home=" --home ~/attic",
    )
    return Scene(status, history, _story(33), height=1000)


def hosts() -> Scene:
    """A client of a split model whose host has just gone, and another took its place."""
    history = [a_round(n, members=4) for n in range(12)]
    gone, spare, host = peer_id(9), peer_id(1), peer_id(2)
    calls = CallsStatus(
        hosts={"host": [host], "host2": [peer_id(3)], "spare": [spare], "spare2": []},
        per_second=21.4,
        waiting=0,
        unanswered=1,
        parts=[
            CallPartStatus("forward", "answer", 0.031),
            CallPartStatus("grad", "answer", 0.044),
            CallPartStatus("give", "queue", 0.0004),
            CallPartStatus("give", "work", 0.0021),
            CallPartStatus("predict", "answer", 0.019),
        ],
        handovers=[
            HandoverStatus("forward", gone, spare, "lost", 0.21, 95.0),
            HandoverStatus("grad", gone, spare, "silent", 2.24, 93.0),
        ],
    )
    peers = [a_peer(n, 12, state_of(12)) for n in (1, 2, 3)]
    run = RunStatus("split at home", RUN, "mpsl", "digits_captions", ROUNDS, 2538, {"stages": 2})
    status = a_status(round=12, history=history, calls=calls, peers=peers, run=run)
    return Scene(status, history, _story(12), height=800)


def finished() -> Scene:
    """The end of a run."""
    history = [a_round(n) for n in range(ROUNDS)]
    peers = [
        msgspec.structs.replace(each, phase="finished") if each.run else each
        for each in company(60, state_of(60))
    ]
    peers[3] = msgspec.structs.replace(peers[3], round=60, state_hash=state_of(60))
    status = a_status(round=ROUNDS, history=history, phase="finished", peers=peers)
    end = "the run is over after 60 rounds, accuracy 0.9374; the state is served on until this node ends"
    return Scene(status, history, [*_story(60), an_event(0, "finished", end)], height=1000)


def crowd(n_peers: int = 200, n_rounds: int = 10_000) -> Scene:
    """A large swarm, and a long run."""
    last = min(n_rounds, 200)
    peers = [
        a_peer(
            n,
            n_rounds - (n % 11 == 0),
            state_of(n_rounds - (n % 11 == 0)),
            link="direct" if n <= 48 else ("relayed" if n <= 60 else "none"),
            **({"run": "ab12cd34ef56", "run_name": "cifar"} if n % 17 == 0 else {}),
        )
        for n in range(1, n_peers + 1)
    ]
    rounds = [
        msgspec.structs.replace(
            a_round(n * ROUNDS // n_rounds, members=16), round=n, finished_at=AT - 4.5 * (n_rounds - n)
        )
        for n in range(n_rounds)
    ]
    status = a_status(
        round=n_rounds,
        history=rounds[-last:],
        peers=peers,
        uptime_seconds=45_000.0,
        run=RunStatus("digits at home", RUN, "diloco", "digits", 0, 8970, {"steps": 40, "lr": 0.05}),
        runs=[
            HeardRunStatus(
                name="digits at home",
                run_id=RUN[:12],
                peers=189,
                linked=57,
                round=n_rounds,
                ours=True,
                task="digits",
                method="diloco",
                mode="open",
                parameters=8970,
                accuracy=0.9313,
            ),
            HeardRunStatus(
                name="cifar",
                run_id="ab12cd34ef56",
                peers=11,
                linked=3,
                round=n_rounds,
                ours=False,
                task="cifar",
                method="fedavg",
                mode="invite",
                rounds=20_000,
                parameters=62_006,
            ),
        ],
        bytes_sent=36_000_000_000,
        bytes_received=35_000_000_000,
    )
    return Scene(status, rounds, _story(60), height=1300)


def phone() -> Scene:
    """The same as `training`, on a phone."""
    return replace(training(), size=PHONE, height=1900)


def dark() -> Scene:
    """The same as `training`, in the dark."""
    return replace(training(), is_dark=True)


SCENES: Final = {
    "alone": alone,
    "forsaken": forsaken,
    "joining": joining,
    "training": training,
    "split": split,
    "hosts": hosts,
    "finished": finished,
    "200-peers": crowd,
    "phone": phone,
    "dark": dark,
}
"""By the name of the picture."""
