"""Options become configs and constructor arguments, or one line that says why not."""

from typing import Annotated, Literal

import msgspec
import pytest

from shoal.methods.errors import BadOption
from shoal.methods.options import build_config, call_with_options, explain_options, field_docs


class Base(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A config."""

    lr: Annotated[float, msgspec.Meta(gt=0, le=2)] = 0.1
    """How far
    to step."""


class Config(Base, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another."""

    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 5
    """How often."""
    kind: Literal["a", "b"] = "a"
    fast: bool = False
    word: str


class Thing:
    """What options construct."""

    def __init__(self, size: int, rate: float = 1.0, name: str = "x") -> None:
        """Take options."""
        self.all = (size, rate, name)


def test_text_numbers_and_whole_numbers_become_what_is_declared() -> None:
    config = build_config(Config, {"lr": 1, "steps": "7", "fast": "true", "word": "w"}, "m")
    assert config == Config(lr=1.0, steps=7, fast=True, word="w")
    assert isinstance(config.lr, float)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": 3, "word": ""}, "m: lr = 3: expected `float` <= 2.0"),
        ({"lr": "fast", "word": ""}, "m: lr = 'fast': expected `float`, got `str`"),
        ({"lr": float("nan"), "word": ""}, "m: lr = nan: expected `float` > 0.0"),
        ({"kind": "c", "word": ""}, "m: kind = 'c': choose one of a | b"),
        ({"pace": 1}, "m has no option pace; it has: lr, steps, kind, fast, word"),
        ({}, "m: object missing required field `word`"),
    ],
)
def test_a_bad_option_is_named_with_what_would_be_right(options: dict[str, float | str], words: str) -> None:
    with pytest.raises(BadOption) as caught:
        build_config(Config, options, "m")
    assert str(caught.value) == words


def test_options_become_arguments() -> None:
    assert call_with_options(Thing, {"size": "3", "rate": 2}, "t").all == (3, 2.0, "x")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "t: option size has no default; give it a value"),
        ({"size": 1, "sise": 2}, "t has no option sise; it has: size, rate, name"),
        ({"size": "big"}, "t: size = 'big': expected `int`, got `str`"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, int | str], words: str) -> None:
    with pytest.raises(BadOption) as caught:
        call_with_options(Thing, options, "t")
    assert str(caught.value) == words


def test_field_docs_include_those_of_the_bases() -> None:
    assert field_docs(Config) == {"lr": "How far to step.", "steps": "How often."}


def test_options_are_explained_with_bounds_and_default() -> None:
    infos = {info.name: info for info in explain_options(Config)}
    assert (infos["lr"].type, infos["lr"].default, infos["lr"].bounds) == ("float", 0.1, "> 0, <= 2")
    assert infos["steps"].bounds == ">= 1, <= 1,000,000"
    assert infos["kind"].type == "a | b"
    assert infos["word"].default is None
