"""The flags of a run: one for every setting, its docstring as help, and words that say it again."""

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from shoal.gossip.run_spec import RunSettings
from shoal.methods.options import field_docs
from shoal.node.config.run_flags import flag_names, has_run_flags, run_values, run_words
from shoal.node.errors import BadConfig


def parsed(words: list[str]) -> RunSettings:
    """Return the settings that a command is given by these words."""
    app = typer.Typer()
    given: dict[str, object] = {}

    @app.command()
    @has_run_flags(RunSettings)
    def command(ctx: typer.Context, **run: object) -> None:
        given.update(ctx.params)

    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return msgspec.convert(run_values(given), RunSettings)


def test_every_setting_has_a_flag_and_its_docstring_is_the_help() -> None:
    assert list(flag_names()) == list(RunSettings.__struct_fields__)
    assert len(set(flag_names().values())) == len(flag_names())
    assert set(field_docs(RunSettings)) == set(flag_names())


def test_a_flag_is_the_field_unless_the_field_names_another() -> None:
    assert flag_names()["group_size"] == "--group-size"
    assert flag_names()["name"] == "--run"
    assert flag_names()["pushes_per_round"] == "--pushes"


@pytest.mark.parametrize(
    "run",
    [
        RunSettings(),
        RunSettings(method="diloco", options={"nesterov": True, "outer_lr": 0.7}, delay=1, codec="int8"),
        RunSettings(name="other", task="digits", rounds=3, seed=9, group_size=4, quorum=2),
        RunSettings(combine="median", group_size=5),
        RunSettings(secure=True, grid_bits=6, accept_unseen_updates=True),
        RunSettings(exchange="pairwise", pushes_per_round=7, engine="hivemind", max_chunk_numel=65_536),
    ],
)
def test_the_words_of_a_run_say_that_run(run: RunSettings) -> None:
    assert parsed(run_words(run)) == run


def test_what_nobody_said_is_no_setting() -> None:
    assert run_values({"run_rounds": None, "run_options": [], "port": 7}) == {}


def test_a_pair_without_a_value_is_told_with_its_flag() -> None:
    with pytest.raises(BadConfig, match="--option: 'lr' is no setting; write key=value"):
        run_values({"run_options": ["lr"]})
