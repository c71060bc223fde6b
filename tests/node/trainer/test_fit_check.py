"""Before anything starts: what of task, method and device does not fit is one line that names what does."""

import sys
from pathlib import Path

import pytest

from shoal.methods.errors import BadOption, MethodsError
from shoal.node.cli.main import main
from shoal.node.errors import BadConfig
from shoal.node.trainer import fit
from shoal.node.trainer.fit_check import check
from shoal.node.trainer.spec import TrainerSpec

UNLOADED = """
from shoal import Task
class Silent(Task):
    def train_data(self):
        raise RuntimeError("of the user's own making")

    def model(self):
        raise RuntimeError("of the user's own making")
"""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "nope"}, ["no task nope", "digits", "shoal task new"]),
        ({"device": "cuda:x"}, ["device = cuda:x", "choose auto or cpu"]),
        ({"method": "deltamask"}, ["has no head", "tasks that fit deltamask: ", "digits_body"]),
        ({"task_options": {"shre": 1}}, ["has no option shre; it has: share"]),
    ],
)
def test_what_does_not_fit_names_what_does(changes: dict[str, object], words: list[str]) -> None:
    spec = TrainerSpec(**{"task": "digits", **changes})  # type: ignore[arg-type]
    with pytest.raises(MethodsError) as raised:
        check(spec)
    for word in words:
        assert word in str(raised.value)


def test_a_model_that_no_memory_of_this_machine_holds_is_refused() -> None:
    with pytest.raises(
        BadOption, match="needs at least 450 MB of memory, .* this machine has 100 MB: train a part"
    ):
        check(TrainerSpec(task="digits"), machine=100_000_000)


def test_a_model_beyond_the_owners_limit_is_refused() -> None:
    with pytest.raises(
        BadOption, match=r"needs at least 450 MB of memory, .* run.memory_gb allows 100 MB: train"
    ):
        check(TrainerSpec(task="digits", memory_gb=0.1))


def test_what_fits_passes() -> None:
    check(TrainerSpec(task="digits", method="fedprox", device="cpu"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["start", "--port", "0", "--no-http", "--task", "digits", "--method", "deltamask"],
        ["start", "--port", "0", "--no-http", "--task", "nope"],
        ["testnet", "up", "--method", "deltamask"],
        ["testnet", "up", "--task", "nope"],
    ],
)
def test_nothing_is_started_or_made_where_they_do_not_fit(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A check that takes too long is left out, and the node would start here.
    monkeypatch.setattr(fit, "CHECK_SECONDS", 600.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "home"))
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "tasks that fit deltamask: " in err or "no task nope" in err
    assert list(tmp_path.iterdir()) == []


def test_what_a_tasks_own_code_raises_is_left_to_the_trainer_which_shows_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "silent_task.py").write_text(UNLOADED)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="of the user's own making"):
        check(TrainerSpec(task="silent_task:Silent"))
    sys.modules.pop("silent_task")


def test_without_torch_training_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    fit.check_torch()
    monkeypatch.setattr(fit, "find_spec", lambda name: None)
    with pytest.raises(BadConfig, match=r"pip install 'shoal\[torch\]', or leave out --task"):
        fit.check_torch()
