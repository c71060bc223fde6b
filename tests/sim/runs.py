"""Runs of the simulator by seed: what a seed means, and how a failing one shrinks."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any, Final, get_args

from sim.liars import KINDS as LIES
from sim.lineage_liars import MADE_UP
from sim.network import Weather
from sim.rosters import SHARE as ROSTERS
from sim.world import Fault, Result, Scenario, Sim

from shoal.gossip.run_spec import Combine

CLASSES: Final = (
    "crash",
    "outage",
    "leave",
    "trainer",
    "freeze",
    "split",
    "oneway",
    "break",
    "slow",
    "tired",
    "jump",
    "lossy",
)
"""Kinds of faults that honest swarms meet."""
EVERYTHING: Final = (*CLASSES, "lie")
PAIRWISE: Final = 0.25
"""Share of the seeds, of those whose rounds ask for one mean, in which all average pairwise."""
COMBINING: Final = 0.5
"""Share of the seeds, of those whose peers average in groups, in which how they combine is drawn."""
SCOPES: Final = 0.1
"""Share of the seeds, of those whose rounds ask for one mean, in which holders of a scope have another."""
CALLS: Final = 0.1
"""Share of the seeds in which trainers call hosts."""
SPLIT: Final = 0.03
"""Share of the seeds, of the others, in which all learn by split learning."""
HOUSES: Final = 0.01
"""Share of the seeds in which several newcomers have addresses of one prefix."""
SETTLED: Final = 9
"""Peers beside whom there is a seat for a third newcomer."""
LACKING: Final = 0.15
"""Of seeds: some nodes lack the frozen base of the run."""
SLOW_LINES: Final = 0.15
"""Share of the seeds in which some lines are slow for a minute or two."""
LAST_FAULT: Final = 20.0
"""Virtual seconds in which faults begin."""


def draw(seed: int, nodes: int | None = None, kinds: tuple[str, ...] = EVERYTHING) -> Scenario:
    """Return the scenario of a seed."""
    dice = Random(f"scenario {seed}")
    count = nodes or dice.choice((2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9))
    helpers = int(count > 3 and dice.random() < 0.15)
    mixing = count > 5 and dice.random() < 0.15
    weather = Weather(
        latency=dice.choice((0.002, 0.02, 0.08)),
        jitter=dice.choice((0.1, 1.0)),
        loss=dice.choice((0.0, 0.0, 0.02)),
        gaps=0.0,
        twice=0.2,
    )
    scenario = Scenario(
        seed,
        count,
        paces=tuple(dice.choice((1.5, 3.0, 5.0)) for _ in range(count)),
        steps=tuple(dice.choice((0.02, 0.1, 0.3)) for _ in range(count)),
        starts=tuple(dice.choice((0.0, 0.0, 0.5, 6.0)) if number else 0.0 for number in range(count)),
        topology=dice.choice(("star", "line", "ring", "pairs")),
        helpers=helpers,
        group_size=dice.choice((max(2, (count + 1) // 2), count - 1, count)) if mixing else 16,
        quorum=dice.choice((1, 1, 1, 2)),
        rounds=dice.choice((0, 0, 0, 0, 6)),
        calm_rounds=dice.choice((1, 1, 1, 5)),
        wait_for=dice.choice((1, 1, 2)),
        patience=dice.choice((5.0, 15.0)),
        asks=dice.choice(("r", "r", "r", "r", "rr", "g", "gr")),
        chunk_numel=dice.choice((2, 8, 8)),
        weather=weather,
        rates=tuple(dice.choice((1.0, 1.0, 0.97, 1.03)) for _ in range(count)),
    )
    faults = [_draw_fault(dice, scenario, kind) for kind in _draw_kinds(dice, kinds)]
    # Of dice of their own, so that a seed is otherwise what it was.
    lines = Random(f"lines {seed}")
    scenario = replace(
        scenario, lines=tuple(lines.choice((0, 0, 0, 256, 1024, 4096, 1 << 15)) for _ in range(count))
    )
    alone = Random(f"alone {seed}")
    scenario = replace(scenario, alone=alone.choice(("wait", "wait", "wait-for-lost", "go-on")))
    scenario = replace(scenario, acquainted=_draw_acquainted(Random(f"trust {seed}"), scenario, faults))
    pairs = Random(f"pairwise {seed}")
    if pairs.random() < PAIRWISE and scenario.asks == "r" and scenario.quorum == 1:
        scenario = replace(scenario, pushes=pairs.choice((1, 2, 3)))
    if scenario.asks == "r" and not scenario.pushes and Random(f"scopes {seed}").random() < SCOPES:
        scenario = replace(scenario, asks="gsr")
    combining = Random(f"combine {seed}")
    if not scenario.pushes and combining.random() < COMBINING:
        scenario = replace(scenario, combine=combining.choice(get_args(Combine)))
    roster = Random(f"roster {seed}")
    if roster.random() < ROSTERS:
        scenario = replace(scenario, mode=roster.choice(("closed", "invite", "invite", "open")))
        if "lie" in kinds and roster.random() < 0.8:
            faults.append(
                (round(roster.uniform(0.5, LAST_FAULT), 2), "lie", roster.randrange(count), "edicts", 9.0)
            )
    calls = Random(f"calls {seed}")
    if calls.random() < CALLS:
        scenario = replace(scenario, calls=True)
        if "lie" in kinds and calls.random() < 0.5:
            when = round(calls.uniform(0.5, LAST_FAULT), 2)
            faults.append((when, "lie", calls.randrange(count), "calls", 9.0))
    elif (split := Random(f"split {seed}")).random() < SPLIT:
        scenario = replace(scenario, stages=split.choice((1, 2)))
        if "lie" in kinds and split.random() < 0.5:
            when, how = round(split.uniform(0.5, LAST_FAULT), 2), split.choice(("split-host", "split-client"))
            faults.append((when, "lie", split.randrange(count), how, 9.0))
    parts = Random(f"base {seed}")
    if parts.random() < LACKING:
        others = range(1, count - helpers)
        some = parts.sample(others, parts.randint(min(1, len(others)), len(others)))
        scenario = replace(scenario, lacking=tuple(sorted(some)))
    if "slow" in kinds:
        faults += _draw_slow_lines(Random(f"slow lines {seed}"), count)
    scenario = replace(scenario, faults=tuple(sorted(faults)))
    crowd = Random(f"crowd {seed}")
    is_full = nodes is None and "lie" in kinds and crowd.random() < HOUSES
    return _of_one_house(crowd, scenario) if is_full else scenario


def _draw_slow_lines(dice: Random, count: int) -> list[Fault]:
    """Return lines that are slow for longer than anybody is patient, or that hardly carry anything."""
    if dice.random() >= SLOW_LINES:
        return []
    rates = dice.choice(((1.0,), (1.0, 2.0), (8.0, 20.0), (50.0, 100.0)))
    slow = sorted(dice.sample(range(count), dice.randrange(1, count + 1)))
    when, seconds = round(dice.uniform(0.0, LAST_FAULT), 2), round(dice.uniform(50.0, 110.0), 2)
    return [(when, "slow", number, dice.choice(rates), seconds) for number in slow]


def _draw_acquainted(dice: Random, scenario: Scenario, faults: list[Fault]) -> tuple[int, ...]:
    """Return who knows each other from before: in a young run nobody, later all but some who lie."""
    lies = {fault[2]: fault[3] for fault in faults if fault[1] == "lie"}
    # In a young run such a lie may be believed: nobody knows anybody.
    if dice.random() < 0.5 and not set(lies.values()) & set(MADE_UP):
        return ()
    trainers = range(scenario.nodes - scenario.helpers)
    return tuple(number for number in trainers if number not in lies or dice.random() < 0.5)


def _of_one_house(dice: Random, scenario: Scenario) -> Scenario:
    """Return an open run of nine that know each other, in which newcomers from one house ask for seats."""
    count = SETTLED + dice.choice((3, 4))
    return Scenario(
        scenario.seed,
        count,
        starts=(0.0,) * SETTLED + (6.0,) * (count - SETTLED),
        acquainted=tuple(range(SETTLED)),
        house=tuple(range(SETTLED, count)),
        calm_rounds=5,
        weather=scenario.weather,
    )


def _draw_kinds(dice: Random, kinds: tuple[str, ...]) -> list[str]:
    if not kinds:
        return []
    some = [dice.choice(kinds) for _ in range(dice.choice((1, 2, 3)))]
    return [dice.choice(some) for _ in range(dice.choice((0, 1, 2, 3, 5)))]


def _draw_fault(dice: Random, scenario: Scenario, kind: str) -> Fault:
    count = scenario.nodes
    when = round(dice.uniform(0.5, LAST_FAULT), 2)
    number = dice.randrange(count)
    other = (number + dice.randrange(1, count)) % count
    seconds = round(dice.choice((1.0, 4.0, 4.0, 12.0, 40.0)) * dice.uniform(0.5, 1.0), 2)
    arguments: tuple[Any, ...]
    match kind:
        case "crash":
            effects = dice.choice((0, dice.randrange(1, 100)))
            power, down = dice.random() < 0.2, dice.choice((0.2, 3.0, 20.0))
            if number == count - 1 > 3:
                # One that never comes back; enough are left for any quorum, and nobody knows it alone.
                down = 0.0
            arguments = (number, effects, power, down)
        case "outage":
            some = tuple(sorted(dice.sample(range(count), dice.randrange(1, count + 1))))
            arguments = (some, dice.random() < 0.3, dice.choice((3.0, 15.0, 30.0)))
        case "leave" | "trainer" | "unlike":
            arguments = (number, seconds)
        case "freeze":
            arguments = (number, seconds)
        case "split":
            side = tuple(sorted(dice.sample(range(count), dice.randrange(1, count))))
            arguments = (side, seconds, dice.random() < 0.5)
        case "oneway":
            arguments = (number, other, seconds)
        case "break":
            arguments = (number, other)
        case "slow":
            arguments = (number, dice.choice((50.0, 400.0)), seconds)
        case "tired":
            arguments = (number, dice.choice((2.0, 6.0)))
        case "lie":
            arguments = (number, dice.choice(LIES), round(dice.uniform(5.0, 30.0), 2))
        case "jump":
            arguments = (number, dice.choice((2.0, 30.0, 3600.0, -100.0, -3600.0)))
        case _:
            arguments = (0.2, seconds)
    return (when, kind, *arguments)


def run_seed(seed: int, nodes: int | None = None, kinds: tuple[str, ...] = EVERYTHING) -> Result:
    """Run the scenario of a seed."""
    return Sim(draw(seed, nodes, kinds)).run()


def shrink(scenario: Scenario, tries: int = 200) -> Scenario:
    """Return a scenario with fewer and shorter faults that still violates the same invariant."""
    wanted = {violation.invariant for violation in Sim(scenario).run().violations}

    def still_fails(candidate: Scenario) -> bool:
        nonlocal tries
        tries -= 1
        return any(violation.invariant in wanted for violation in Sim(candidate).run().violations)

    changed = True
    while changed and tries > 0:
        changed = False
        for candidate in _simpler(scenario):
            if tries > 0 and still_fails(candidate):
                scenario, changed = candidate, True
                break
    return scenario


def _simpler(scenario: Scenario) -> list[Scenario]:
    faults = scenario.faults
    found = [replace(scenario, faults=faults[:i] + faults[i + 1 :]) for i in range(len(faults))]
    plain = Scenario(scenario.seed)
    for name in (
        "starts",
        "rates",
        "lines",
        "paces",
        "steps",
        "topology",
        "asks",
        "chunk_numel",
        "quorum",
        "wait_for",
        "alone",
        "acquainted",
        "house",
        "pushes",
        "combine",
        "mode",
        "lacking",
        "stages",
    ):
        if getattr(scenario, name) != getattr(plain, name):
            found += [replace(scenario, **{name: getattr(plain, name)})]
    for name in ("loss", "twice", "jitter"):
        if getattr(scenario.weather, name) != getattr(plain.weather, name):
            weather = replace(scenario.weather, **{name: getattr(plain.weather, name)})
            found.append(replace(scenario, weather=weather))
    return found
