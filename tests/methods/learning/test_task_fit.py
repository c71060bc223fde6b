"""Whether a task gives a method what it asks for, and what the methods' pages say of it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from shoal.methods.learning.task import Task, load_task
from shoal.methods.learning.task_fit import fit_of
from shoal.methods.needs import needs_of, needs_table
from shoal.methods.registry import METHODS, method_class

PAGES = Path(__file__).resolve().parents[3] / "docs" / "methods"


class Plain(Task):
    """A convolution and eight labelled examples, nothing else."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten())

    def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64)


def missing(task: Task, method: str, **options: str) -> list[str]:
    fit = fit_of(task, method, options)
    assert fit.fits, fit.problem
    return [each.need.what for each in fit.given if each.is_given is False]


@pytest.mark.parametrize("name", METHODS)
def test_every_page_has_the_table_of_what_a_task_gives(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text("utf-8")
    table = needs_table(needs_of(method_class(name)))
    assert table in page, f"put this into docs/methods/{name}.md:\n{table}"


@pytest.mark.parametrize("method", ["local", "fedavg", "fedprox", "diloco"])
def test_methods_that_average_take_every_task(method: str) -> None:
    assert missing(Plain(), method) == []


@pytest.mark.parametrize(
    ("method", "task", "options"),
    [
        ("fedstar", "tones", {}),
        ("fedln", "digits_noisy", {}),
        ("fedcompress", "digits_compressible", {}),
        ("matu", "digit_tasks", {}),
        ("deltamask", "digits_body", {}),
    ],
)
def test_the_built_in_task_of_a_method_fits_it(method: str, task: str, options: dict[str, str]) -> None:
    # Flattened pixels will do as an embedding of digits.
    assert set(missing(load_task(task, {}), method, **options)) <= {"embed()"}


def test_what_a_task_does_not_give_is_told() -> None:
    assert missing(Plain(), "fedstar") == ["unlabelled_data()", "10 labelled examples"]
    assert missing(Plain(), "fedln") == ["embed()", "a last nn.Linear"]
    assert missing(Plain(), "matu") == ["parts()", "identity()", "outputs()"]


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("deltamask", {}, "Plain has no head: let its role() return 'head'"),
        ("fedcompress", {"kappa_min": 8, "kappa_max": 32}, "the model has no linear layer"),
        ("fedln", {"remedy": "distil"}, "the model has no linear layer"),
    ],
)
def test_what_a_method_refuses_is_told_in_its_words(
    method: str, options: dict[str, str | int], words: str
) -> None:
    fit = fit_of(Plain(), method, options)
    assert not fit.fits
    assert words in fit.problem
    assert "\n" not in fit.problem


def test_a_task_that_cannot_be_trained_fits_no_method() -> None:
    class Empty(Plain):
        def train_data(self) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64)

    fit = fit_of(Empty(), "fedavg", {})
    assert not fit.fits
    assert "train_data() is empty" in fit.problem
