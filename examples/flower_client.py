"""A ClientApp of Flower's, as it is, in a swarm instead of under a server; nothing is downloaded.

The part marked "# Flower" stands for your own client_app.py. What follows takes the place of the ServerApp:
each `train` of the app is a step, after which the swarm averages.
It needs: pip install 'shoal[flower,testnet]'
In two terminals, or on two machines with the first one's address in place of 127.0.0.1:

    python examples/flower_client.py --share 1/2 --home /tmp/one --node-option=--port=4720
    python examples/flower_client.py --share 2/2 --home /tmp/two --join 127.0.0.1:4720
"""

import argparse
import time
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.app.metadata import Metadata
from flwr.clientapp import ClientApp
from torch import nn
from torch.nn import functional

import shoal
from shoal.methods.tasks.digits import Digits  # stands for your own data

app = ClientApp()  # Flower


def network() -> nn.Module:  # Flower
    """Return the model."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def partition(context: Context) -> Digits:  # Flower
    """Return the data of this client."""
    return Digits(share=str(context.node_config["share"]), alpha=10, seed=0)


@app.train()  # type: ignore[untyped-decorator]  # Flower
def train(message: Message, context: Context) -> Message:
    """Train one epoch from the arrays that came, and answer with new ones."""
    model = network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = partition(context).train_data()
    optimizer = torch.optim.SGD(model.parameters(), lr=float(message.content["config"]["lr"]), momentum=0.9)
    for rows in torch.randperm(len(x)).split(32):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    metrics = MetricRecord({"train_loss": loss.item(), "num-examples": len(x)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()  # type: ignore[untyped-decorator]  # Flower
def evaluate(message: Message, context: Context) -> Message:
    """Answer with the accuracy of the arrays that came."""
    model = network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = partition(context).test_data()
    with torch.no_grad():
        accuracy = float((model(x).argmax(1) == y).float().mean())
    metrics = MetricRecord({"accuracy": accuracy, "num-examples": len(x)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


def ask(kind: str, model: nn.Module, context: Context) -> Any:
    """Send the app a message as a ServerApp does; returns the content of its answer."""
    config = ConfigRecord({"lr": 0.05})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "config": config})
    # No server gave it numbers, and none needs them.
    about = Metadata(
        run_id=0,
        message_id="",
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id="",
        group_id="",
        created_at=time.time(),
        ttl=3600.0,
        message_type=kind,
    )
    return app(Message(content=content, metadata=about), context).content


def main() -> None:
    """Have the app train until the run has had its rounds, and measure."""
    given = arguments()
    torch.set_num_threads(1)
    model = network()
    context = Context(
        run_id=0, node_id=0, node_config={"share": given.share}, state=RecordDict(), run_config={}
    )
    with shoal.Swarm(
        model,
        every=1,
        method="fedavg",
        rounds=given.rounds,
        home=given.home,
        join=given.join,
        node_options=given.node_option,
    ) as swarm:
        while not swarm.is_finished:
            answer = ask("train", model, context)
            model.load_state_dict(answer["arrays"].to_torch_state_dict())
            swarm.report(loss=answer["metrics"]["train_loss"])
            swarm.step(samples=int(answer["metrics"]["num-examples"]))
    print(f"accuracy {ask('evaluate', model, context)['metrics']['accuracy']:.3f}", flush=True)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="A ClientApp of Flower's in a swarm.")
    parser.add_argument("--share", default="1/1", help="which share of the digits, such as 1/2")
    parser.add_argument("--home", required=True, help="the folder of this process's node")
    parser.add_argument("--join", action="append", default=[], help="a node to join; repeatable")
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
