"""A trainer is told the settings of its run, and makes the run's spec of them."""

from shoal.gossip.run_spec import RunSettings, TensorSpec
from shoal.node.trainer.spec import TrainerSpec, run_spec, settings_of

RUN = RunSettings(method="diloco", task="digits", options={"outer_lr": 0.7}, quorum=2, max_chunk_numel=65_536)
TENSORS = (TensorSpec("w", "float32", (4,)),)


def test_a_run_spec_has_every_setting_of_its_run_and_all_options() -> None:
    spec = run_spec(RUN, {"outer_lr": 0.7, "steps": 20}, TENSORS, ())
    assert spec.options == {"outer_lr": 0.7, "steps": 20}
    assert settings_of(spec) | {"options": RUN.options} == settings_of(RUN)


def test_a_trainer_is_told_every_setting_of_its_run() -> None:
    assert settings_of(TrainerSpec(**settings_of(RUN), threads=2)) == settings_of(RUN)
