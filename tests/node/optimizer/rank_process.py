"""One rank of a torchrun: trains beside the others for some steps, and prints what it holds in the end.

python rank_process.py RANK WORLD STORE HOME KIND    KIND: ddp, fsdp2 or large

Saves the model, but a large one. Prints rank, rounds, a hash of the model, and by how many MB memory grew
at most in calls of the swarm.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

import shoal
from shoal.methods.errors import BadTask
from shoal.methods.learning.sharded import whole
from shoal.node.errors import UserError

WIDTH = 1536
"""Of the layers of the large model: 9 MB each."""


def main() -> None:
    """Train, and print."""
    rank, world, store, home, kind = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6]
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    torch.manual_seed(rank)
    model, x = made(kind, world)
    grown = 0
    try:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step(model, optimizer, x)
        before = forget_peak()
        with shoal.Swarm(model, every=2, method="fedavg", home=Path(home)) as swarm:
            grown = memory("VmHWM") - before
            for _ in range(4):
                step(model, optimizer, x)
                before = forget_peak()
                swarm.step()
                grown = max(grown, memory("VmHWM") - before)
            if kind != "large":
                swarm.save_model(Path(home) / "model")
            digest = hashlib.sha256()
            for each in model.parameters():
                digest.update(whole(each).detach().numpy().tobytes())
            print(rank, swarm.rounds, digest.hexdigest()[:12], grown, flush=True)
    except (UserError, BadTask) as error:
        print(rank, "refused:", error, flush=True)
    distributed.destroy_process_group()


def made(kind: str, world: int) -> tuple[Any, torch.Tensor]:
    """Return a model and what goes into it."""
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(nn.Linear(3, 2)), torch.ones(4, 3)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (world,))
    if kind == "fsdp2":
        return fully_shard(nn.Linear(3, 2), mesh=mesh), torch.ones(4, 3)
    model: Any = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(8)))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh), torch.ones(1, WIDTH)


def step(model: Any, optimizer: Any, x: torch.Tensor) -> None:
    """Take a step."""
    optimizer.zero_grad()
    (model(x) ** 2).mean().backward()
    optimizer.step()


def forget_peak() -> int:
    """Count the peak of memory from here on; returns what is held now, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(name: str) -> int:
    """Return a figure of this process's memory in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) >> 10


if __name__ == "__main__":
    main()
