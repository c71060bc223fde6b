"""What a client of split learning costs beside one of FedAvg, with the same model and data.

    python scripts/bench_split.py [--width 256] [--layers 8] [--examples 200] [--json]

Each side runs in a process of its own, one after another on one thread, since the peak memory of a process is
never given back. The client of split learning trains front and head, and is answered with random tensors of
the right shapes, as if a host had done the body. The client of FedAvg trains the whole model. Processor
seconds are those of the training steps alone; memory is the peak of the process above what it had before the
model was made. Without arguments, bodies of 17 k and of 5 M parameters.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

BODIES: Final = ((32, 2), (256, 10))
"""Width and blocks: 17 k and 5.3 M parameters."""
BATCH: Final = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench_split.py", description="A split client beside FedAvg's.")
    parser.add_argument("--width", type=int, default=0, help="of a token; both bodies unless given")
    parser.add_argument("--layers", type=int, default=2, help="blocks of the body")
    parser.add_argument("--examples", type=int, default=200, help="that each client trains on")
    parser.add_argument("--json", action="store_true", help="a line per body")
    given = parser.parse_args(arguments)
    bodies = [(given.width, given.layers)] if given.width else BODIES
    for width, layers in bodies:
        found = {side: measured(side, width, layers, given.examples) for side in ("split", "fedavg")}
        line = {"width": width, "layers": layers, **found}
        print(json.dumps(line) if given.json else said(line), flush=True)
    return 0


def measured(side: str, width: int, layers: int, examples: int) -> dict[str, float]:
    """Return what a client costs, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_client, args=(theirs, side, width, layers, examples))
    process.start()
    found: dict[str, float] = ours.recv()
    process.join()
    return found


def said(line: dict[str, Any]) -> str:
    """Return a table of one body."""
    split, fedavg = line["split"], line["fedavg"]
    rows = [
        f"body of {fedavg['body']:,.0f} parameters",
        f"  seconds per example   split {split['seconds']:.6f}   fedavg {fedavg['seconds']:.6f}"
        f"   {split['seconds'] / fedavg['seconds']:.3f} of it",
        f"  trained parameters    split {split['numel']:,.0f}   fedavg {fedavg['numel']:,.0f}"
        f"   {split['numel'] / fedavg['numel']:.1%}",
        f"  peak memory, MB       split {split['peak_mb']:.1f}   fedavg {fedavg['peak_mb']:.1f}",
    ]
    return "\n".join(rows)


def _client(told: Any, side: str, width: int, layers: int, examples: int) -> None:
    import torch
    from torch.nn import functional

    from shoal.methods.mpsl.pairs import DigitsCaptions
    from shoal.methods.mpsl.pieces import Piece, judge, scale_gradients, split_of

    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = DigitsCaptions(width=width, layers=layers)
    x, y = (each[:examples] for each in task.train_data())
    # Once before anything is measured: what torch loads at its first step is nobody's cost.
    small = DigitsCaptions(width=8, layers=1).model()
    functional.cross_entropy(small(x[:2]), y[:2]).backward()
    torch.optim.Adam(small.parameters()).step()
    before = _peak_mb()
    model = task.model()
    split = split_of(model)
    _, body, _ = split.numel
    if side == "split":
        # A client drops the body once the model is made.
        del model
        split = type(split)(split.front, (), split.head)
        weights = [*split.front.parameters(), *split.head.parameters()]
    else:
        weights = list(model.parameters())
    before_steps = time.process_time()
    optimizer = torch.optim.Adam(weights, lr=0.01)
    for places in torch.arange(len(x)).split(BATCH):
        optimizer.zero_grad()
        if side == "split":
            piece = Piece(split.front)
            (z,) = piece.forward([x[places]])
            judge(torch.randn(len(places), width), y[places], split.head)
            piece.backward([torch.randn_like(z)])
            scale_gradients(split.head, 5.0 * len(places))
        else:
            functional.cross_entropy(model(x[places]), y[places]).backward()
        optimizer.step()
    spent = time.process_time() - before_steps
    told.send(
        {
            "seconds": spent / len(x),
            "numel": sum(each.numel() for each in weights),
            "body": body,
            "peak_mb": _peak_mb() - before,
        }
    )


def _peak_mb() -> float:
    """Return the most memory that this process has had, in megabytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    sys.exit(main())
