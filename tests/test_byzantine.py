"""The table of lies and reducers runs, and its bounds hold where the plain mean does not."""

import json
from typing import Any

import numpy as np
import pytest

from scripts.byzantine import (
    LIES,
    MEMBERS,
    REDUCERS,
    Round,
    Seen,
    Setting,
    main,
    owned,
    parts,
    present,
    run,
    times,
)
from scripts.small_digits import NUMEL
from shoal.node.testnet.lies.catalogue import LIES as TOLD_BY_NODES


def test_every_reducer_and_lie_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tiny", "--seeds", "1", "--nodes", "6", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["reducer"], line["attack"]) for line in lines] == [
        (r, lie) for r in REDUCERS for lie in LIES
    ]
    assert set(lines[0]) == {"reducer", "attack", "nodes", "liars", "alpha", "accuracy", "seeds"}


def test_every_lie_of_a_node_that_bends_numbers_stands_in_the_table() -> None:
    said_only = {"cut", "silent-convener"}
    assert {lie.name for lie in TOLD_BY_NODES if lie.who != "outsider"} - said_only <= set(LIES)


@pytest.mark.parametrize("lie", ["weight", "scale-1000"])
def test_one_absurd_member_is_the_mean_and_moves_bounded_reducers_by_one_step(lie: str) -> None:
    dice = np.random.default_rng(0)
    honest = dice.normal(size=(6, NUMEL)).astype(np.float32) + 1
    lying = honest.copy()
    seen = Seen(lying[:5], lying[5:], [100.0], dice)

    MEMBERS[lie](seen)
    weights = [100.0] * 5
    before = Round(honest, [*weights, 100.0], np.zeros(NUMEL, np.float32))
    after = Round(lying, [*weights, *seen.weights], np.zeros(NUMEL, np.float32))
    step = float(np.linalg.norm(honest[0]))
    moved = {name: float(np.linalg.norm(reduce(after) - reduce(before))) for name, reduce in REDUCERS.items()}
    assert moved.pop("mean") > 1.5 * step
    # Of six, the liar counts twice in seven, and with the norm of an honest one: it can turn that much round.
    assert max(moved.values()) <= 1.01 * step * (2 / 7 * 2)


def test_liars_change_nothing_where_none_of_the_lies_is_told() -> None:
    settings: dict[str, Any] = {"nodes": 4, "alpha": 1.0, "rounds": 2, "steps": 2}
    assert run(Setting("clip", "none", liars=1, **settings), 0) == run(
        Setting("clip", "none", liars=0, **settings), 0
    )
    seen = Seen(np.ones((1, NUMEL), np.float32), np.ones((1, NUMEL), np.float32), [1.0])
    times(-1.0)(seen)
    assert (seen.own == -1).all()


def test_what_a_liar_owns_turns_with_the_rounds_so_that_nobody_reduces_the_same_numbers_always() -> None:
    n = 6
    assert sum(here.stop - here.start for here in parts(n)) == NUMEL
    times_owned = sum(np.bincount(owned(1 / n, round_, n), minlength=NUMEL) for round_ in range(n))
    assert np.abs(times_owned - 1).sum() <= 2 * n


def test_more_liars_than_peers_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--nodes", "3", "--liars", "3"])
    assert "lower --liars" in capsys.readouterr().err


def test_peers_that_were_away_know_no_last_update_and_liars_are_never_away() -> None:
    dice, away = np.random.default_rng(0), frozenset[int]()
    lacked = 0
    for _ in range(200):
        here, lacking = present(5, 1, away, 0.3, dice)
        assert here[-1] == 5
        assert {here[place] for place in lacking} == away & set(here)
        away = frozenset(range(6)) - frozenset(here)
        lacked += len(lacking)
    assert 5 not in away
    # Each of the five is away in three rounds of ten, and back after seven of ten of these.
    assert lacked / (200 * 5) == pytest.approx(0.3 * 0.7, abs=0.04)


def test_a_run_with_absent_peers_clips_around_what_most_know() -> None:
    setting = Setting("clip", "weight", 6, 1, 1.0, rounds=4, steps=2, absent=0.5)
    assert 0.0 < run(setting, 0) < 100.0
