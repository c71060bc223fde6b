"""A model that is sharded over the ranks of a node by FSDP2, and trained together with other nodes.

Three lines differ from training alone, marked with "# swarm"; without a GPU it trains on the CPU.
In two terminals, or on two machines with the first one's address in place of 127.0.0.1:

    torchrun --nproc-per-node 2 --master-port 29501 examples/torchrun_fsdp2.py \\
        --share 1/2 --home /tmp/one --node-option=--port=4720
    torchrun --nproc-per-node 2 --master-port 29502 examples/torchrun_fsdp2.py \\
        --share 2/2 --home /tmp/two --join 127.0.0.1:4720
"""

import argparse
import os
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

import shoal  # swarm
from shoal.methods.tasks.digits import Digits  # stands for your own data


def main() -> None:
    """Train until the run has had its rounds, and measure."""
    given = arguments()
    torch.set_num_threads(1)
    is_gpu = torch.cuda.is_available()
    distributed.init_process_group("nccl" if is_gpu else "gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if is_gpu else torch.device("cpu")
    if is_gpu:
        torch.cuda.set_device(device)
    digits = Digits(share=given.share, alpha=10, seed=0)
    x, y = (each.to(device) for each in digits.train_data())
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    model = model.to(device)
    mesh = init_device_mesh(device.type, (world,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    dice = torch.Generator().manual_seed(rank)
    with shoal.Swarm(  # swarm
        model,
        every=given.every,
        rounds=given.rounds,
        home=given.home,
        join=given.join,
        node_options=given.node_option,
    ) as swarm:
        while not swarm.is_finished:
            batch = torch.randint(len(x), (32,), generator=dice).to(device)
            optimizer.zero_grad()
            functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            swarm.step(samples=32 * world)  # swarm
    x_test, y_test = (each.to(device) for each in digits.test_data())
    with torch.no_grad():
        accuracy = float((model(x_test).argmax(1) == y_test).float().mean())
    if rank == 0:
        print(f"accuracy {accuracy:.3f}", flush=True)
    distributed.destroy_process_group()


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="FSDP2 inside a node, a swarm between nodes.")
    parser.add_argument("--share", default="1/1", help="which share of the digits, such as 1/2")
    parser.add_argument("--home", required=True, help="the folder of this node")
    parser.add_argument("--join", action="append", default=[], help="a node to join; repeatable")
    parser.add_argument("--every", type=int, default=20, help="optimizer steps per round")
    parser.add_argument("--rounds", type=int, default=8, help="of the run; the same on all peers")
    parser.add_argument(
        "--node-option",
        action="append",
        default=["--port=0", "--http-port=0"],
        help="an argument of shoal start, as in --node-option=--port=4720",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
