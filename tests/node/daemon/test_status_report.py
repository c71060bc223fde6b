"""What the status says of a line that is too slow for the run's codec."""

import pytest

from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.methods.registry import all_options, load_method
from shoal.node.daemon.status_report import slow_line
from shoal.node.status import RoundStatus


def spec(method: str = "diloco", codec: str = "float32", numel: int = 124_000_000) -> RunSpec:
    return RunSpec(
        method=method,
        task="t",
        codec=codec,
        options=all_options(load_method(method, {})),
        tensors=(TensorSpec("w", "float32", (numel,)),),
    )


def averaged(work_seconds: float, contributors: int = 4, outcome: str = "averaged") -> RoundStatus:
    return RoundStatus(0, outcome, contributors, 1.0, {}, work_seconds, 0.0, 1.0, 0.0, "")


def test_a_slow_line_is_named_with_the_codec_that_fits_it() -> None:
    said = slow_line(spec(), 20, [])
    assert said.startswith("a round sends 744 MB and takes about 298 s at 20 Mbit/s")
    assert "take --codec int4" in said


@pytest.mark.parametrize(
    ("codec", "mbit", "history"),
    [
        ("int4", 20, []),
        ("float32", 0, []),
        ("float32", 1000, []),
        ("float32", 20, [averaged(300.0)]),
    ],
    ids=["the codec fits", "the line is not known", "the line is fast", "the work takes as long"],
)
def test_nothing_is_said_where_nothing_is_slow(codec: str, mbit: float, history: list[RoundStatus]) -> None:
    assert slow_line(spec(codec=codec), mbit, history) == ""


def test_the_peers_and_the_work_are_those_of_the_last_averaged_rounds() -> None:
    history = [
        averaged(300.0, outcome="alone"),
        averaged(1.0, contributors=2),
        averaged(900.0, outcome="failed"),
    ]
    assert slow_line(spec(), 20, history).startswith("a round sends 496 MB")


def test_nothing_is_said_without_a_run_or_of_a_method_that_only_the_trainer_knows() -> None:
    assert slow_line(None, 20, []) == ""
    unknown = RunSpec(method="theirs", task="t", tensors=spec().tensors)
    assert slow_line(unknown, 20, []) == ""
