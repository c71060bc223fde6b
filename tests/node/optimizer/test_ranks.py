"""Several processes that train one model: the first speaks, the others follow, and nobody is silent."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_daemon import FakeDaemon, in_thread
from torch import nn

import shoal
from shoal.methods.errors import BadTask
from shoal.node.framing import frame
from shoal.node.optimizer.ranks import NoRanks, RankedVector, Ranks, Word
from shoal.node.trainer import ipc


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "h" / "run").mkdir(parents=True)
    return tmp_path / "h"


@pytest.fixture
def daemon(home: Path) -> Iterator[FakeDaemon]:
    made = FakeDaemon(home / "run" / "trainer.sock")
    yield made
    made.close()


@pytest.mark.parametrize("rank", ["0", "3"])
def test_ranks_that_cannot_reach_each_other_are_told_what_to_type(rank: str) -> None:
    with pytest.raises(NoRanks, match=rf"rank {rank} of 4.*init_process_group.*or unset RANK"):
        Ranks(environment={"RANK": rank, "WORLD_SIZE": "4"})


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "x"}])
def test_a_process_of_its_own_speaks_for_itself(environment: dict[str, str]) -> None:
    ranks = Ranks(environment=environment)
    assert ranks.is_speaker
    model = nn.Linear(1, 1)
    RankedVector(model, ranks).write(np.array([2.0, 3.0], np.float32))
    ranks.call(Word.ENDED, rounds=1)
    assert (model.weight.item(), model.bias.item()) == (2, 3)


def run_ranks(home: Path, kind: str, world: int = 2) -> list[str]:
    """Return what each rank printed."""
    script, store = str(Path(__file__).with_name("rank_process.py")), str(home / "store")
    started = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(world), store, str(home), kind],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        return [process.communicate(timeout=240)[0].strip() for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_all_ranks_hold_what_the_first_averaged(kind: str, daemon: FakeDaemon, home: Path) -> None:
    def serve() -> None:
        one = daemon.attach()
        daemon.run_rounds([one], 2)
        one.begin()

    serving = in_thread(serve)
    first, second = run_ranks(home, kind)
    serving.join()
    assert first.split()[1:3] == second.split()[1:3]
    assert first.split()[:2] == ["0", "2"]
    assert len(daemon.trainers) == 1
    saved = shoal.load_model(home / "model")
    digest = hashlib.sha256(b"".join(saved[name].numpy().tobytes() for name in ("weight", "bias")))
    assert digest.hexdigest()[:12] == first.split()[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_rank_but_the_first_holds_a_whole_copy_of_a_sharded_model(daemon: FakeDaemon, home: Path) -> None:
    def serve() -> None:
        one = daemon.attach()
        daemon.run_rounds([one], 2)
        one.begin()

    serving = in_thread(serve)
    first, second = run_ranks(home, "large")
    serving.join()
    assert first.split()[1:3] == second.split()[1:3]
    # A copy is 8 layers of 9 MB: the first holds the vector and the state, the second one layer at a time.
    assert int(first.split()[3]) > 72 > int(second.split()[3])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_where_the_first_is_refused_the_others_are_told(daemon: FakeDaemon, home: Path) -> None:
    def serve() -> None:
        connection = daemon.accept()
        connection.sendall(frame(ipc.Stop()))
        connection.close()

    serving = in_thread(serve)
    first, second = run_ranks(home, "ddp")
    serving.join()
    assert "has a trainer already" in first
    assert "rank 0 has left the swarm; see what it said" in second


class FullyShardedDataParallel(nn.Module):  # type: ignore[misc]  # torch's classes are unknown to mypy
    """Stands for torch's class of this name, which does not run without a GPU."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_a_model_that_hides_its_tensors_is_refused_with_what_to_take() -> None:
    with pytest.raises(BadTask, match=r"wrapped by FullyShardedDataParallel.*fully_shard \(FSDP2\)"):
        RankedVector(FullyShardedDataParallel(nn.Linear(1, 1)), Ranks(environment={}))


def test_a_parameter_that_zero_3_partitions_is_refused() -> None:
    model = nn.Linear(1, 1)
    model.weight.ds_shape = (1, 1)
    with pytest.raises(BadTask, match="weight is partitioned by DeepSpeed ZeRO-3: use"):
        RankedVector(model, Ranks(environment={}))
