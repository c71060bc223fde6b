"""The first round waits for as many peers as it is told to, and for so long."""

import random

import numpy as np
import pytest

from shoal.crypto.keys import PeerId
from shoal.gossip.events import SetTimer, Timer
from shoal.gossip.member.commands import Attach, Contribute, NewState
from shoal.gossip.member.member import Member
from shoal.gossip.member.parts import MemberConfig
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id

SPEC = RunSpec(method="fedavg", task="digits", tensors=(TensorSpec("w", "float32", (4,)),))


@pytest.mark.parametrize(("wait_seconds", "until"), [(0.0, 30.0), (320.0, 320.0)])
def test_how_long_the_first_round_waits_for_peers(wait_seconds: float, until: float) -> None:
    config = MemberConfig(patience=15.0, wait_for=2, wait_seconds=wait_seconds)
    member = Member(PeerId("a"), config, random.Random(1), 1)
    member.handle(Attach(run_id(SPEC), SPEC, True), 0.0)
    member.handle(NewState(0, bytes(32), b"", memoryview(b"")), 0.0)
    effects = member.handle(Contribute(0, np.zeros(4, np.float32), 1.0), 0.0)
    timers = [
        effect.at for effect in effects if isinstance(effect, SetTimer) and effect.name == Timer.MATCHMAKING
    ]
    assert timers[-1] == until
