"""The callback of the Hugging Face Trainer, beside a fake daemon: steps, logs, resume, the end."""

# what needs the framework is imported once it is known to be there

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_daemon import Beside, FakeDaemon, in_thread

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from little_models import Sentences, gpt2, lora
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

import shoal
from shoal.huggingface import SwarmCallback
from shoal.methods.errors import BadOption, BadTask
from shoal.methods.learning.model_tensors import float_tensors, read_model
from shoal.node.storage.hf_folder import export, reader_of
from shoal.node.storage.merging.adapters import base_folder, merged, read_config
from shoal.node.storage.model_file import NoModel
from shoal.node.trainer import ipc

pytestmark = pytest.mark.filterwarnings("ignore")


def arguments(folder: Path, **more: Any) -> Any:
    given: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 8,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "logging_steps": 4,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
    }
    return TrainingArguments(**given | more)


def callback(home: Path, **more: Any) -> Any:
    return SwarmCallback(**{"every": 4, "method": "fedavg", "home": home} | more)


def test_an_optimizer_step_is_a_step_however_many_batches_it_gathers(
    daemon: FakeDaemon, home: Path, tmp_path: Path
) -> None:
    beside = Beside(daemon)
    alone = Trainer(
        gpt2(), arguments(tmp_path / "a", gradient_accumulation_steps=4), train_dataset=Sentences()
    )
    alone.train()
    swarm = callback(home)
    trainer = Trainer(
        gpt2(),
        arguments(tmp_path / "o", gradient_accumulation_steps=4),
        train_dataset=Sentences(),
        callbacks=[swarm],
    )
    trainer.train()
    assert trainer.state.global_step == alone.state.global_step == 8
    finished = beside.finished()
    assert [message.steps for message in finished] == [4, 4]
    # Two rows, four batches a step, four steps.
    assert [message.examples for message in finished] == [32, 32]
    # A mean of one is what this one learned: the swarm takes no part in how the Trainer trains.
    np.testing.assert_allclose(read_model(trainer.model), read_model(alone.model), atol=1e-5)


def test_its_log_and_the_page_tell_each_other(daemon: FakeDaemon, home: Path, tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []

    class Tracker(TrainerCallback):  # type: ignore[misc]  # transformers' classes are unknown to mypy
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **found: Any) -> None:
            heard.append(dict(logs))

    beside = Beside(daemon)
    swarm = callback(home)
    trainer = Trainer(
        gpt2(), arguments(tmp_path / "o"), train_dataset=Sentences(), callbacks=[Tracker(), swarm]
    )
    swarm.lead(trainer)
    trainer.train()
    assert [logs["shoal/round"] for logs in heard[:2]] == [1, 2]
    assert heard[0]["shoal/contributors"] == 1
    assert trainer.state.log_history[0]["shoal/round"] == 1
    _, second = beside.finished()
    # Logged after the round that its steps led to.
    assert "learning_rate" in second.metrics
    assert second.loss == pytest.approx(trainer.state.log_history[0]["loss"], abs=1e-3)
    assert not [name for name in second.metrics if name.startswith("shoal/")]


def test_adapters_alone_travel(daemon: FakeDaemon, home: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    beside = Beside(daemon)
    model = lora()
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    Trainer(model, arguments(tmp_path / "o"), train_dataset=Sentences(), callbacks=[callback(home)]).train()
    asked = {message.numel for message in beside.end() if isinstance(message, ipc.AskAllReduce)}
    assert asked == {trained}


def test_the_end_of_the_run_ends_the_training(daemon: FakeDaemon, home: Path, tmp_path: Path) -> None:
    def serve() -> None:
        one = daemon.attach()
        daemon.run_rounds([one], 1)
        one.send(ipc.Stop())

    serving = in_thread(serve)
    swarm = callback(home)
    trainer = Trainer(
        gpt2(), arguments(tmp_path / "o", max_steps=40), train_dataset=Sentences(), callbacks=[swarm]
    )
    trainer.train()
    serving.join()
    assert trainer.state.global_step == 4
    # The last round counts, though no other begins.
    assert swarm.swarm.rounds == 1


def test_early_stopping_leaves_the_swarm_and_says_what_was_not_averaged(
    daemon: FakeDaemon, home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beside = Beside(daemon)
    trainer = Trainer(
        gpt2(),
        arguments(
            tmp_path / "o",
            max_steps=40,
            learning_rate=0.0,
            eval_strategy="steps",
            eval_steps=6,
            save_strategy="steps",
            save_steps=6,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
        ),
        train_dataset=Sentences(),
        eval_dataset=Sentences(8),
        callbacks=[callback(home), EarlyStoppingCallback(early_stopping_patience=1)],
    )
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 12
    assert len(beside.finished()) == 3
    assert "steps were not averaged" not in caplog.text


def test_a_step_that_was_left_out_is_none(daemon: FakeDaemon, home: Path, tmp_path: Path) -> None:
    class Skips(TrainerCallback):  # type: ignore[misc]  # transformers' classes are unknown to mypy
        """As accelerate says it where GradScaler found no finite gradients."""

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **found: Any) -> None:
            found["optimizer"]._is_overflow = state.global_step < 2
            found["optimizer"]._accelerate_step_called = True

    beside = Beside(daemon)
    Trainer(
        gpt2(), arguments(tmp_path / "o"), train_dataset=Sentences(), callbacks=[callback(home), Skips()]
    ).train()
    assert len(beside.finished()) == 1


def saved(daemon: FakeDaemon, home: Path, tmp_path: Path) -> tuple[Path, np.ndarray[Any, Any], Any]:
    """Return a checkpoint of step 6, two steps after round 1; the model in it; and the node's state then."""
    beside = Beside(daemon)
    Trainer(
        gpt2(),
        arguments(tmp_path / "o", max_steps=6, save_strategy="steps", save_steps=6),
        train_dataset=Sentences(),
        callbacks=[callback(home)],
    ).train()
    beside.end()
    assert beside.trainer is not None
    folder = tmp_path / "o" / "checkpoint-6"
    model = type(gpt2()).from_pretrained(folder)
    return folder, read_model(model), beside.trainer.vector.copy()


@pytest.mark.parametrize("round_", [1, 5])
def test_a_checkpoint_of_the_swarms_round_goes_on_and_an_older_one_gives_way(
    round_: int, daemon: FakeDaemon, home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, model, state = saved(daemon, home, tmp_path)
    theirs = state if round_ == 1 else np.full_like(state, 0.01)
    asked: list[Any] = []

    def serve() -> None:
        one = daemon.attach(restored=theirs, round_=round_)
        one.begin()
        ask = one.receive()
        asked.append(one.segment.exchange[: ask.numel].copy())
        one.send(ipc.Averaged(contributors=("me",)))
        asked.append(one.receive())
        one.send(ipc.Stop())

    serving = in_thread(serve)
    trainer = Trainer(
        gpt2(),
        arguments(tmp_path / "o", max_steps=20, learning_rate=0.0),
        train_dataset=Sentences(),
        callbacks=[callback(home)],
    )
    with caplog.at_level(logging.WARNING):
        trainer.train(resume_from_checkpoint=str(folder))
    serving.join()
    contributed, finished = asked
    if round_ == 1:
        # Two of four steps were taken when it was saved; what they learned counts.
        assert finished.steps == 4
        assert trainer.state.global_step == 8
        assert not np.array_equal(model, state)
        assert "taken over" not in caplog.text
    else:
        assert trainer.state.global_step == 10
        # Four steps of AdamW at 0.01 from theirs, and far from what the checkpoint held.
        assert np.abs(contributed - theirs).max() < 0.05 < np.abs(model - theirs).max()
        assert "round 5 of the swarm is taken over, not your checkpoint of round 1" in caplog.text


def test_what_cannot_work_is_refused_in_a_sentence(home: Path, tmp_path: Path) -> None:
    trainer = Trainer(
        gpt2(),
        arguments(tmp_path / "o"),
        train_dataset=Sentences(),
        callbacks=[callback(home, method="fedprox")],
    )
    with pytest.raises(BadOption, match="for your own loop choose"):
        trainer.train()
    stranger = torch.nn.Linear(2, 2)
    model = gpt2()
    optimizer = torch.optim.SGD([*model.parameters(), *stranger.parameters()], lr=0.1)
    trainer = Trainer(
        model,
        arguments(tmp_path / "o"),
        train_dataset=Sentences(),
        callbacks=[callback(home)],
        optimizers=(optimizer, None),
    )
    with pytest.raises(BadTask, match="the optimizer trains a tensor that is none of the model's"):
        trainer.train()


def test_a_swarm_optimizer_is_an_optimizer_to_the_trainer(
    daemon: FakeDaemon, home: Path, tmp_path: Path
) -> None:
    beside = Beside(daemon)
    model = gpt2()
    inner = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with shoal.SwarmOptimizer(inner, model, every=4, method="fedavg", home=home) as swarm:
        scheduler = torch.optim.lr_scheduler.LambdaLR(swarm, lambda step: 0.9**step)
        trainer = Trainer(
            model,
            arguments(tmp_path / "o", gradient_accumulation_steps=2),
            train_dataset=Sentences(),
            optimizers=(swarm, scheduler),
        )
        trainer.train()
        assert swarm.steps_taken == 8
    assert [message.steps for message in beside.finished()] == [4, 4]


def test_trl_trains_by_the_same_callback(daemon: FakeDaemon, home: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from little_models import tokenizer
    from trl import SFTConfig, SFTTrainer

    beside = Beside(daemon)
    data = datasets.Dataset.from_dict({"text": ["a b c d", "b c d a", "c d a b", "d a b c"] * 8})
    config = SFTConfig(
        output_dir=str(tmp_path / "o"),
        max_steps=8,
        per_device_train_batch_size=2,
        max_length=16,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
    )
    SFTTrainer(
        gpt2(), config, train_dataset=data, processing_class=tokenizer(), callbacks=[callback(home)]
    ).train()
    assert [message.steps for message in beside.finished()] == [4, 4]


@pytest.mark.parametrize("kind", ["whole", "adapters"])
def test_a_swarm_saves_a_model_of_theirs_as_the_folder_that_they_read(
    kind: str, daemon: FakeDaemon, home: Path, tmp_path: Path
) -> None:
    if kind == "adapters":
        peft = pytest.importorskip("peft")
    model = gpt2(seed=1) if kind == "whole" else lora()
    with torch.no_grad():
        for each in model.parameters():
            if each.requires_grad:
                each.add_(1)
    beside = Beside(daemon)
    with shoal.Swarm(model, every=2, method="fedavg", home=home) as swarm:
        swarm.save_model(tmp_path / "saved")
        with pytest.raises(NoModel, match="exists; choose another name"):
            swarm.save_model(tmp_path / "saved")
    beside.end()
    if kind == "whole":
        again = type(model).from_pretrained(tmp_path / "saved")
    else:
        again = peft.PeftModel.from_pretrained(gpt2(), tmp_path / "saved")
    assert np.array_equal(read_model(again), read_model(model))


def test_an_exported_run_is_what_from_pretrained_reads(tmp_path: Path) -> None:
    base, trained = gpt2(), gpt2(seed=1)
    base.save_pretrained(tmp_path / "base")
    export(tmp_path / "out", tmp_path / "base", arrays_of(trained), "")
    again = type(base).from_pretrained(tmp_path / "out")
    assert np.array_equal(read_model(again), read_model(trained))
    assert not np.array_equal(read_model(again), read_model(base))


def test_exported_adapters_are_what_peft_reads(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    trained = lora()
    trained.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for each in trained.parameters():
            if each.requires_grad:
                each.add_(1)
    arrays = {name: t for name, t in arrays_of(trained).items() if "lora_" in name}
    export(tmp_path / "out", tmp_path / "base", arrays, "")
    again = peft.PeftModel.from_pretrained(gpt2(), tmp_path / "out")
    assert np.array_equal(read_model(again), read_model(trained))


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True, "lora_alpha": 3}, {"modules_to_save": ["ln_f"], "bias": "lora_only"}]
)
def test_merged_adapters_are_what_peft_merges(options: dict[str, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = gpt2()
    base.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, **options)
    trained = peft.get_peft_model(type(base).from_pretrained(tmp_path / "base"), config)
    with torch.no_grad():
        for each in trained.parameters():
            if each.requires_grad:
                each.add_(torch.randn_like(each) / 10)
    trained.save_pretrained(tmp_path / "adapters")
    arrays = {name: t.detach().numpy() for name, t in float_tensors(trained).items() if t.requires_grad}
    found = read_config(tmp_path / "adapters")
    made = merged(arrays, found, reader_of(base_folder(tmp_path / "adapters", found)))
    export(tmp_path / "out", tmp_path / "base", made, "")
    ours, theirs = type(base).from_pretrained(tmp_path / "out"), trained.merge_and_unload()
    np.testing.assert_allclose(read_model(ours), read_model(theirs), atol=1e-6)
    assert np.abs(read_model(ours) - read_model(base)).max() > 0.01


def arrays_of(model: Any) -> dict[str, Any]:
    return {name: tensor.detach().numpy() for name, tensor in float_tensors(model).items()}
