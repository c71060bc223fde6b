"""FedCompress's ways beside federated averaging and training alone: accuracy, bytes, and the saved file.

Five peers, Dirichlet 0.5. A perceptron of 4,810 parameters for 40 rounds and a convolutional network of
37,610 for 20; three epochs a round, Adam 3e-3.

    uplink       what a peer tells per round, in float32 models
    wire gain    what a peer of five sends in an all-reduce of float32, over what it sends here
    file gain    float32 over the saved model, at 32 values per tensor or at kappa if that is what it has
    file loss    accuracy that saving costs
"""

from collections.abc import Iterator
from typing import Any, Final

from scripts.reproduction import Run, run
from shoal.methods.base import Method
from shoal.methods.coding import codebook
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedcompress.method import FedCompress, FedCompressConfig
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig
from shoal.methods.tasks.digits_variants import CompressibleDigits

PEERS: Final = 5
STEPS: Final = {"steps": 27, "lr": 3e-3, "batch_size": 32}
"""Three epochs of a fifth of the digits."""
FILE_KAPPA: Final = 32
ROUNDS: Final = {"small": 40, "cnn": 20}


def compress(**options: Any) -> FedCompress:
    """Return FedCompress; where weights are clustered, the last of three epochs knows of it."""
    plain = 2 if options.get("target") == "weights" else 3
    work = {"epochs": plain, "cluster_epochs": 3 - plain, "lr": 3e-3, "cluster_lr": 1.5e-3, "batch_size": 32}
    return FedCompress(FedCompressConfig(**{**work, **options}))


def fixed(kappa: int, **options: Any) -> FedCompress:
    """Return FedCompress at one kappa."""
    return compress(kappa_min=kappa, kappa_max=kappa, **options)


def methods(network: str) -> dict[str, Method]:
    """Return the systems for a network."""
    found: dict[str, Method] = {
        "FedAvg": FedAvg(FedAvgConfig(**STEPS)),  # type: ignore[arg-type]
        "each alone": LocalSGD(LocalSGDConfig(**STEPS)),  # type: ignore[arg-type]
        "delta, kappa 8": fixed(8),
        "delta, kappa adapts": compress(),
        "weights, kappa adapts (paper)": compress(target="weights"),
        "weights, kappa adapts, distilled (paper)": compress(target="weights", after="distil"),
    }
    if network == "small":
        found |= {f"weights, kappa {kappa}": fixed(kappa, target="weights") for kappa in (8, 16, 32)}
        found["delta, kappa 16"] = fixed(16)
    return found


def systems(seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the metrics of every system on both networks."""
    for network, rounds in ROUNDS.items():
        for system, method in methods(network).items():
            tasks = [CompressibleDigits(f"{i + 1}/{PEERS}", seed=seed, network=network) for i in range(PEERS)]
            yield f"{network}: {system}", metrics(run(method, tasks, rounds, seed))


def metrics(done: Run) -> dict[str, float]:
    """Return what a run is judged by."""
    learner, params = done.learners[0], done.states[0].params
    float32 = 4 * params.size
    accuracy = done.accuracy
    if not (done.body_bytes or done.vector_bytes):
        return {"accuracy": accuracy}
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
