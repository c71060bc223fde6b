"""The figures of scripts/bench_sizes.py, from what was seen."""

import torch

from scripts import bench_sizes as bench
from scripts.empty_task import Empty
from shoal.node.status import RoundStatus

ROLLUP = """55f0-7ffd ---p 00000000 00:00 0    [rollup]
Rss:              900 kB
Pss:              700 kB
Pss_Dirty:        600 kB
Shared_Clean:     100 kB
Private_Clean:     50 kB
Private_Dirty:    400 kB
"""


def averaged(number: int, at: float) -> RoundStatus:
    return RoundStatus(
        round=number,
        outcome="averaged",
        contributors=2,
        loss=0.0,
        metrics={},
        work_seconds=0.1,
        matchmaking_seconds=0.1,
        exchange_seconds=0.25,
        finished_at=at,
        state_hash="",
    )


def test_memory_is_read_from_the_rollup() -> None:
    assert bench.memory_of(ROLLUP) == (700 * 1024, 450 * 1024)


def test_a_row_tells_the_highest_peak_and_counts_no_warm_up() -> None:
    history = [averaged(number, at) for number, at in enumerate((0.0, 50.0, 60.0, 61.0, 62.0))]
    cpu = {0: 0.0, 1: 9.0, 2: 10.0, 4: 10.5}
    small = bench.Seen(400, (1, 1, 1), cpu, history)
    large = bench.Seen(3_000_000, (500_000, 1_000_000, 1_500_000), cpu, history)
    row = bench.row("diloco", "adamw", 100_000, 2, 1_000_000, [small, large])
    assert row["bytes_per_parameter"] == 12.0
    assert row["optimizer_bytes_per_parameter"] == 8.0
    assert row["daemon_private_per_parameter"] == 5.0
    assert row["shared_per_parameter"] == 15.0
    assert row["round_seconds"] == 1.0
    assert row["exchange_seconds"] == 0.25
    assert row["trainer_cpu_seconds"] == 0.25


def test_every_tensor_of_the_empty_task_has_a_gradient_that_stays() -> None:
    empty = Empty(numel=1000)
    model = empty.model()
    assert sum(p.numel() for p in model.parameters()) == 1000
    optimizer = empty.optimizer(model.parameters(), 0.1)
    places = []
    for _ in range(2):
        optimizer.zero_grad()
        empty.loss(model, None).backward()
        optimizer.step()
        places.append([p.grad.data_ptr() for p in model.parameters()])
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())
    assert places[0] == places[1]
    assert all(torch.equal(p, torch.zeros_like(p)) for p in model.parameters())
