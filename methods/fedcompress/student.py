"""An elected student: one peer distils the common model into a clustered one, the others check it.

    all      teacher, known to everyone
    elected  the peer of the least hash of (round, peer) distils, and gathers student | hash of the teacher
    others   check it: KL(teacher, student) on common noise < 0.05 nats, and own validation accuracy at most
             one point (or one example) under the teacher's; they gather a vote each
    all      adopt the student if two thirds of the others approve, else none

Gradient descent ends with other bits on other CPUs, so "everyone distils alone" would be no agreement. The
checks may differ in last bits too, but what counts are the votes, and those are gathered.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from shoal.crypto.keys import PeerId
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Vector
from shoal.gossip.run_spec import TensorSpec
from shoal.methods.base import Steps
from shoal.methods.coding import codebook
from shoal.methods.coding.gathered import exchange
from shoal.methods.fedcompress.cluster_count import KappaConfig

if TYPE_CHECKING:
    from shoal.methods.learning.learner import TorchLearner
    from shoal.methods.learning.task import Examples

DIGEST_BYTES: Final = 32
MAX_DIVERGENCE: Final = 0.05
"""Nats."""
MAX_LOSS_OF_ACCURACY: Final = 0.01
"""But at least one example: of thirty, one is three points."""
YES: Final = b"\x01"
NO: Final = b"\x00"
CHECK_SEED: Final = 1 << 32
"""Noise for checking is not the noise that was distilled on."""


class DistilConfig(KappaConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of distillation; the defaults are the paper's code's unless said otherwise."""

    distil_epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    """Passes of the elected peer over the generated inputs."""
    distil_lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1e-4
    """Learning rate of Adam there."""
    distil_batch_size: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 256
    """Inputs per step there."""
    temperature: Annotated[float, msgspec.Meta(gt=0, le=100)] = 2.0
    """Divides the logits in distillation (T)."""
    ood_examples: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1024
    """Generated inputs; ours, the paper has 50,000 images of a StyleGAN."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What everyone knows before the election, and what only we have."""

    teacher: Vector
    specs: Sequence[TensorSpec]
    kappa: int
    round_: int
    held_out: "Examples"
    """Our validation examples."""


def elect(round_: int, peers: Sequence[PeerId]) -> PeerId:
    """Return who distils."""
    return min(peers, key=lambda peer: blake2b(f"{round_} {peer}".encode(), digest_size=16).digest())


def elected_student(
    scene: Scene, learner: "TorchLearner", config: DistilConfig, elected: PeerId, *, is_me: bool
) -> Steps[Vector | None]:
    """Distil if it is us, check if it is not; returns the student that was adopted, or None.

    Raises:
        GossipError: no group formed, or too few were left.
    """
    digest = blake2b(scene.teacher.tobytes(), digest_size=DIGEST_BYTES).digest()
    body = b""
    if is_me:
        student = _distil(scene, learner, config)
        body = digest + codebook.encode_vector(student, scene.specs, scene.kappa)

    def read(body: bytes) -> Vector | None:
        if not body:
            return None
        if body[:DIGEST_BYTES] != digest:
            raise RemoteViolation("student of another teacher")
        return codebook.decode(body[DIGEST_BYTES:], scene.specs, kappa=scene.kappa)

    bound = DIGEST_BYTES + codebook.max_bytes(scene.specs, scene.kappa)
    told = yield from exchange(body, read, tag="student", bound=bound)
    found = dict(told.values).get(elected)
    if found is None:
        return None
    vote = YES if not is_me and _is_good(scene, found, learner, config) else NO
    votes = yield from exchange(vote, _read_vote, tag="votes")
    others = [said for peer, said in votes.values if peer != elected]
    is_adopted = bool(others) and 3 * sum(others) >= 2 * (len(others) + votes.refused)
    return found if is_adopted else None


def _read_vote(body: bytes) -> bool:
    if body not in (YES, NO):
        raise RemoteViolation("vote is malformed")
    return body == YES


def _distil(scene: Scene, learner: "TorchLearner", config: DistilConfig) -> Vector:
    from shoal.methods.fedcompress.clustering import Distillation

    inputs = learner.task.ood_data(config.ood_examples, scene.round_)
    logits, _ = learner.predict(scene.teacher, inputs)
    batch_size = min(config.distil_batch_size, len(inputs))
    objective = Distillation(learner.task, inputs, logits, kappa=scene.kappa, temperature=config.temperature)
    learner.train(
        scene.teacher,
        steps=config.distil_epochs * ceil(len(inputs) / batch_size),
        lr=config.distil_lr,
        batch_size=batch_size,
        optimizer="adam",
        round_=scene.round_,
        objective=objective,
    )
    return objective.clustered(learner.model)


def _is_good(scene: Scene, student: Vector, learner: "TorchLearner", config: DistilConfig) -> bool:
    from shoal.methods.fedcompress.clustering import divergence

    inputs = learner.task.ood_data(config.ood_examples, CHECK_SEED + scene.round_)
    teacher_logits, _ = learner.predict(scene.teacher, inputs)
    student_logits, _ = learner.predict(student, inputs)
    if not float(divergence(teacher_logits, student_logits)) < MAX_DIVERGENCE:
        return False
    taught, total = learner.score(scene.teacher, scene.held_out)
    learned, _ = learner.score(student, scene.held_out)
    return learned >= taught - max(1, MAX_LOSS_OF_ACCURACY * total)
