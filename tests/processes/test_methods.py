"""Methods over real node processes: the same state on all, and what lockstep leads to expect.

One seed each; over several seeds, in lockstep, see tests/methods. Bytes are those of the sockets.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lockstep import train

import shoal
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.learning.model_tensors import read_model
from shoal.methods.learning.task import Task
from shoal.methods.registry import describe
from shoal.methods.tasks.digits_variants import CompressibleDigits
from shoal.node.trainer.model_size import size_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run_testnet(folder: Path, *words: str) -> dict[str, Any]:
    """Run a testnet to its end; returns its result, having seen that all nodes agree."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "shoal.node",
        "testnet",
        "up",
        "--json",
        "--dir",
        str(folder / "net"),
    ]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=550)
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["same_state_hash"], done.stderr
    assert all(node["finished"] for node in result["per_node"]), done.stderr
    return result


def reached(method: Any, tasks: list[Task], rounds: int) -> float:
    """Return what a method reaches in lockstep: the mean over the peers."""
    learners = [TorchLearner(task, seed=0) for task in tasks]
    states, _ = train(method, learners, learners[0].initial, rounds)
    found = [
        learner.evaluate(state.params)["accuracy"] for learner, state in zip(learners, states, strict=True)
    ]
    return sum(found) / len(found)


def test_fedln_beats_averaging_that_knows_of_no_noise_and_the_testnet_says_so(tmp_path: Path) -> None:
    result = run_testnet(
        tmp_path, "--nodes", "5", "--method", "fedln", "--option", "batch_size=32", "--option", "lr=0.003",
        "--rounds", "30", "--task", "digits_noisy", "--timeout", "500", "--seeds", "1",
    )  # fmt: skip
    beside = {each["system"]: each for each in result["beside"]}
    assert list(beside) == [
        "fedln, these 5 nodes", "fedln, in lockstep", "FedAvg", "centralised", "each alone"
    ]  # fmt: skip
    assert (tmp_path / "net" / "beside.png").read_bytes().startswith(b"\x89PNG")
    together, averaged = result["accuracy_mean"], beside["FedAvg"]["accuracies"][0]
    print(f"together {together:.3f} averaged {averaged:.3f}")
    assert together >= averaged + 0.05
    # Over real links it is the same method, and sends what it tells and little more.
    assert abs(together - beside["fedln, in lockstep"]["accuracies"][0]) <= 0.03
    ratio = beside["fedln, these 5 nodes"]["sent_bytes"] / beside["fedln, in lockstep"]["sent_bytes"]
    assert 1 <= ratio <= 2


def test_fedcompress_keeps_the_accuracy_at_a_quarter_of_the_bytes_and_of_the_file(tmp_path: Path) -> None:
    rounds = 15
    small = run_testnet(
        tmp_path, "--nodes", "4", "--task", "digits_compressible", "--task-option", "network=mlp",
        "--alpha", "0.5", "--rounds", str(rounds), "--option", "lr=0.003", "--option", "batch_size=32",
        "--timeout", "250", "--seeds", "0", "--method", "fedcompress", "--keep",
        "--option", "epochs=3", "--option", "cluster_epochs=0",
    )  # fmt: skip
    tasks: list[Task] = [CompressibleDigits(f"{i + 1}/4", network="mlp") for i in range(4)]
    accuracy = reached(FedAvg(FedAvgConfig(steps=32, lr=0.003, batch_size=32)), tasks, rounds)
    # What FedAvg's vectors alone would be, without all that sockets send around them.
    plain = 4 * rounds * describe("fedavg", size_of(tasks[0])).traffic.bytes_per_round(4)
    gains = [plain / small[way] for way in ("bytes_sent", "bytes_received")]
    print(f"gains {gains}, accuracy {accuracy:.3f} and {small['accuracy_mean']:.3f}")
    assert min(gains) >= 4
    assert small["accuracy_mean"] >= accuracy - 0.02
    file = tmp_path / "saved.shoal"
    home = tmp_path / "net" / "node-1"
    command = [
        sys.executable,
        "-P",
        "-m",
        "shoal.node",
        "model",
        "save",
        str(file),
        "--values",
        "32",
        "--home",
        str(home),
    ]
    subprocess.run(command, check=True, timeout=60)
    learner = TorchLearner(CompressibleDigits("1/4", network="mlp"))
    learner.model.load_state_dict(shoal.load_model(file))
    saved = learner.evaluate(read_model(learner.model))["accuracy"]
    print(f"saved {file.stat().st_size} bytes of {4 * learner.initial.size}, accuracy {saved:.3f}")
    assert 4 * file.stat().st_size <= 4 * learner.initial.size
    assert saved >= small["accuracy_mean"] - 0.02
