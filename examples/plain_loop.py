"""A plain PyTorch loop in a swarm: three lines differ from training alone, marked with "# swarm".

In two terminals, or on two machines with the first one's address in place of 127.0.0.1:

    python examples/plain_loop.py --share 1/2 --home /tmp/one --node-option=--port=4720
    python examples/plain_loop.py --share 2/2 --home /tmp/two --join 127.0.0.1:4720
"""

import argparse

import torch
from torch import nn
from torch.nn import functional

import shoal  # swarm
from shoal.methods.tasks.digits import Digits  # stands for your own data


def main() -> None:
    """Train on one share of the digits, with whoever is there."""
    given = arguments()
    torch.set_num_threads(1)
    digits = Digits(share=given.share, alpha=10, seed=0)
    x, y = digits.train_data()
    x_test, y_test = digits.test_data()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    swarm = shoal.SwarmOptimizer(  # swarm
        optimizer,
        model,
        every=given.every,
        home=given.home,
        join=given.join,
        weight=len(x),
        node_options=given.node_option,
    )
    with swarm:  # swarm
        while swarm.rounds < given.rounds:
            batch = torch.randint(len(x), (32,))
            swarm.zero_grad()
            loss = functional.cross_entropy(model(x[batch]), y[batch])
            loss.backward()
            swarm.report(loss=loss.item())
            swarm.step()
    accuracy = float((model(x_test).argmax(1) == y_test).float().mean())
    print(f"accuracy {accuracy:.3f} after {swarm.rounds} rounds", flush=True)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="A plain PyTorch loop in a swarm.")
    parser.add_argument("--share", default="1/1", help="which share of the digits, such as 1/2")
    parser.add_argument("--home", required=True, help="the folder of this process's node")
    parser.add_argument("--join", action="append", default=[], help="a node to join; repeatable")
    parser.add_argument("--every", type=int, default=50, help="local steps per round")
    parser.add_argument("--rounds", type=int, default=20, help="stop after so many rounds")
    parser.add_argument(
        "--node-option",
        action="append",
        default=["--port=0", "--http-port=0"],
        help="an argument of shoal start, as in --node-option=--port=4720",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
