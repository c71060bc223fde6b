"""LoRA adapters of a small GPT-2, trained together by the Trainer of Hugging Face; nothing is downloaded.

One line differs from training alone, marked with "# swarm". It needs: pip install 'shoal[hf]' peft
In two terminals, or on two machines with the first one's address in place of 127.0.0.1:

    python examples/hf_lora.py --home /tmp/one --node-option=--port=4720
    python examples/hf_lora.py --home /tmp/two --join 127.0.0.1:4720 --seed 1
"""

import argparse
import os
import tempfile
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from shoal.huggingface import SwarmCallback  # swarm


class Counting(Dataset):  # type: ignore[misc]  # torch's classes are unknown to mypy
    """Rows of numbers that count upwards by a step; it stands for your own texts."""

    def __init__(self, seed: int) -> None:
        """`seed`: each peer has rows of its own."""
        dice = torch.Generator().manual_seed(seed)
        self._starts = torch.randint(64, (256, 2), generator=dice)

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return one row."""
        start, step = self._starts[index]
        row = (start + (1 + step % 4) * torch.arange(16)) % 64
        return {"input_ids": row, "labels": row}


def model() -> Any:
    """Return the model; the base is the same on all peers, as one that you download is."""
    torch.manual_seed(0)
    base = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
    )
    return get_peft_model(base, LoraConfig(r=8, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True))


def main() -> None:
    """Train until the run has had its rounds."""
    given = arguments()
    torch.set_num_threads(1)
    swarm = SwarmCallback(
        every=given.every,
        rounds=given.rounds,
        home=given.home,
        join=given.join,
        node_options=given.node_option,
    )
    trainer = Trainer(
        model(),
        TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            max_steps=100_000,  # the run ends before
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            logging_steps=given.every,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=Counting(given.seed),
        callbacks=[swarm],  # swarm
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    total = sum(float(p.detach().double().sum()) for p in trained.values())
    print(
        f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, {len(trained)} adapter tensors, sum {total:.6f}",
        flush=True,
    )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="LoRA in a swarm, by Hugging Face's Trainer.")
    parser.add_argument("--home", required=True, help="the folder of this process's node")
    parser.add_argument("--join", action="append", default=[], help="a node to join; repeatable")
    parser.add_argument("--every", type=int, default=10, help="optimizer steps per round")
    parser.add_argument("--rounds", type=int, default=6, help="of the run; the same on all peers")
    parser.add_argument("--seed", type=int, default=0, help="of this peer's data")
    parser.add_argument(
        "--node-option",
        action="append",
        default=["--port=0", "--http-port=0"],
        help="an argument of shoal start, as in --node-option=--port=4720",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
