"""EncCluster's modes beside federated averaging, FedCompress and training alone: accuracy and bytes.

Five peers, Dirichlet 0.5, 20 rounds, Adam. Digits with a perceptron of 4,810 numbers, and a table of tumours
with one of 1,058; about three epochs a round. `fe-dense` opens the same integers as masks do on a grid of 12
bits, bit for bit (tests/methods/enccluster/test_method.py), so that its accuracy is measured by these.

    uplink       what a peer tells per round, in float32 models; of fe-dense 32 bytes a number, so 8
    wire gain    what a peer of five sends in an all-reduce of float32, over what it sends here
"""

from collections.abc import Sequence
from typing import Any, Final

from scripts.reproduction import Case, Study, System
from shoal.methods.base import Method
from shoal.methods.enccluster.method import EncCluster, EncClusterConfig
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedcompress.method import FedCompress, FedCompressConfig
from shoal.methods.learning.in_lockstep import LockstepRun as Run
from shoal.methods.learning.task import Task, load_task
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig

PEERS: Final = 5
ROUNDS: Final = 20
RATES: Final = (1e-3, 3e-3, 1e-2)
CLIPS: Final = (0.03, 0.1, 0.2)
"""One for each rate, of changes; Adam moves a number by about steps times the rate at most."""
WIDEST: Final = 4.0
"""Of the paper's weights."""
STEPS: Final = {"digits": 27, "tables": 6}


def case(data: str) -> Case:
    """Return a data set in five shares."""

    def tasks(seed: int, validation: float) -> list[Task]:
        own: dict[str, Any] = {"validation": validation} if data == "digits" else {"optimizer": "adam"}
        name = "digits_compressible" if data == "digits" else data
        options = {"alpha": 0.5, "seed": seed, **own}
        return [load_task(name, {"share": f"{i + 1}/{PEERS}", **options}) for i in range(PEERS)]

    return Case(data, tasks, ROUNDS)


def sealed(steps: int, **options: Any) -> System:
    """Return EncCluster in a mode."""
    return System(
        tuple(
            EncCluster(EncClusterConfig(**{"steps": steps, "lr": lr, "clip": clip, **options}))
            for lr, clip in zip(RATES, CLIPS, strict=True)
        )
    )


def systems(case: Case) -> dict[str, System]:
    """Return the systems for a data set."""
    steps = STEPS[case.data]
    compressed = {"epochs": 3, "cluster_epochs": 0, "batch_size": 32}
    return {
        "FedAvg": System(tuple(FedAvg(FedAvgConfig(steps=steps, lr=lr)) for lr in RATES)),
        "each alone": System(tuple(LocalSGD(LocalSGDConfig(steps=steps, lr=lr)) for lr in RATES), "each"),
        "FedCompress": System(
            tuple(FedCompress(FedCompressConfig(lr=lr, **compressed)) for lr in RATES)  # type: ignore[arg-type]
        ),
        "masked-grid": sealed(steps),
        "masked-grid, equal weights": sealed(steps, levels=1),
        "12 bits, as fe-dense": sealed(steps, bits=12),
        "fe-paper, changes": sealed(steps, mode="fe-paper"),
        "fe-paper, weights, filter (paper)": sealed(
            steps, mode="fe-paper", target="weights", mapping="bfuse8", clip=WIDEST
        ),
    }


def measure(method: Method, runs: Sequence[Run]) -> dict[str, float]:
    """Return what a run is judged by."""
    accuracy = sum(done.accuracy for done in runs) / len(runs)
    done = runs[0]
    if len(runs) > 1:
        return {"accuracy": accuracy}
    float32 = 4 * done.states[0].params.size
    return {
        "accuracy": accuracy,
        "uplink": (done.body_bytes + done.vector_bytes) / float32,
        "wire gain": 2 * (PEERS - 1) / PEERS * float32 / done.wire_bytes,
    }


STUDIES: Final = {
    "enccluster": Study(
        [case("digits"), case("tables")],
        systems,
        [
            ("masked-grid", "FedAvg"),
            ("masked-grid, equal weights", "FedAvg"),
            ("fe-paper, changes", "FedAvg"),
            ("fe-paper, weights, filter (paper)", "FedAvg"),
            ("masked-grid", "FedCompress"),
        ],
        measure,
    )
}
