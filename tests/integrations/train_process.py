"""A user's script of each framework, as a process of its own in a swarm of real nodes.

python train_process.py KIND HOME SHARE PORT JOIN [--rounds N] [--pause SECONDS] [--steps N] [--resume]

KIND: plain, accelerate, trainer, peft, trl, lightning, ddp or fsdp2. The last two take RANK, WORLD_SIZE and
STORE from the environment. A Trainer ends after so many steps, and saves two before that; it may go on
from there. Prints ``round N`` after each round, and in the end
``done KIND rounds steps hash``.
"""

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from little_models import Sentences, gpt2, lora, mlp, points
from torch import distributed, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import shoal
from shoal.methods.learning.model_tensors import float_tensors
from shoal.methods.learning.sharded import whole

KIND, HOME, SHARE, PORT, JOIN = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
ROUNDS = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 5
PAUSE = float(sys.argv[sys.argv.index("--pause") + 1]) if "--pause" in sys.argv else 0.0
EVERY = 4
OPTIONS: dict[str, Any] = {
    "every": EVERY,
    "rounds": ROUNDS,
    "quorum": 2,  # so that nobody goes on without the other
    "home": HOME,
    "join": [JOIN] if JOIN != "-" else [],
    "node_options": [
        *("--no-mdns", "--no-dht", f"--swarm=frameworks-{KIND}", "--wait-for=2", "--http-port=0"),
        f"--port={PORT}",
    ],
}
MANY = 10_000
"""Steps that would be taken if the run did not end before."""
STEPS = int(sys.argv[sys.argv.index("--steps") + 1]) if "--steps" in sys.argv else MANY


class Seen:
    """Says each round once."""

    def __init__(self) -> None:
        self.round = -1
        self.steps = 0

    def look(self, round_: int) -> None:
        """Note a step of the optimizer, and the round after it."""
        self.steps += 1
        if round_ != self.round:
            self.round = round_
            print(f"round {round_}", flush=True)
        time.sleep(PAUSE)


seen = Seen()


def tell(model: nn.Module, rounds: int) -> None:
    """Print what the model holds of what travels."""
    with torch.no_grad():
        arrays = [
            whole(t).detach().numpy().astype(np.float32)
            for t in float_tensors(model).values()
            if t.requires_grad
        ]
    digest = hashlib.sha256(b"".join(each.tobytes() for each in arrays)).hexdigest()[:16]
    print(f"done {KIND} {rounds} {seen.steps} {digest}", flush=True)


def plain(accelerator: Any = None) -> None:
    """Train in a loop of one's own, or of accelerate's with four batches a step."""
    model: Any = mlp(SHARE)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = points(SHARE)
    scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.99**step)
    if accelerator is not None:
        model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    with shoal.Swarm(model, **OPTIONS) as swarm:
        batch = 0
        while not swarm.is_finished:
            rows = torch.arange(8) + 8 * (batch % 8)
            batch += 1
            if accelerator is None:
                optimizer.zero_grad()
                functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
                scheduler.step()
            else:
                with accelerator.accumulate(model):
                    accelerator.backward(functional.cross_entropy(model(x[rows]), y[rows]))
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                if not accelerator.sync_gradients:
                    continue
            swarm.step(samples=8)
            seen.look(swarm.rounds)
    tell(model, seen.round)


def trainer(model: Any, make: Any = None) -> None:
    """Train with a Trainer of Hugging Face's."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from shoal.huggingface import SwarmCallback

    swarm: Any = SwarmCallback(**OPTIONS)

    class Looks(TrainerCallback):  # type: ignore[misc]  # transformers' classes are unknown to mypy
        def on_step_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:
            seen.look(swarm.swarm.rounds)

    given = {
        "output_dir": str(HOME / "checkpoints"),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
        "save_strategy": "no" if STEPS == MANY else "steps",
        "save_steps": STEPS - 2,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    if make is None:
        made = Trainer(model, TrainingArguments(**given), train_dataset=Sentences(share=SHARE))
    else:
        made = make(model, given)
    made.add_callback(swarm)
    made.add_callback(Looks())
    made.train(resume_from_checkpoint="--resume" in sys.argv)
    print(f"step {made.state.global_step}", flush=True)
    tell(made.model, seen.round)


def trl() -> None:
    """Train with TRL's SFTTrainer."""
    import datasets
    from little_models import tokenizer
    from trl import SFTConfig, SFTTrainer

    def make(model: Any, given: dict[str, Any]) -> Any:
        data = datasets.Dataset.from_dict({"text": ["a b c d", "b c d a", "c d a b", "d a b c"] * 8})
        config = SFTConfig(**given, max_length=16, bf16=False)
        return SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer())

    trainer(gpt2(SHARE), make)


def lightning() -> None:
    """Train with Lightning."""
    import lightning.pytorch as pl

    from shoal.lightning import SwarmCallback

    swarm: Any = SwarmCallback(**OPTIONS)

    class Classifier(pl.LightningModule):  # type: ignore[misc]  # Lightning's classes are unknown to mypy
        def __init__(self) -> None:
            super().__init__()
            self.model = mlp(SHARE)

        def training_step(self, batch: Any, index: int) -> Any:
            return functional.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    class Looks(pl.Callback):  # type: ignore[misc]  # Lightning's classes are unknown to mypy
        def on_train_batch_end(self, *_: Any) -> None:
            seen.look(swarm.swarm.rounds)

    module = Classifier()
    pl.Trainer(
        max_steps=MANY,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[swarm, Looks()],
    ).fit(module, DataLoader(TensorDataset(*points(SHARE)), batch_size=8))
    tell(module, seen.round)


def ranks() -> None:
    """Train under torchrun: every rank with other rows."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = f"file://{os.environ['STORE']}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    model: Any = mlp(SHARE)
    if KIND == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (world,))
        for layer in (model[0], model[2]):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x, y = points(10 * SHARE + rank)
    with shoal.Swarm(model, **OPTIONS) as swarm:
        while not swarm.is_finished:
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            swarm.step(samples=len(x) * world)
            seen.look(swarm.rounds)
    tell(model, seen.round)
    distributed.destroy_process_group()


def main() -> None:
    """Train as the first argument says."""
    torch.set_num_threads(1)
    match KIND:
        case "plain":
            plain()
        case "accelerate":
            from accelerate import Accelerator

            plain(Accelerator(gradient_accumulation_steps=4, cpu=True))
        case "trainer":
            trainer(gpt2(SHARE))
        case "peft":
            trainer(lora())
        case "trl":
            trl()
        case "lightning":
            lightning()
        case _:
            ranks()


if __name__ == "__main__":
    main()
