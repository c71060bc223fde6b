"""A frozen base under real nodes: it never travels, and who has another is refused with the reason."""

from functools import partial
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from swarm import Swarm, wait_agreement

from shoal.node.status import Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FLAGS = ("--task", "paced:OnBase", "--option", "steps=3")


def is_refused_for(reason: str, status: Status) -> bool:
    """Tell whether a node tells a peer's refusal, or its own, with this reason."""
    return any(reason in each for each in status.refusals)


def test_only_what_is_trained_is_kept_and_another_base_is_refused(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        one = swarm.start("one", *FLAGS, "--wait-for", "2")
        two = swarm.start("two", *FLAGS, "--wait-for", "2", "--task-option", "seed=1", join=one)
        wait_agreement([one, two], least=2)
        (kept, *_) = sorted((one.home / "state").glob("*-round*.safetensors"))
        # The last layer, 16 by 4 and its biases.
        assert sum(each.size for each in load_file(kept).values() if each.ndim) == 68
        other = swarm.start("other", *FLAGS, "--task-option", "base=0.2", join=one)
        renamed = swarm.start("renamed", *FLAGS, "--task-option", "name=first", join=two)
        numbers, name = (
            "other run spec: other numbers in the frozen tensors",
            "pinned tensor 0.bias float32[16]",
        )
        for node, reason in (
            (one, numbers),
            (other, numbers),
            (two, name),
            (renamed, "first.bias float32[16]"),
        ):
            node.wait(reason, partial(is_refused_for, reason))
