"""Scenario files say what a plan can say, in words for people, and nothing else."""

from pathlib import Path

import pytest

from shoal.node.testnet.fault_injection.schedule import actions
from shoal.node.testnet.faults import Fault, Holds, Link
from shoal.node.testnet.plan import BadPlan, Plan, check, load, plan_of

SCENARIOS = sorted((Path(__file__).parents[3] / "scenarios").glob("*.toml"))

TEXT = """
about = "Two faults."
nodes = 4
churn = 0.5

[link]
latency = "80ms"
loss = "1%"
bandwidth_mbit = "20mbit"

[options]
lr = 0.1

[[faults]]
kind = "split"
at = 10
nodes = [1, 2]

[[faults]]
kind = "slow"
at = 20
link = { latency = "1s" }

[holds]
lost_rounds = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.toml"
    path.write_text(TEXT)
    return path


def test_a_scenario_is_a_plan(file: Path) -> None:
    assert load(file) == Plan(
        about="Two faults.",
        nodes=4,
        churn=0.5,
        link=Link(latency=0.08, loss=0.01, bandwidth_mbit=20.0),
        options={"lr": 0.1},
        faults=(
            Fault(kind="split", at=10, nodes=(1, 2)),
            Fault(kind="slow", at=20, link=Link(latency=1.0)),
        ),
        holds=Holds(lost_rounds=1),
    )


def test_what_was_typed_takes_the_place_of_what_the_file_says(file: Path) -> None:
    plan = load(file, nodes=9, seed=5)
    assert (plan.nodes, plan.seed, plan.churn) == (9, 5, 0.5)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nodes = ", "is no TOML"),
        ("nodes = 0", r"nodes: expected `?int`? >= 1"),
        ("nods = 3", "unknown field nods"),
        ("[link]\nlatency = 'soon'", "write 80ms"),
        ("[[faults]]\nkind = 'burn'\nat = 1", r"faults\[0\].kind: invalid enum value 'burn'"),
        ("[[faults]]\nkind = 'kill'", "missing required field at"),
        (
            'task = "tones"\nalpha = 1.0',
            "alpha does not reach this task: tones shares its examples out at random",
        ),
    ],
)
def test_a_slip_is_refused_with_the_file_and_the_key(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "slip.toml"
    path.write_text(text)
    with pytest.raises(BadPlan, match=reason) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value).split("TOML")[0]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="cannot read"):
        load(tmp_path / "none.toml")


def test_a_wrong_value_is_named_as_it_was_typed() -> None:
    with pytest.raises(BadPlan, match=r"^--churn: expected"):
        plan_of({"churn": -1.0}, lambda field: f"--{field}")


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_that_is_kept_here_can_be_run(path: Path) -> None:
    plan = load(path)
    check(plan)
    assert plan.about
    assert plan.is_shaken
    assert next(actions(plan)).at < (plan.seconds or 60)
