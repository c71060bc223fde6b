"""Run specs: equal specs have equal ids, and a difference is said in words."""

import msgspec
import pytest
from rosters import World

from shoal.gossip.admission.errors import BadCharter
from shoal.gossip.run_spec import RunSettings, RunSpec, TensorSpec, difference, run_id

SPEC = RunSpec(
    method="fedavg",
    options={"steps": 20, "lr": 0.1},
    task="digits",
    tensors=(TensorSpec("a.weight", "float32", (64, 10)), TensorSpec("a.bias", "float32", (10,))),
    shared=(TensorSpec("momentum", "float32", (650,)),),
)


def changed(**fields: object) -> RunSpec:
    return msgspec.structs.replace(SPEC, **fields)


def test_the_id_does_not_depend_on_the_order_in_which_options_were_given() -> None:
    assert run_id(changed(options={"lr": 0.1, "steps": 20})) == run_id(SPEC)
    assert len(run_id(SPEC)) == 32


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (changed(method="diloco", options={}), "method: fedavg here, diloco there"),
        (changed(options={"steps": 20, "lr": 0.2}), "lr: 0.1 here, 0.2 there"),
        (changed(options={"steps": 20}), "lr: 0.1 here, unset there"),
        (changed(rounds=7), "rounds: 0 here, 7 there"),
        (changed(quorum=3), "quorum: 1 here, 3 there"),
        (changed(delay=1), "delay: 0 here, 1 there"),
        (changed(codec="int8"), "codec: float32 here, int8 there"),
        (changed(exchange="pairwise"), "exchange: group here, pairwise there"),
        (changed(pushes_per_round=3), "pushes_per_round: 4 here, 3 there"),
        (
            changed(tensors=(TensorSpec("a.weight", "float32", (64, 12)), SPEC.tensors[1])),
            "tensor a.weight float32[64, 10] here, a.weight float32[64, 12] there",
        ),
        (changed(tensors=SPEC.tensors[:1]), "2 tensors here, 1 there"),
        (changed(shared=()), "1 shared vectors here, 0 there"),
    ],
)
def test_a_difference_makes_another_run_and_is_named(spec: RunSpec, text: str) -> None:
    assert run_id(spec) != run_id(SPEC)
    assert difference(SPEC, spec) == text


def test_equal_specs_differ_in_nothing() -> None:
    assert difference(SPEC, changed()) == ""


def test_numels_are_those_of_the_manifest() -> None:
    assert SPEC.params_numel == 650
    assert SPEC.state_numel == 1300


def test_a_difference_is_never_longer_than_a_line_of_the_log() -> None:
    many = {f"option{i}": i for i in range(60)}
    assert len(difference(SPEC, changed(options=many))) <= 600


OTHER_VALUES: dict[type, object] = {float: 3.5, str: "other", int: 7, bool: True}


@pytest.mark.parametrize("name", sorted(set(RunSettings.__struct_fields__) - {"options", "charter"}))
def test_every_setting_tells_runs_apart_and_is_named_where_it_differs(name: str) -> None:
    value = getattr(SPEC, name)
    other = changed(**{name: OTHER_VALUES[type(value)]})
    assert run_id(other) != run_id(SPEC)
    assert difference(SPEC, other) == f"{name}: {value} here, {OTHER_VALUES[type(value)]} there"


def test_a_charter_tells_runs_apart_and_is_named_in_words() -> None:
    closed = World("closed", delegates=1).charter
    other = changed(charter=str(closed))
    assert run_id(other) != run_id(SPEC)
    assert difference(SPEC, other) == f"charter: open here, {closed.summary} there"
    assert "closed, 2 of 3 founders" in closed.summary
    with pytest.raises(BadCharter):
        changed(charter="x")
