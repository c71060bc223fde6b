"""FedCompress's ways beside federated averaging and training alone: accuracy, bytes, and the saved file.

Five peers, Dirichlet 0.5, 20 rounds. Digits with a perceptron of 4,810 parameters, drawn shapes with one of
14,090. Three epochs a round, Adam.

    uplink       what a peer tells per round, in float32 models
    wire gain    what a peer of five sends in an all-reduce of float32, over what it sends here
    file gain    float32 over the saved model, at 32 values per tensor or at kappa if that is what it has
    file loss    accuracy that saving costs
"""

from collections.abc import Sequence
from typing import Any, Final

from scripts.reproduction import Case, Study, System
from shoal.methods.base import Method
from shoal.methods.coding import codebook
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedcompress.method import FedCompress, FedCompressConfig
from shoal.methods.learning.in_lockstep import LockstepRun as Run
from shoal.methods.learning.task import Task, load_task
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig

PEERS: Final = 5
RATES: Final = (1e-3, 3e-3)
BATCH: Final = 32
FILE_KAPPA: Final = 32
ROUNDS: Final = 20
STEPS: Final = {"digits, small": 27, "shapes, mlp": 38}
"""Three epochs of a fifth of the training examples."""


def case(data: str, network: str) -> Case:
    """Return a data set in five shares, and a network for it."""

    def tasks(seed: int, validation: float) -> list[Task]:
        own: dict[str, Any] = {"validation": validation} if data == "digits" else {"optimizer": "adam"}
        name = "digits_compressible" if data == "digits" else data
        options = {"alpha": 0.5, "seed": seed, "network": network, **own}
        return [load_task(name, {"share": f"{i + 1}/{PEERS}", **options}) for i in range(PEERS)]

    return Case(f"{data}, {network}", tasks, ROUNDS)


def compress(**options: Any) -> System:
    """Return FedCompress; where weights are clustered, the last of three epochs knows of it."""
    plain = 2 if options.get("target") == "weights" else 3
    work = {"epochs": plain, "cluster_epochs": 3 - plain, "batch_size": BATCH}
    return System(
        tuple(FedCompress(FedCompressConfig(lr=lr, cluster_lr=lr / 2, **{**work, **options})) for lr in RATES)
    )


def fixed(kappa: int, **options: Any) -> System:
    """Return FedCompress at one kappa."""
    return compress(kappa_min=kappa, kappa_max=kappa, **options)


def systems(case: Case) -> dict[str, System]:
    """Return the systems for a network."""
    work = {"steps": STEPS[case.name], "batch_size": BATCH}
    averaged = tuple(FedAvg(FedAvgConfig(lr=lr, **work)) for lr in RATES)
    alone = tuple(LocalSGD(LocalSGDConfig(lr=lr, **work)) for lr in RATES)
    return {
        "FedAvg": System(averaged),
        "each alone": System(alone, "each"),
        "FedCompress": compress(),
        "delta, kappa 8": fixed(8),
        "delta, kappa 8 to 32 adapts": compress(kappa_min=8, kappa_max=32),
        "weights, kappa adapts (paper)": compress(target="weights", kappa_min=8, kappa_max=32),
    }


def measure(method: Method, runs: Sequence[Run]) -> dict[str, float]:
    """Return what a run is judged by."""
    accuracy = sum(done.accuracy for done in runs) / len(runs)
    done = runs[0]
    if len(runs) > 1:
        return {"accuracy": accuracy}
    learner, params = done.learners[0], done.states[0].params
    float32 = 4 * params.size
    file = codebook.encode_vector(params, learner.manifest, FILE_KAPPA)
    saved = learner.evaluate(codebook.decode(file, learner.manifest))["accuracy"]
    found = {
        "accuracy": accuracy,
        "uplink": (done.body_bytes + done.vector_bytes) / float32,
        "wire gain": 2 * (PEERS - 1) / PEERS * float32 / done.wire_bytes,
        "file gain": float32 / len(file),
        "file loss": accuracy - saved,
    }
    kappa = done.reports[-1][0].metrics.get("kappa")
    return found if kappa is None else found | {"last kappa": kappa}


STUDIES: Final = {
    "fedcompress": Study(
        [case("digits", "small"), case("shapes", "mlp")],
        systems,
        [
            ("FedCompress", "FedAvg"),
            ("weights, kappa adapts (paper)", "FedAvg"),
            ("FedCompress", "weights, kappa adapts (paper)"),
        ],
        measure,
    )
}
