"""Several processes that train one model: the first speaks, the others follow, and nobody is silent."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_daemon import FakeDaemon, in_thread
from torch import nn

from shoal.methods.learning.model_tensors import ModelVector
from shoal.node.framing import frame
from shoal.node.optimizer.ranks import NoRanks, Ranks
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
        Ranks(ModelVector(nn.Linear(1, 1)), {"RANK": rank, "WORLD_SIZE": "4"})


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "x"}])
def test_a_process_of_its_own_speaks_for_itself(environment: dict[str, str]) -> None:
    ranks = Ranks(ModelVector(nn.Linear(1, 1)), environment)
    assert ranks.is_speaker
    ranks.tell(moved=True, rounds=1, is_finished=False)


def run_ranks(home: Path, world: int = 2) -> list[str]:
    """Return what each rank printed."""
    script, store = str(Path(__file__).with_name("rank_process.py")), str(home / "store")
    started = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(world), store, str(home)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    return [process.communicate(timeout=100)[0].strip() for process in started]


@pytest.mark.slow
def test_all_ranks_hold_what_the_first_averaged(daemon: FakeDaemon, home: Path) -> None:
    def serve() -> None:
        one = daemon.attach()
        daemon.run_rounds([one], 2)
        one.begin()

    serving = in_thread(serve)
    first, second = run_ranks(home)
    serving.join()
    assert first.split()[1:] == second.split()[1:]
    assert first.split()[:2] == ["0", "2"]
    assert len(daemon.trainers) == 1


@pytest.mark.slow
def test_where_the_first_is_refused_the_others_are_told(daemon: FakeDaemon, home: Path) -> None:
    def serve() -> None:
        connection = daemon.accept()
        connection.sendall(frame(ipc.Stop()))
        connection.close()

    serving = in_thread(serve)
    first, second = run_ranks(home)
    serving.join()
    assert "has a trainer already" in first
    assert "rank 0 has left the swarm; see what it said" in second
