"""Profiles: each is a file that loads, and says what it is for."""

import json
from pathlib import Path
from typing import get_args

import pytest

from shoal.node.cli.main import main
from shoal.node.config.profiles import ABOUT, PROFILES, Profile
from shoal.node.config.settings import load, settings


def value_of(config: object, name: str) -> object:
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("profile", get_args(Profile))
def test_a_profile_stands_in_the_new_file_and_nothing_else_does(
    profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert main(["init", "--profile", profile, "--home", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["home"] == str(home)
    config, origins = load(home, {}, {})
    chosen = PROFILES[profile]
    assert {name: value_of(config, name) for name in chosen} == dict(chosen)
    assert {name for name, origin in origins.items() if origin == "file"} == {*chosen, "join"}
    assert f"# of the profile {profile}" in (home / "config.toml").read_text()


def test_every_profile_is_of_settings_that_there_are() -> None:
    assert PROFILES.keys() == ABOUT.keys() == set(get_args(Profile))
    assert all(name in settings() for chosen in PROFILES.values() for name in chosen)


def test_a_profile_does_not_overwrite_what_somebody_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.toml").write_text("[run]\nrounds = 7\n")
    assert main(["init", "--profile", "laptop", "--home", str(tmp_path)]) == 2
    assert "exists; --profile is for a new one" in capsys.readouterr().err
    assert (tmp_path / "config.toml").read_text() == "[run]\nrounds = 7\n"
