"""Memory: what a run's vectors take of it, in words for a person whose machine is too small. Torch-free.

    the model and its gradients, two states, the vector that travels        float32; docs/sizes.md
    the last change of the params, where the run clips

Batches, activations and an optimizer's moments come on top, and are known to nobody before they are there.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from shoal.gossip.run_spec import RunSpec
from shoal.node.text import size

BASE: Final = 450_000_000
"""Bytes of both processes without a model."""
NAMED_FROM: Final = 0.05
"""Share of the machine's memory from which on the vectors of a model are worth a word."""
OWN_LIMIT: Final = "run.memory_gb allows"
CGROUP: Final = Path("/sys/fs/cgroup")


def vector_bytes(spec: RunSpec, exchange_numel: int) -> int:
    """Return how many bytes a node has at least for the vectors of a run, in both its processes."""
    # What the last mean changed, in bfloat16, where the next is clipped around it.
    last = 2 * spec.params_numel if spec.combine == "clip" else 0
    return 4 * (2 * spec.params_numel + 2 * spec.state_numel + exchange_numel) + last


def machine_bytes(cgroup: Path = CGROUP) -> int:
    """Return how much memory this process could ever have: of the machine, or of its container."""
    whole = int(psutil.virtual_memory().total + psutil.swap_memory().total)
    return min(whole, _limit(cgroup) or whole)


def container_bytes(cgroup: Path = CGROUP) -> int:
    """Return how much memory the container of this process may have; 0: no limit."""
    return _limit(cgroup)


def free_bytes(cgroup: Path = CGROUP) -> int:
    """Return how much memory is free for this process now."""
    free = int(psutil.virtual_memory().available + psutil.swap_memory().free)
    limit, used = _limit(cgroup), _number(cgroup / "memory.current")
    return min(free, max(0, limit - used)) if limit and used else free


def remedy(spec: RunSpec) -> str:
    """Say what makes the vectors of a run fewer."""
    fewer = "train a part of the model only"
    if spec.state_numel == spec.params_numel:
        return fewer
    plain = vector_bytes(spec, spec.params_numel) - 8 * (spec.state_numel - spec.params_numel)
    return f"take --method fedavg, whose vectors have {size(plain)}, or {fewer}"


def too_large(spec: RunSpec, exchange_numel: int, machine: int, whose: str = "this machine has") -> str:
    """Say that a run can never fit a machine of so many bytes; nothing where it may, or with 0 bytes.

    `whose`: what has them, as in `OWN_LIMIT`.
    """
    needed = BASE + vector_bytes(spec, exchange_numel)
    if not machine or needed <= machine:
        return ""
    return (
        f"this run needs at least {size(needed)} of memory, for a model of {spec.params_numel:,} numbers, and"
        f" {whose} {size(machine)}: {remedy(spec)}"
    )


def tight(spec: RunSpec, exchange_numel: int, free: int) -> str:
    """Say that what a trainer with a model in place still needs is more than is free, or nothing."""
    needed = vector_bytes(spec, exchange_numel) - 4 * (spec.params_numel + spec.state_numel)
    if needed <= free:
        return ""
    return (
        f"the first round needs {size(needed)} more of memory, besides batches, and {size(free)} are free:"
        f" end other programs, or {remedy(spec)}"
    )


def advice(spec: RunSpec | None, exchange_numel: int, machine: int, others: int | None = None) -> str:
    """Say what to change where memory ran out: the larger of the vectors and of what comes on top of them.

    `others`: bytes that are neither vectors nor the base; where that is not known, vectors of more than half
    of the machine's memory are the larger.
    """
    batch = "lower --option batch_size"
    vectors = vector_bytes(spec, exchange_numel) if spec is not None else 0
    if spec is None or vectors < NAMED_FROM * machine:
        return batch
    held = f"{size(vectors)} of it are vectors of a model of {spec.params_numel:,} numbers"
    if vectors > (others if others is not None else machine / 2):
        return f"{held}: {remedy(spec)}"
    return f"{batch} ({held})"


def _limit(cgroup: Path) -> int:
    """Return the limit of this process's container in bytes; 0: none."""
    return _number(cgroup / "memory.max")


def _number(path: Path) -> int:
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return 0
