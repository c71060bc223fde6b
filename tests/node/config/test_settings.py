"""Settings: precedence, origins, and one line for every slip."""

from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from shoal.gossip.admission.charter import Charter
from shoal.gossip.admission.tokens import Token
from shoal.node.config.settings import NodeConfig, load, settings, variable
from shoal.node.errors import BadConfig

CHARTER = str(Charter(mode="closed", founders=(bytes(range(32)),)))


def problem(
    home: Path, toml: str = "", flags: dict[str, object] | None = None, environ: dict[str, str] | None = None
) -> str:
    """Return the message of a load that must fail."""
    if toml:
        (home / "config.toml").write_text(toml)
    with pytest.raises(BadConfig) as caught:
        load(home, flags or {}, environ or {})
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_new_home_has_the_defaults(tmp_path: Path) -> None:
    config, origins = load(tmp_path, {}, {})
    assert config == NodeConfig(home=tmp_path)
    assert set(origins.values()) == {"default"}
    assert set(origins) == set(settings())


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[run]\nrounds = 1\nseed = 1\nquorum = 2\n")
    environ = {"SHOAL_RUN_ROUNDS": "2", "SHOAL_RUN_SEED": "2"}
    config, origins = load(tmp_path, {"run.rounds": 3}, environ)
    assert (config.run.rounds, config.run.seed, config.run.quorum, config.run.group_size) == (3, 2, 2, 16)
    chosen = [origins[f"run.{name}"] for name in ("rounds", "seed", "quorum", "group_size")]
    assert chosen == ["flag", "environment", "file", "default"]


def test_the_environment_can_say_everything_that_the_file_can(tmp_path: Path) -> None:
    environ = {
        "SHOAL_NAME": "7",
        "SHOAL_JOIN": "a.example:1, [::1]:2",
        "SHOAL_NETWORK_MDNS": "false",
        "SHOAL_RUN_TASK_OPTIONS": "share=1/5,alpha=0.1,seed=3,fast=true",
        "SHOAL_GOSSIP_PATIENCE": "2.5",
        "SHOAL_LOG_LEVEL": "debug",
        "SHOAL_HOME": "is read elsewhere",
        "PATH": "is not ours",
    }
    config, _ = load(tmp_path, {}, environ)
    assert config.name == "7"
    assert config.join == ("/dns/a.example/tcp/1", "/ip6/::1/tcp/2")
    assert not config.network.mdns
    assert config.run.task_options == {"share": "1/5", "alpha": 0.1, "seed": 3, "fast": True}
    assert config.gossip.patience == 2.5
    assert config.log.level == "debug"


def test_every_setting_has_a_variable_of_its_own() -> None:
    names = [variable(name) for name in settings()]
    assert len(set(names)) == len(names)
    assert variable("run.task_options") == "SHOAL_RUN_TASK_OPTIONS"


def test_an_integer_will_do_where_a_float_is_meant(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[gossip]\npatience = 3\n")
    assert load(tmp_path, {}, {})[0].gossip.patience == 3.0


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[run]\nround = 3\n", "unknown key run.round; did you mean run.rounds?"),
        ("patience = 3\n", "unknown key patience; did you mean gossip.patience?"),
        ("[runs]\nrounds = 3\n", "unknown key runs"),
        ("xyzzy = 3\n", "`shoal config show` lists all"),
        ('[run]\nrounds = "3"\n', "run.rounds: expected int, got str, found '3'; write run.rounds = 0"),
        ("[run]\nrounds = -3\n", "expected int >= 0"),
        ("[run]\nrounds = true\n", "expected int, got bool"),
        ("[gossip]\npatience = nan\n", "gossip.patience: expected float > 0"),
        ("[gossip]\npatience = inf\n", "gossip.patience: expected float <= 86400"),
        ("run = 3\n", "run is a section; write its keys under [run]"),
        ('[run]\ntrainer = "x"\n', "'x' is not one of external, spawn; write run.trainer = \"spawn\""),
        ("[run]\noptions = {lr = [1]}\n", "run.options: expected bool | int | float | str"),
        ('[network]\nlisten = ["/ip4/1.2.3.4/tpc/1"]\n', "write /ip4/0.0.0.0/tcp/4710"),
        ('[network]\nlisten = "/ip4/1.2.3.4/tcp/1"\n', "network.listen: expected array, got str"),
        ('join = ["nobody"]\n', "'nobody' is not an address of a node: write /ip4/192.0.2.7/tcp/4710"),
        ('join = ["a.example:99999"]\n', "is no port; write host:port"),
        ("[run\n", "not TOML"),
        ('home = "/x"\n', "unknown key home"),
    ],
)
def test_a_slip_in_the_file_is_one_line_with_file_key_and_fix(tmp_path: Path, toml: str, words: str) -> None:
    message = problem(tmp_path, toml)
    assert message.startswith(str(tmp_path / "config.toml"))
    assert words in message


@pytest.mark.parametrize(
    ("flags", "combine"),
    [
        ({}, "clip"),
        ({"run.method": "diloco", "run.codec": "int4", "run.delay": 1}, "clip"),
        ({"run.combine": "mean"}, "mean"),
        ({"run.exchange": "pairwise"}, "mean"),
        ({"run.engine": "hivemind"}, "mean"),
        ({"run.charter": CHARTER}, "mean"),
        ({"run.charter": CHARTER, "run.combine": "clip"}, "clip"),
    ],
)
def test_an_open_run_clips_unless_it_cannot_or_is_told_otherwise(
    tmp_path: Path, flags: dict[str, object], combine: str
) -> None:
    config, _ = load(tmp_path, flags, {})
    assert config.run.combine == combine


def test_an_invited_node_combines_as_the_invite_says(tmp_path: Path) -> None:
    plain = Token(run=bytes(32), swarm="s", settings={}, inviter=bytes(range(32)), addresses=())
    clips = msgspec.structs.replace(plain, settings={"combine": "clip"})
    for token, combine in ((plain, "mean"), (clips, "clip")):
        config, origins = load(tmp_path, {"invite": token.text()}, {})
        assert (config.run.combine, origins["run.combine"]) == (combine, "invite")


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    assert "not TOML" in problem(tmp_path)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("SHOAL_RUN_ROUND", "3", "unknown variable SHOAL_RUN_ROUND; did you mean SHOAL_RUN_ROUNDS?"),
        ("SHOAL_HTTP_PORT", "99999", "write SHOAL_HTTP_PORT=4711"),
        ("SHOAL_HTTP_ENABLED", "maybe", "write SHOAL_HTTP_ENABLED=true"),
        ("SHOAL_RUN_OPTIONS", "lr", "'lr' is no setting; write key=value"),
        ("SHOAL_JOIN", "/ip4/1.2.3/tcp/1", "is no IP address; write host:port"),
    ],
)
def test_a_slip_in_the_environment_is_one_line_with_the_variable(
    tmp_path: Path, variable: str, value: str, words: str
) -> None:
    message = problem(tmp_path, environ={variable: value})
    assert message.startswith("environment")
    assert words in message


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("http.port", -1, "--http-port: expected int >= 0, found '-1'; write --http-port 4711"),
        ("run.group_size", 1, "--group-size: expected int >= 2"),
        ("join", ["x"], "--join: 'x' is not an address"),
        ("network.listen", ["/dns/x/tcp/1"], "--listen: cannot listen on"),
    ],
)
def test_a_slip_in_a_flag_is_one_line_with_the_flag(
    tmp_path: Path, name: str, value: object, words: str
) -> None:
    assert words in problem(tmp_path, flags={name: value})


@settings_of_hypothesis(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=3))
def test_no_environment_ends_in_anything_but_settings_or_one_line(environ: dict[str, str]) -> None:
    named = {f"SHOAL_{key}": value for key, value in environ.items()}
    values = {variable(name): value for name, value in zip(settings(), environ.values(), strict=False)}
    for each in (environ, named, values):
        with suppress(BadConfig):
            load(Path("/nonexistent"), {}, each)
