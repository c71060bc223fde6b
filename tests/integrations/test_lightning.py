"""The callback of Lightning's Trainer, beside a fake daemon: steps, figures, resume, the end."""

# ruff: noqa: E402  # what needs the framework is imported once it is known to be there

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_daemon import Beside, FakeDaemon, in_thread

pl: Any = pytest.importorskip("lightning.pytorch")

from little_models import mlp, points
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from shoal.lightning import SwarmCallback
from shoal.methods.errors import BadTask
from shoal.methods.learning.model_tensors import read_model
from shoal.node.trainer import ipc

pytestmark = pytest.mark.filterwarnings("ignore")


class Classifier(pl.LightningModule):  # type: ignore[misc]  # Lightning's classes are unknown to mypy
    """A module as users write it."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.model, self.lr = mlp(), lr
        self.criterion: Any = None

    def training_step(self, batch: Any, index: int) -> Any:
        x, y = batch
        loss = functional.cross_entropy(self.model(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        x, y = batch
        self.log("accuracy", (self.model(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        trained = [*self.model.parameters()]
        if self.criterion is not None:
            trained += self.criterion
        return torch.optim.SGD(trained, lr=self.lr)


def data() -> Any:
    return DataLoader(TensorDataset(*points(0)), batch_size=4)


def trainer(folder: Path, *callbacks: Any, steps: int = 8, **more: Any) -> Any:
    given: dict[str, Any] = {
        "max_steps": steps,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(folder),
        "callbacks": list(callbacks),
    }
    return pl.Trainer(**given | more)


def callback(home: Path, **more: Any) -> Any:
    return SwarmCallback(**{"every": 4, "method": "fedavg", "home": home} | more)


def test_a_step_of_the_optimizer_is_a_step_however_many_batches_it_gathers(
    daemon: FakeDaemon, home: Path, tmp_path: Path
) -> None:
    beside = Beside(daemon)
    model, alone = Classifier(), Classifier()
    made = trainer(tmp_path, callback(home), accumulate_grad_batches=4)
    made.fit(model, data())
    trainer(tmp_path, accumulate_grad_batches=4).fit(alone, data())
    assert made.global_step == 8
    finished = beside.finished()
    assert [message.steps for message in finished] == [4, 4]
    # Four rows, four batches a step, four steps.
    assert [message.examples for message in finished] == [64, 64]
    assert all(0 < message.loss < 3 for message in finished)
    np.testing.assert_allclose(read_model(model), read_model(alone), atol=1e-5)


def test_its_loggers_and_the_page_tell_each_other(daemon: FakeDaemon, home: Path, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    beside = Beside(daemon)
    logger = CSVLogger(tmp_path, name="log")
    made = trainer(tmp_path, callback(home), logger=logger, val_check_interval=4, log_every_n_steps=1)
    made.fit(Classifier(), data(), data())
    logger.save()
    written = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(written[0].split(","), line.split(","), strict=True)) for line in written[1:]]
    assert [float(row["shoal/round"]) for row in rows if row["shoal/round"]] == [1, 2]
    _, second = beside.finished()
    assert 0 <= second.metrics["accuracy"] <= 1
    assert 0 < second.metrics["train_loss"] < 3


def test_the_end_of_the_run_ends_the_training(daemon: FakeDaemon, home: Path, tmp_path: Path) -> None:
    def serve() -> None:
        one = daemon.attach()
        daemon.run_rounds([one], 1)
        one.send(ipc.Stop())

    serving = in_thread(serve)
    made = trainer(tmp_path, callback(home), steps=400)
    made.fit(Classifier(), data())
    serving.join()
    assert made.global_step == 4


def test_early_stopping_leaves_the_swarm(
    daemon: FakeDaemon, home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from lightning.pytorch.callbacks import EarlyStopping

    beside = Beside(daemon)
    stops = EarlyStopping("accuracy", mode="max", patience=1, min_delta=1.0)
    made = trainer(tmp_path, callback(home), stops, steps=400, val_check_interval=5)
    with caplog.at_level(logging.WARNING):
        made.fit(Classifier(lr=0.0), data(), data())
    assert made.global_step == 10
    assert len(beside.finished()) == 2
    assert "the last 2 steps were not averaged" in caplog.text


@pytest.mark.parametrize("round_", [1, 5])
def test_a_checkpoint_of_the_swarms_round_goes_on_and_an_older_one_gives_way(
    round_: int, daemon: FakeDaemon, home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beside = Beside(daemon)
    model = Classifier()
    made = trainer(tmp_path, callback(home), steps=6)
    made.fit(model, data())
    path = tmp_path / "six.ckpt"
    made.save_checkpoint(path)
    beside.end()
    assert beside.trainer is not None
    state, at_six = beside.trainer.vector.copy(), read_model(model)
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
    again = trainer(tmp_path, callback(home), steps=400)
    with caplog.at_level(logging.WARNING):
        again.fit(Classifier(), data(), ckpt_path=path)
    serving.join()
    contributed, finished = asked
    assert finished.steps == 4
    assert not np.array_equal(at_six, state)
    if round_ == 1:
        assert again.global_step == 8
        assert "taken over" not in caplog.text
    else:
        assert again.global_step == 10
        assert np.abs(contributed - theirs).max() < np.abs(at_six - theirs).max()
        assert "round 5 of the swarm is taken over, not your checkpoint of round 1" in caplog.text


def test_a_step_that_fails_leaves_the_swarm(daemon: FakeDaemon, home: Path, tmp_path: Path) -> None:
    class Breaks(Classifier):
        def training_step(self, batch: Any, index: int) -> Any:
            if index == 5:
                raise RuntimeError("a mistake of the user's")
            return super().training_step(batch, index)

    beside = Beside(daemon)
    with pytest.raises(RuntimeError, match="a mistake of the user's"):
        trainer(tmp_path, callback(home)).fit(Breaks(), data())
    assert len(beside.finished()) == 1


def test_an_optimizer_of_something_else_is_refused(home: Path, tmp_path: Path) -> None:
    model = Classifier()
    model.criterion = [torch.nn.Parameter(torch.zeros(3))]
    with pytest.raises(BadTask, match="the optimizer trains a tensor that is none of the model's"):
        trainer(tmp_path, callback(home)).fit(model, data())
