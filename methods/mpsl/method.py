"""MPSL: clients hold tokenizers, hosts the body; activations and gradients travel, step by step.

Fudala, Tsouvalas, Meratnia, "Fine-tuning Multimodal Transformers on Edge: A Parallel Split Learning
Approach", 2025, https://arxiv.org/abs/2502.06355. With one modality it is SplitNN: Vepakomma, Gupta, Swedish,
Raskar, "Split learning for health", 2018, https://arxiv.org/abs/1812.00564; here all clients step together.

    client k   z_k = front_k(x_k)               ->  host   Y = body(all z), one pass
    client k   g_k = d sum L_k / dY_k           ->  host   body steps with g / B
    client k   front_k steps with dz_k          <-

Labels and inputs never leave a client. With `head` = ``host``, the paper's, g_k tells the labels all the
same: the only negative number of a row is at the label. With ``client`` the classifier is the client's, and
features and their gradients travel.

A round is a pass over the data. At its end fronts, and the clients' heads, are averaged by the ordinary
round. Hosts average bodies by calls (hosting.py); a spare holds a copy for when a host is lost.
"""

import logging
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np

from shoal.gossip.calls.forms import Form
from shoal.gossip.errors import Unanswered
from shoal.gossip.events import Vector
from shoal.methods.base import (
    About,
    Array,
    Me,
    ModelSize,
    Report,
    State,
    Steps,
    Traffic,
    all_reduce,
    here,
)
from shoal.methods.mpsl.asked import Asked
from shoal.methods.mpsl.audits import ROWS, compare
from shoal.methods.mpsl.estimate import estimate
from shoal.methods.mpsl.measuring import measured
from shoal.methods.mpsl.tokens import heard, told
from shoal.methods.mpsl.wire import IS_OVER, NO_STAGE, Names, forms_of, roles_of
from shoal.methods.needs import Need
from shoal.methods.roles.serves import attend, call

if TYPE_CHECKING:
    from shoal.methods.mpsl.hosting import Hosting
    from shoal.methods.mpsl.pieces import Judged
    from shoal.methods.mpsl.sides import ClientSide, Shapes

log = logging.getLogger(__name__)

FRONT, ADAM, HOSTED = "front", "adam/", "hosted"


class MPSLConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of MPSL."""

    head: Literal["client", "host"] = "client"
    """Where the classifier is. host is the paper's: the host can then read the labels."""
    steps: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 40
    """Steps per round. Each takes an equal part of a client's data, so that all end together."""
    rows: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    """Examples of one client in a step at most; what is over is left out of the round."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.01
    """Learning rate of Adam at the clients; the paper has 0.0001, for pre-trained tokenizers."""
    body_lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.003
    """Learning rate of Adam at the hosts."""
    number: Literal["float32", "float16", "int8"] = "float16"
    """How activations and their gradients travel; int8 with a scale per token."""
    stages: Annotated[int, msgspec.Meta(ge=1, le=4)] = 1
    """Consecutive parts of the body, each on hosts of its own."""
    cut: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    """Modules of the front, where the model is an nn.Sequential; 0: up to the second with parameters."""
    average_every: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 8
    """Steps after which hosts of one stage average, and spares hear of it (H): what a lost host may cost."""
    sync_tokenizers: bool = True
    """Whether clients go on from the mean of their fronts. Without, as in the paper, it is measured only."""
    spares: bool = True
    """Whether a further peer holds a copy of the body."""
    measure_every: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    """Rounds between two measurements on the test data, which go through a host."""


@dataclass(frozen=True, slots=True)
class MPSL:
    """See `Method` and `Serves`."""

    mergeable: ClassVar[bool] = True
    asks: ClassVar[bool] = True
    measures: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            what="front, body and head",
            must=True,
            why="of the model, body an nn.Sequential, as the cuts; or an nn.Sequential, with the option cut",
        ),
    )
    about: ClassVar[About] = About(
        paper="Fudala, Tsouvalas, Meratnia, Fine-tuning Multimodal Transformers on Edge: A Parallel Split"
        " Learning Approach, 2025, https://arxiv.org/abs/2502.06355",
        exchanges="activations at the cut and their gradients with a host, for every example; the fronts, and"
        " the heads with head = client, as a weighted mean once per round. Activations of a shallow front"
        " show the inputs to the host; head = host shows it the labels too",
        use="Where nodes are weak, the body is large and each node has few examples. With many examples on"
        " each node fedavg or deltamask send less. Not with hosts that may not see the inputs.",
    )

    config: MPSLConfig = field(default_factory=MPSLConfig)

    @property
    def roles(self) -> tuple[str, ...]:
        """See `Serves`."""
        return roles_of(self.config.stages, spares=self.config.spares)

    def prepare(self, model: Any) -> Collection[str] | None:
        """See `Prepares`: the body does not travel."""
        from shoal.methods.mpsl.pieces import split_of

        split = split_of(model, self.config.cut)
        # What the task freezes stays frozen at the hosts.
        model.split_frozen = {name for name, each in model.named_parameters() if not each.requires_grad}
        kept = [split.front] + ([split.head] if self.config.head == "client" else [])
        ids = {id(tensor) for module in kept for tensor in (*module.parameters(), *module.buffers())}
        named = [*model.named_parameters(), *model.named_buffers()]
        return [name for name, tensor in named if id(tensor) in ids and tensor.is_floating_point()]

    def check(self, learner: Any) -> None:
        """See `Demands`."""
        _client(self.config, learner)
        self.verbs(learner)

    def init(self, params: Vector) -> State:
        """See `Method`; the params are the clients'."""
        return State(params)

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`."""
        return Traffic.one_mean(model.numel)

    def verbs(self, learner: Any) -> Mapping[str, Form]:
        """See `Serves`."""
        c, shapes = self.config, _shapes(self.config, learner)
        forms: dict[str, Form] = {}
        for stage, entry in enumerate(shapes.between):
            forms |= forms_of(Names(stage, c.stages), entry, shapes.out, c.rows, c.number)
        return forms

    def serve(self, learner: Any, role: str) -> Steps[None]:
        """See `Serves`."""
        stage = self.roles.index(role) % self.config.stages
        if stage in _hosted(learner):
            # A host is no spare of its own: another peer should be.
            return
        hosting = _host(self.config, learner, stage)
        try:
            yield from hosting.run()
        finally:
            del _hosted(learner)[stage]

    def round(self, state: State, learner: Any, round_: int) -> Steps[tuple[State, Report]]:
        """Train for a pass over this node's data, then agree on the fronts."""
        me = yield from here()
        for stage, hosting in _hosted(learner).items():
            hosting.resume(state.private, f"{HOSTED}{stage}/")
        if me.only_hosts or learner.examples == 0:
            yield from attend()
            mean = yield from all_reduce(state.params.copy(), weight=0)
            return State(mean.vector, private=_saved(learner)), Report(
                0.0, 0, 0, mean.contributors, _told(learner)
            )
        side = _client(self.config, learner)
        if round_ == 0:
            _say_cost(self.config, learner)
        done = yield from self._steps(state, side, me, round_)
        mean = yield from all_reduce(side.params(), weight=learner.examples)
        metrics = {**done.metrics, **_told(learner)}
        if round_ % self.config.measure_every == 0:
            # At the mean of the fronts.
            side.begin(mean.vector, {})
            asked = Asked(Names(0, self.config.stages), me.peer, side.known)
            metrics |= yield from measured(
                asked, side, self.config.rows, self.config.number, round_, ("z", "y")
            )
        yield from self._audit(side, me, round_)
        learner.callbacks.problem("hosts", side.known.problem)
        private = {**_saved(learner), **{ADAM + name: value for name, value in side.memory().items()}}
        if not self.config.sync_tokenizers:
            private[FRONT] = done.params
        report = Report(done.loss, done.examples, done.steps, mean.contributors, metrics)
        return State(mean.vector, private=private), report

    def _steps(self, state: State, side: "ClientSide", me: Me, round_: int) -> Steps["_Done"]:
        """Take this round's steps; one that no host answers is left out."""
        c, names = self.config, Names(0, self.config.stages)
        own = state.private.get(FRONT) if not c.sync_tokenizers else None
        moments = {k.removeprefix(ADAM): v for k, v in state.private.items() if k.startswith(ADAM)}
        side.begin(state.params if own is None else np.asarray(own, np.float32), moments)
        asked = Asked(names, me.peer, side.known)
        yield from asked.look()
        loss, rows, taken, lost = 0.0, 0, 0, 0
        parts = [part for part in side.batches(c.steps, c.rows, round_) if len(part)]
        for place, part in enumerate(parts):
            if place and (yield from here()).is_hurried:
                break  # the peers wait for us
            step, is_last = b"%d/%d" % (round_, place), place == len(parts) - 1
            judged = yield from self._step(side, part, asked, step, is_last=is_last)
            if judged is None:
                lost += 1
                yield from asked.look()
                continue
            loss, rows, taken = loss + judged.loss, rows + len(part), taken + 1
        metrics = {"unanswered": float(lost), "wrong_answers": float(asked.n_wrong)}
        told_ = {name: number for name, number in metrics.items() if number}
        return _Done(side.params(), loss / max(1, rows), rows, taken, told_)

    def _step(
        self, side: "ClientSide", part: Any, asked: Asked, step: bytes, *, is_last: bool
    ) -> "Steps[Judged | None]":
        """Take one step with these examples; None: nobody answered, or not as an honest host does."""
        names, tensors = asked.names, told("z", side.forward(part), self.config.number)
        try:
            out = yield from call(asked.hosts, names.forward, tensors, step=step, is_last=is_last)
            asked.answered(out.peer)
            judged = side.judge(out.tensors["y"])
            if judged is None:
                asked.answered_wrongly(out.peer)
                return None
        except Unanswered:
            return None
        try:
            grad = {"g": judged.gradient}
            back = yield from call((out.peer,), names.grad, grad, step=step, is_last=is_last)
        except Unanswered as error:
            if IS_OVER not in str(error) and NO_STAGE not in str(error):
                asked.unanswered(out.peer)
            return None
        if not side.step(heard("dz", back.tensors), back.tensors["n"]):
            asked.answered_wrongly(out.peer)
            return None
        return judged

    def _audit(self, side: "ClientSide", me: Me, round_: int) -> Steps[None]:
        """Compare what two holders of the body say of a few of this node's examples."""
        asked = Asked(Names(0, self.config.stages), me.peer, side.known)
        yield from asked.look()
        if len(asked.hosts) > 1:
            yield from compare(asked, told("z", side.probe(ROWS), self.config.number), b"%d/a" % round_)


@dataclass(frozen=True, slots=True)
class _Done:
    """A client's steps of a round."""

    params: Vector
    loss: float
    examples: int
    steps: int
    metrics: Mapping[str, float]


def _shapes(config: MPSLConfig, learner: Any) -> "Shapes":
    from shoal.methods.mpsl.sides import Shapes

    return Shapes(learner, config.cut, config.stages, own_head=config.head == "client")


def _client(config: MPSLConfig, learner: Any) -> "ClientSide":
    """Return a learner's client side, made once."""
    from shoal.methods.mpsl.sides import ClientSide

    found: ClientSide | None = getattr(learner, "split_client", None)
    if found is None:
        found = ClientSide(learner, config.cut, config.lr, own_head=config.head == "client")
        learner.split_client = found
    return found


def _hosted(learner: Any) -> dict[int, "Hosting"]:
    """Return the stages that a learner's node hosts; by stage, from 0."""
    found: dict[int, Hosting] | None = getattr(learner, "split_hosted", None)
    if found is None:
        found = learner.split_hosted = {}
    return found


def _host(config: MPSLConfig, learner: Any, stage: int) -> "Hosting":
    """Return what hosts a stage from now on."""
    from shoal.methods.mpsl.hosting import Hosting, LaterStage
    from shoal.methods.mpsl.sides import HostSide

    c = config
    side = HostSide(learner, c.cut, c.body_lr, stage, c.stages, own_head=c.head == "client")
    kind = LaterStage if stage else Hosting
    entry = _shapes(c, learner).between[stage]
    names, first = Names(stage, c.stages), secrets.randbits(40)
    found = kind(side, names, entry, average_every=c.average_every, number=c.number, first_turn=first)
    _hosted(learner)[stage] = found
    if c.head == "host" and stage == 0:
        log.warning("head = host: the hosts can read the labels of all clients from their gradients")
    return found


def _saved(learner: Any) -> dict[str, Array]:
    """Return what a hosting node goes on from after a restart."""
    return {
        f"{HOSTED}{stage}/{name}": value
        for stage, hosting in _hosted(learner).items()
        for name, value in hosting.side.save().items()
    }


def _told(learner: Any) -> dict[str, float]:
    """Return what a hosting node tells of its hosting."""
    found: dict[str, float] = {}
    for stage, hosting in _hosted(learner).items():
        numbers = {
            "steps": hosting.steps, "rows": hosting.rows, "missed": hosting.missed,
            "cut_rows": hosting.side.cut_rows, "averaged": hosting.copies.averaged,
            "shortened": hosting.copies.shortened,
        }  # fmt: skip
        found |= {f"host{stage + 1}_{name}": float(number) for name, number in numbers.items() if number}
    return found


def _say_cost(config: MPSLConfig, learner: Any) -> None:
    """Say what this client's rounds cost, before the first."""
    if not getattr(learner, "split_said", False):
        learner.split_said = True
        log.info("%s", estimate(_shapes(config, learner).sizes, config.number, head=config.head))
        if config.head == "host":
            log.warning("head = host: the host that you ask can read your labels from the gradients")
