"""The codec that fits a line: the first of the ladder whose exchange is no longer than the work beside it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.gossip.averaging.tensor_codecs import CODECS
from shoal.gossip.run_spec import RunSettings, Scalar
from shoal.methods.registry import load_method
from shoal.node.config.codec_ladder import (
    LADDER,
    bytes_sent,
    codec_advice,
    codecs_for,
    exchange_seconds,
    fitting_codec,
)
from shoal.node.config.codec_preflight import check_codec

GPT2_SMALL = 124_000_000


def advice(
    codec: str, numel: int, mbit: float, method: str = "diloco", *, peers: int = 4, work: float = 0.0
) -> str:
    run = RunSettings(method=method, codec=codec)
    return codec_advice(run, load_method(method, {}), numel, mbit, peers=peers, work_seconds=work)


def test_an_exchange_takes_its_bytes_over_the_line() -> None:
    # Of four peers each sends 1.5 vectors: 1.5 · 4 · 10^6 bytes at 10^6 bytes a second.
    assert exchange_seconds("float32", 1_000_000, 8.0, peers=4) == pytest.approx(6.0)
    assert exchange_seconds("float32", 1_000_000, 8.0, peers=2) == pytest.approx(4.0)
    assert bytes_sent("int4", GPT2_SMALL) == pytest.approx(98.8e6, rel=1e-3)


@pytest.mark.parametrize(
    ("numel", "mbit", "codec"),
    [
        (GPT2_SMALL, 200, "float32"),
        (GPT2_SMALL, 50, "int8"),
        (GPT2_SMALL, 20, "int4"),
        (GPT2_SMALL, 8, "int2"),
        (GPT2_SMALL, 4, "sign"),
        (12_000_000, 20, "float32"),
        (12_000_000, 3, "int8"),
        (10**12, 1, "sign"),
    ],
)
def test_the_codec_that_fits_follows_from_size_and_line(numel: int, mbit: float, codec: str) -> None:
    assert fitting_codec(numel, mbit) == codec


@given(st.integers(1, 10**10), st.floats(0.1, 1e4), st.integers(2, 64), st.floats(1, 1e4))
def test_no_codec_above_the_fitting_one_is_fast_enough(
    numel: int, mbit: float, peers: int, seconds: float
) -> None:
    best = fitting_codec(numel, mbit, peers=peers, seconds=seconds)
    for name in LADDER[: LADDER.index(best)]:
        assert exchange_seconds(name, numel, mbit, peers) > seconds
    assert best == LADDER[-1] or exchange_seconds(best, numel, mbit, peers) <= seconds


def test_the_page_shows_what_the_ladder_says() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "codecs.md").read_text("utf-8")
    lines = (3, 10, 20, 50, 100, 200, 1000)
    millions = {"1 M": 1, "12 M": 12, "50 M": 50, "124 M": 124, "350 M": 350, "1 B": 1000}
    assert "| numbers | " + " | ".join(f"{mbit} Mbit/s" for mbit in lines) + " |" in page
    for name, numel in ((name, each * 10**6) for name, each in millions.items()):
        best = [fitting_codec(numel, mbit) for mbit in lines]
        cells = [
            f"{codec}, {exchange_seconds(codec, numel, mbit):.0f} s"
            for codec, mbit in zip(best, lines, strict=True)
        ]
        assert f"| {name} | " + " | ".join(cells) + " |" in page


def test_the_ladder_goes_down() -> None:
    sizes = [CODECS[name].size(GPT2_SMALL) for name in LADDER]
    assert sizes == sorted(sizes, reverse=True)


def test_who_waits_for_a_line_is_told_what_takes_how_long() -> None:
    assert advice("float32", GPT2_SMALL, 20) == (
        "a round sends 744 MB and takes about 298 s at 20 Mbit/s; on all peers, take --codec int4,"
        " which takes 40 s"
    )
    assert advice("float32", GPT2_SMALL, 20, peers=2).startswith("a round sends 496 MB and takes about 198 s")


def test_few_bytes_on_a_very_slow_line_are_told_too() -> None:
    assert advice("float32", 8970, 0.005).startswith("a round sends 0.0538 MB and takes about 86 s")


def test_a_codec_that_fits_is_left_alone() -> None:
    assert advice("int4", GPT2_SMALL, 20) == ""
    assert advice("float32", 9_000, 0.1) == ""


def test_an_exchange_no_longer_than_the_work_beside_it_is_left_alone() -> None:
    assert advice("float32", GPT2_SMALL, 20, work=299) == ""
    assert "take --codec int8, which takes 75 s" in advice("float32", GPT2_SMALL, 20, work=100)


def test_who_does_not_know_his_line_is_told_nothing() -> None:
    assert advice("float32", GPT2_SMALL, 0) == ""


def test_the_coarsest_codecs_are_named_with_the_plain_averaging_that_they_need() -> None:
    assert "take --codec int2 --option outer_lr=1" in advice("float32", GPT2_SMALL, 8)
    said = advice("int8", 10**9, 20)
    assert "take --codec sign --option outer_lr=1 --option outer_momentum=0, which takes 77 s" in said
    assert said.endswith(", and train more steps in a round")


def test_where_nothing_smaller_fits_more_steps_are_named() -> None:
    assert "no codec that fits diloco is smaller: train more steps" in advice("topk", 10**10, 1)
    assert "no codec that fits fedavg is smaller" in advice("int4", 10**10, 1, "fedavg")


def test_who_averages_params_is_not_sent_to_a_codec_for_changes() -> None:
    assert "take --codec int4," in advice("float32", GPT2_SMALL, 1, "fedavg")


def test_a_method_that_gathers_has_no_codec_to_take() -> None:
    assert advice("float32", GPT2_SMALL, 1, "fedcompress") == ""
    assert advice("float32", GPT2_SMALL, 1, "local") == ""


@pytest.mark.parametrize("engine", ["native", "hivemind"])
@pytest.mark.parametrize("name", ["diloco", "fedavg", "deltamask"])
def test_nothing_is_advised_that_preflight_refuses(name: str, engine: str) -> None:
    plain: dict[str, Scalar] = {"outer_lr": 1.0, "outer_momentum": 0.0} if name == "diloco" else {}
    run = RunSettings(method=name, options=plain, engine=engine)  # type: ignore[arg-type]
    method = load_method(name, plain)
    codecs = codecs_for(run, method)
    for codec in codecs:
        check_codec(RunSettings(method=name, options=plain, codec=codec), method)
    assert (codecs[-1] == "int8") == (engine == "hivemind")
