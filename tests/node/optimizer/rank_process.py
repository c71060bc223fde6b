"""One rank of a torchrun: trains beside the others for some steps, and prints what it holds in the end.

python rank_process.py RANK WORLD STORE HOME SHAPE
"""

import hashlib
import sys
from pathlib import Path

import torch
from torch import distributed, nn

import shoal
from shoal.methods.learning.model_tensors import read_model
from shoal.node.errors import UserError


def main() -> None:
    """Train, and print."""
    rank, world, store, home = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    torch.manual_seed(rank)
    model = nn.Linear(3, 2)
    try:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with shoal.SwarmOptimizer(optimizer, model, every=2, method="fedavg", home=Path(home)) as swarm:
            for _ in range(4):
                swarm.zero_grad()
                (model(torch.ones(4, 3)) ** 2).mean().backward()
                swarm.step()
            digest = hashlib.sha256(read_model(model).tobytes()).hexdigest()[:12]
            print(rank, swarm.rounds, digest, flush=True)
    except UserError as error:
        print(rank, "refused:", error, flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
