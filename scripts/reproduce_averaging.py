"""Methods that average whole models, and training alone: FedAvg, FedProx, DiLoCo, local.

Five peers. Digits and drawn shapes with a perceptron each, and a table of tumours; SGD. All that are compared
take as many steps between two exchanges and as many rounds; all in one place takes as many steps as all peers
together.
"""

from collections.abc import Sequence
from typing import Any, Final

from scripts.reproduction import Case, Study, System
from shoal.methods.base import Method
from shoal.methods.diloco import DiLoCo, DiLoCoConfig
from shoal.methods.fedavg import FedAvg, FedAvgConfig
from shoal.methods.fedprox import FedProx, FedProxConfig
from shoal.methods.learning.task import Task, load_task
from shoal.methods.local_sgd import LocalSGD, LocalSGDConfig

PEERS: Final = 5
STEPS: Final = 50
RATES: Final = (0.1, 0.2, 0.4)
PROXIMAL: Final = ((0.1, 0.1), (0.2, 0.01), (0.4, 0.01))
"""Learning rate and μ."""
WIDE: Final = (0.1, 0.2, 0.4, 0.8)
INNER: Final = (0.05, 0.1, 0.2, 0.4)
"""DiLoCo's; its outer rate is the paper's."""
ROUNDS: Final = 10


def case(data: str, alpha: float, rounds: int = ROUNDS, name: str = "") -> Case:
    """Return a data set in five shares."""

    def tasks(seed: int, validation: float) -> list[Task]:
        held: dict[str, Any] = {"validation": validation} if data == "digits" else {}
        shares = [f"{i + 1}/{PEERS}" for i in range(PEERS)]
        return [load_task(data, {"share": share, "alpha": alpha, "seed": seed, **held}) for share in shares]

    return Case(name or f"{data}, alpha {alpha:g}", tasks, rounds)


def local(steps: int) -> tuple[Method, ...]:
    """Return the candidates of training alone."""
    return tuple(LocalSGD(LocalSGDConfig(steps=steps, lr=lr)) for lr in RATES)


def fedavg(steps: int, rates: Sequence[float] = RATES) -> tuple[Method, ...]:
    """Return the candidates of FedAvg."""
    return tuple(FedAvg(FedAvgConfig(steps=steps, lr=lr)) for lr in rates)


def fedprox(steps: int) -> tuple[Method, ...]:
    """Return the candidates of FedProx."""
    return tuple(FedProx(FedProxConfig(steps=steps, lr=lr, mu=mu)) for lr, mu in PROXIMAL)


def diloco(steps: int) -> tuple[Method, ...]:
    """Return the candidates of DiLoCo."""
    return tuple(DiLoCo(DiLoCoConfig(steps=steps, lr=lr)) for lr in INNER)


ALONE: Final = System(local(STEPS), "each")
TOGETHER: Final = System(local(STEPS * PEERS), "one")


def _of_steps(case: Case) -> dict[str, System]:
    """Return FedAvg and DiLoCo with the steps that the case is named after."""
    steps = int(case.name.rpartition("H ")[2])
    return {"FedAvg": System(fedavg(steps, WIDE)), "DiLoCo": System(diloco(steps))}


STUDIES: Final = {
    "local": Study(
        [case("digits", 0.1), case("shapes", 0.1), case("tables", 0.1)],
        lambda _: {"each alone": ALONE, "FedAvg": System(fedavg(STEPS)), "all data in one place": TOGETHER},
        [("FedAvg", "each alone")],
    ),
    "fedavg": Study(
        [case(data, alpha) for data in ("digits", "shapes") for alpha in (0.1, 1.0)],
        lambda _: {"each alone": ALONE, "FedAvg": System(fedavg(STEPS))},
        [("FedAvg", "each alone")],
    ),
    "fedprox": Study(
        [case("digits", 0.1), case("shapes", 0.1), case("tables", 0.1)],
        lambda _: {"FedAvg": System(fedavg(STEPS)), "FedProx": System(fedprox(STEPS))},
        [("FedProx", "FedAvg")],
    ),
    "diloco": Study(
        [
            case("digits", 0.1, name="digits, H 50"),
            case("shapes", 0.1, name="shapes, H 50"),
            case("digits", 0.1, 5, "digits, H 200"),
        ],
        _of_steps,
        [("DiLoCo", "FedAvg")],
    ),
}
