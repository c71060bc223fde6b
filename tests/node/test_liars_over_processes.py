"""Peers that lie in what they gather, among real nodes: refused and counted, and the round completes."""

import subprocess
from pathlib import Path

import pytest
from swarm import NODE, Swarm, averaged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LONG = 200.0
"""Seconds: several nodes start torch and pre-train a body on two cores that others use too."""
REFUSED = "a body that the method refused"
HARMFUL = "a vector that holders of its task found harmful"
COMPRESS = ("--option", "epochs=1", "--option", "cluster_epochs=0", "--option", "batch_size=32")


@pytest.mark.parametrize(
    ("method", "task", "flags", "lies"),
    [
        (
            "deltamask",
            "digits_body",
            ("--option", "head_rounds=0", "--option", "steps=3"),
            "everything,bomb,giant",
        ),
        ("fedcompress", "digits_compressible", COMPRESS, "nan,examples,giant"),
        ("matu", "digit_tasks", ("--option", "steps=3"), "scale,nan,giant"),
        ("fedstar", "digits_few_labels", (), "noise,giant"),
        ("fedln", "digits_noisy", (), "noise,giant"),
    ],
)
def test_a_lie_is_refused_and_counted_and_the_round_completes(
    tmp_path: Path, method: str, task: str, flags: tuple[str, ...], lies: str
) -> None:
    count = len(lies.split(","))
    words = ("--method", method, "--task", task, *flags, "--wait-for", "3", "--patience", "30")
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *words, "--task-option", "share=1/3")
        two = swarm.start("two", *words, "--task-option", "share=2/3", join=one)
        liar = {"SHOAL_TESTING_TRAINER": "liar", "LIES": lies}
        swarm.start("liar", *words, "--task-option", "share=3/3", join=one, environ=liar)
        honest = [
            node.wait("an honest round after the lies", lambda status: status.round > count, LONG)
            for node in (one, two)
        ]
        for status in honest:
            rounds = averaged(status)
            found = [rounds[i].metrics["refused"] for i in range(count + 1)]
            assert found == [*[1.0] * count, 0.0], status.history
            assert {rounds[i].contributors for i in range(count + 1)} == {3}
            assert status.drops[REFUSED] == count
        first, second = (averaged(status) for status in honest)
        assert all(first[i].state_hash == second[i].state_hash for i in range(count + 1))
        command = [*NODE, "status", "--home", str(one.home)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert f"{count} messages: {REFUSED}" in shown


def test_a_task_id_that_lies_about_its_labels_is_found_out_by_the_other_holders(tmp_path: Path) -> None:
    words = ["--method", "matu", "--task", "digit_tasks", "--wait-for", "4", "--patience", "30"]
    words += ["--task-option", "tasks=upright", "--task-option", "per_node=1", "--rounds", "6"]
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *words, "--task-option", "share=1/4")
        rest = [swarm.start(f"node{i}", *words, "--task-option", f"share={i}/4", join=one) for i in (2, 3)]
        liar = {"SHOAL_TESTING_TRAINER": "liar", "LIES": "labels"}
        swarm.start("liar", *words, "--task-option", "share=4/4", join=one, environ=liar)
        for node in (one, *rest):
            status = node.wait("all rounds", lambda status: status.round == 6, LONG)
            assert status.drops[HARMFUL] >= 4
            assert status.metrics["accuracy"] > 0.85
            assert status.metrics["holders"] == 4
        assert len({node.status.state_hash for node in (one, *rest)}) == 1
