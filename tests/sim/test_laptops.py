"""A day of laptops in virtual time: they sleep, run on batteries, keep hours and sit behind slow lines.

What decides ships: `why_not` (node/service/schedule.py) has each node's `Rounds` pause and go on. No round of
anybody may fail for it.
"""

from collections import Counter
from collections.abc import Iterator

import pytest
from sim.node import SimNode
from sim.world import Fault, Scenario, Sim

from shoal.gossip.member import commands
from shoal.node.service.schedule import Moment, Rules, parse_hours, why_not

HOUR = 3600.0
DAY = 24 * HOUR
QUICK = 3.0
"""Seconds of local work at the end, so that it is soon seen that the swarm is one."""


class Life:
    """What happens to one node in a day, in hours."""

    def __init__(
        self,
        hours: str = "",
        battery: tuple[tuple[float, float], ...] = (),
        asleep: tuple[tuple[float, float], ...] = (),
        by_hand: tuple[tuple[float, float], ...] = (),
        kb_per_second: float = 0.0,
    ) -> None:
        self.rules = Rules(parse_hours(hours), "help" if battery else "train")
        self.battery, self.asleep, self.by_hand = battery, asleep, by_hand
        self.rate = kb_per_second

    def reason(self, now: float) -> str:
        """Return why it does not train at a moment of the day."""
        at = now / HOUR
        on_battery = any(begin <= at < end for begin, end in self.battery)
        until = max((end * HOUR for begin, end in self.by_hand if begin <= at < end), default=0.0)
        return why_not(self.rules, Moment(now, int(at * 60) % 1440, on_battery), until)

    def faults(self, number: int) -> Iterator[Fault]:
        for begin, end in self.asleep:
            yield (begin * HOUR, "freeze", number, (end - begin) * HOUR)
        if self.rate:
            yield (1.0, "slow", number, self.rate, DAY)


LIVES = (
    Life(),
    Life(hours="22-7,12-13:30", kb_per_second=400.0),
    Life(battery=((8.2, 11.7), (15.0, 15.1), (20.5, 23.0))),
    Life(asleep=((1.0, 6.5), (12.5, 12.75), (18.0, 19.0)), battery=((18.9, 20.0),), by_hand=((9.0, 10.0),)),
)


class Day(Sim):
    """A run in which every node lives as it is told, and every failed ask is noted."""

    def __init__(self, lives: tuple[Life, ...], seconds: float, work: float, seed: int = 1) -> None:
        faults = [fault for number, life in enumerate(lives) for fault in life.faults(number)]
        # One that does nothing, so that the day has its length.
        faults.append((seconds, "tired", 0, 1.0))
        everyone = tuple(range(len(lives)))
        super().__init__(
            Scenario(seed, len(lives), tuple(faults), paces=(work,), alone="go-on", acquainted=everyone)
        )
        self.lives, self.length = lives, seconds
        self.hurries_at = seconds - 1.5 * work
        self.at(self.hurries_at, self._hurry)
        self.paused: dict[int, str] = {}
        self.pauses: Counter[int] = Counter()
        self.failures: list[tuple[float, int, str]] = []
        self.made: Counter[tuple[int, bool]] = Counter()
        """(node, whether it was to train) -> rounds that it finished."""
        self.waited = 0.0
        """The longest search for a group while somebody paused; seconds."""
        honest = self.oracle.noticed

        def noticed(node: SimNode, notice: object) -> None:
            if isinstance(notice, commands.Failed):
                self.failures.append((self.now, node.number, notice.text))
            if isinstance(notice, commands.Averaged) and any(self.paused.values()):
                self.waited = max(self.waited, notice.matchmaking_seconds)
            if isinstance(notice, commands.Averaged) and self.now < self.hurries_at:
                self.made[node.number, not self.paused.get(node.number)] += 1
            honest(node, notice)

        self.oracle.noticed = noticed  # type: ignore[method-assign]
        self.at(1.0, self._look)

    def _look(self) -> None:
        """Do for every node what its daemon does twice a second; every ten seconds are enough here."""
        for node in self.nodes.values():
            if not node.is_alive or node.is_frozen:
                continue
            reason = "" if self.now >= self.length else self.lives[node.number].reason(self.now)
            if bool(reason) != bool(self.paused.get(node.number)):
                node.act(node.rounds.pause if reason else node.rounds.resume)
                self.pauses[node.number] += bool(reason)
            self.paused[node.number] = reason
        if self.now <= self.length:
            self.at(self.now + 10.0, self._look)

    def _hurry(self) -> None:
        for node in self.nodes.values():
            node.pace = QUICK
            if node.trainer is not None:
                node.trainer.pace = QUICK


@pytest.mark.slow
def test_in_a_day_of_laptops_nobodys_round_fails_for_another_ones_life() -> None:
    work = 300.0
    day = Day(LIVES, DAY, work)
    result = day.run()
    assert not result.violations
    assert result.seconds >= DAY
    assert day.failures == []
    assert day.pauses == {1: 2, 2: 3, 3: 2}
    assert day.made[0, True] > 0.7 * DAY / work
    assert all(day.made[number, True] > 60 for number in range(4))
    # What a node had begun with others when it was to stop it finished.
    assert sum(count for (_, is_wanted), count in day.made.items() if not is_wanted) <= 7


@pytest.mark.parametrize("seed", range(8))
def test_a_node_that_pauses_at_any_moment_of_a_round_fails_nobodys(seed: int) -> None:
    # At times that fall into every phase of a round, since the seeds draw its length.
    spans = tuple((minutes / 60, (minutes + 2.5) / 60) for minutes in (3 + 0.1 * seed, 8 + 0.3 * seed, 15))
    day = Day((Life(), Life(), Life(by_hand=spans)), 20 * 60.0, 60.0, seed)
    result = day.run()
    assert not result.violations
    assert day.failures == []
    assert day.pauses == {2: 3}
    # Others do not wait for it: without its word that it trains no more they do, for up to 16 s.
    assert day.waited < 10
    assert min(day.made[number, True] for number in (0, 1)) > 12
    # What it had begun with others it finished; it began nothing.
    assert day.made[2, False] <= 3
