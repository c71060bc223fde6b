"""SFPrompt: a frozen model split between weak clients and hosts; clients train a prompt and the tail.

Cao, Zhu, Gong, "SFPrompt: Communication-Efficient Split Federated Fine-Tuning for Large Pre-Trained Models
over Resource-Limited Devices", 2024, https://arxiv.org/abs/2407.17533.

    phase 1, no traffic    U passes of prompt and tail with the body left out; keep the hardest examples
    phase 2, kept ones     a = front(x) with the prompt   -> host
                           tail(b), g = d sum L / db      <- b = body(a)
                                                          -> g
                           prompt and tail step           <- d/da, summed over the examples
    phase 3                prompt and tail are averaged by the ordinary round

A host keeps nothing but a client's last pass, for its gradient. Any other host makes the pass again where the
call carries the activations anew. So a lost host costs a deadline, and no step differs.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import msgspec
import numpy as np

from shoal.gossip.calls.asks import Answer, Refusal, Request
from shoal.gossip.calls.forms import Form, TensorForm, Tensors
from shoal.gossip.errors import Unanswered
from shoal.gossip.events import Vector
from shoal.methods.base import (
    About,
    Array,
    ModelSize,
    Report,
    State,
    Steps,
    Traffic,
    all_reduce,
    here,
)
from shoal.methods.errors import BadTask
from shoal.methods.mpsl.asked import Asked
from shoal.methods.mpsl.audits import ROWS, agree, distance, is_due
from shoal.methods.mpsl.measuring import measured
from shoal.methods.mpsl.tokens import form_of, heard, most_rows, told
from shoal.methods.mpsl.wire import Names, roles_of
from shoal.methods.needs import Need
from shoal.methods.roles.serves import attend, call, next_calls, reply
from shoal.methods.sfprompt.cost import estimate

if TYPE_CHECKING:
    from shoal.methods.mpsl.pieces import Judged
    from shoal.methods.sfprompt.sides import ClientSide, HostSide, Places

log = logging.getLogger(__name__)

ADAM, KEPT = "adam/", "kept"
NAMES: Final = Names(0, 1)
AGAIN: Final = "again"
"""The verb of a gradient whose pass another host made."""
NOT_HELD: Final = Refusal("the pass is not held: send its activations again")
MISFIT: Final = Refusal("other sizes than the step's")


class SFPromptConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hyperparameters of SFPrompt."""

    prompt: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 10
    """Tokens of the prompt; where activations are no tokens, vectors whose sum is added to them."""
    gamma: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.6
    """Share of the examples that goes to the host: the hardest. Below 0.5 they are drawn."""
    local_epochs: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5
    """Passes over the data without the body, in every round (U)."""
    epochs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    """Passes over what is kept, with the host."""
    prune_every: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10
    """Rounds after which what is kept is chosen anew, and the leak is measured."""
    rows: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    """Examples in a step at most."""
    lr: Annotated[float, msgspec.Meta(gt=0, le=100)] = 0.01
    """Learning rate of Adam."""
    number: Literal["float32", "float16", "int8"] = "float16"
    """How activations travel; int8 with a scale per token."""
    cut: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    """Modules of the front, where the model is an nn.Sequential; 0: up to the second with parameters."""
    noise: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    """Standard deviation of noise on what is sent, as a share of its root mean square."""
    spares: bool = True
    """Whether a further peer holds the body, so that a lost host costs one deadline."""
    measure_every: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    """Rounds between two measurements on the test data, which go through a host."""


@dataclass(frozen=True, slots=True)
class SFPrompt:
    """See `Method` and `Serves`."""

    mergeable: ClassVar[bool] = True
    asks: ClassVar[bool] = True
    measures: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = (
        Need(
            what="front, body and head",
            must=True,
            why="of the model, as for mpsl; what the front gives is as wide as what the head takes, so that"
            " the body can be left out",
        ),
        Need(
            what="a pre-trained model()",
            must=False,
            why="the same on all nodes: front and body never change, and their hash is in the run's name",
        ),
    )
    about: ClassVar[About] = About(
        paper="Cao, Zhu, Gong, SFPrompt: Communication-Efficient Split Federated Fine-Tuning for Large"
        " Pre-Trained Models over Resource-Limited Devices, 2024, https://arxiv.org/abs/2407.17533",
        exchanges="activations of the hardest examples with a host, and gradients of the features that it"
        " returns; prompt and tail as a weighted mean once per round. The host sees no label, no tail and"
        " none of its gradients; activations of a shallow front show the inputs (leak_r2 says how much)",
        use="Where nodes are weak and a large pre-trained model is to be fitted without changing it. Not"
        " with a random body, and not with hosts that may not see the inputs.",
    )

    config: SFPromptConfig = field(default_factory=SFPromptConfig)

    @property
    def roles(self) -> tuple[str, ...]:
        """See `Serves`."""
        return roles_of(1, spares=self.config.spares)

    def prepare(self, model: Any) -> Collection[str] | None:
        """See `Prepares`: prompt and tail travel, all else is frozen."""
        import torch

        from shoal.methods.mpsl.pieces import split_of
        from shoal.methods.sfprompt.sides import PROMPT, width_of

        head = split_of(model, self.config.cut).head
        if getattr(model, PROMPT, None) is not None:
            raise BadTask(f"the model has a {PROMPT} already, where sfprompt puts its own")
        rows = torch.randn(self.config.prompt, width_of(head)) * 0.02
        model.register_parameter(PROMPT, torch.nn.Parameter(rows))
        tail = {id(tensor) for tensor in (*head.parameters(), *head.buffers())}
        named = [*model.named_parameters(), *model.named_buffers()]
        return [PROMPT, *(name for name, each in named if id(each) in tail and each.is_floating_point())]

    def check(self, learner: Any) -> None:
        """See `Demands`."""
        self.verbs(learner)

    def init(self, params: Vector) -> State:
        """See `Method`; the params are prompt and tail."""
        return State(params)

    def traffic(self, model: ModelSize) -> Traffic:
        """See `Method`."""
        return Traffic.one_mean(model.numel)

    def verbs(self, learner: Any) -> Mapping[str, Form]:
        """See `Serves`."""
        side, number = _client(self.config, learner), self.config.number
        most = _rows(self.config, side)
        if most < 1:
            raise BadTask(
                f"the activations of one example are of shape {side.entry}, more than a call of 4 MiB holds:"
                " cut the model where they are smaller, or set number = int8"
            )
        a, g = form_of("a", side.entry, most, number), {"g": TensorForm((most, *side.out))}
        b = {"b": TensorForm((most, *side.out), "float32" if number == "float32" else "float16")}
        da = {"da": TensorForm(side.entry)}
        return {
            NAMES.forward: Form(a, b),
            NAMES.predict: Form(a, b),
            NAMES.grad: Form(g, da),
            AGAIN: Form(a | g, da),
        }

    def serve(self, learner: Any, role: str) -> Steps[None]:
        """See `Serves`: each call for itself, since nothing is learned here."""
        if getattr(learner, "prompt_host", None) is not None:
            # A host is no spare of its own: another peer should be.
            return
        entry, out = _client(self.config, learner).entry, _client(self.config, learner).out
        learner.prompt_host = side = _host(self.config, learner)
        try:
            while True:
                asked = yield from next_calls(NAMES.forward, NAMES.grad, AGAIN, NAMES.predict)
                yield from reply([(each, _answer(side, each, entry, out)) for each in asked.calls])
        finally:
            learner.prompt_host = None

    def round(self, state: State, learner: Any, round_: int) -> Steps[tuple[State, Report]]:
        """Train without the host, then with it, and agree on prompt and tail."""
        me = yield from here()
        if me.only_hosts or learner.examples == 0:
            yield from attend()
            mean = yield from all_reduce(state.params.copy(), weight=0)
            return State(mean.vector), Report(0.0, 0, 0, mean.contributors, _told(learner))
        c, side = self.config, _client(self.config, learner)
        if round_ == 0:
            _say_cost(c, learner)
        side.begin(state.params, {k.removeprefix(ADAM): v for k, v in state.private.items() if k[:5] == ADAM})
        metrics = dict[str, float]()
        if c.local_epochs:
            metrics["local_loss"] = side.train_locally(c.local_epochs, c.rows, round_)
        kept = _kept(state, learner.examples)
        if kept is None or round_ % c.prune_every == 0:
            kept = side.hardest(c.gamma, c.rows, round_)
            leak = side.leak(round_)
            metrics |= {} if leak is None else {"leak_r2": leak}
        asked = Asked(NAMES, me.peer, side.known)
        done = yield from self._steps(side, asked, kept, round_)
        mean = yield from all_reduce(side.params(), weight=learner.examples)
        if round_ % c.measure_every == 0:
            side.begin(mean.vector, {})
            rows = _rows(self.config, side)
            metrics |= yield from measured(asked, side, rows, self.config.number, round_, ("a", "b"))
        told_ = {"unanswered": done.lost, "wrong_answers": asked.n_wrong}
        learner.callbacks.problem("hosts", side.known.problem)
        metrics |= {"kept": float(len(kept))} | {k: float(v) for k, v in told_.items() if v} | _told(learner)
        private: dict[str, Array] = {ADAM + name: value for name, value in done.memory.items()}
        report = Report(done.loss, done.examples, done.steps, mean.contributors, metrics)
        return State(mean.vector, private={**private, KEPT: kept}), report

    def _steps(self, side: "ClientSide", asked: Asked, kept: "Places", round_: int) -> Steps["_Done"]:
        """Take this round's steps with a host; one that no host answers is left out."""
        c = self.config
        yield from asked.look()
        loss, rows, taken, lost = 0.0, 0, 0, 0
        for place, part in enumerate(side.batches(kept, c.epochs, _rows(c, side), round_)):
            if place and (yield from here()).is_hurried:
                break  # the peers wait for us
            judged = yield from self._step(side, asked, part, b"%d/%d" % (round_, place))
            if judged is None:
                lost += 1
                yield from asked.look()
                continue
            loss, rows, taken = loss + judged.loss, rows + len(part), taken + 1
        return _Done(loss / max(1, rows), rows, taken, lost, side.memory())

    def _step(self, side: "ClientSide", asked: Asked, part: "Places", step: bytes) -> "Steps[Judged | None]":
        """Take one step with these examples; None: nobody answered, or not as an honest host does."""
        a = told("a", side.forward(part), self.config.number)
        try:
            out = yield from call(asked.hosts, NAMES.forward, a, step=step, is_last=True)
            asked.answered(out.peer)
            judged = side.judge(out.tensors["b"])
            if judged is None:
                asked.answered_wrongly(out.peer)
                return None
            is_audited = is_due(side.known, out.peer, side.secret)
            if is_audited and not (yield from self._audited(side, asked, a, out, step)):
                return None
            g: Tensors = {"g": judged.gradient.cpu().numpy()}
            try:
                back = yield from call((out.peer,), NAMES.grad, g, step=step, is_last=True)
            except Unanswered:
                asked.unanswered(out.peer)
                back = yield from call(asked.hosts, AGAIN, {**a, **g}, step=step, is_last=True)
        except Unanswered:
            return None
        if not side.step(back.tensors["da"]):
            asked.answered_wrongly(back.peer)
            return None
        return judged

    def _audited(self, side: "ClientSide", asked: Asked, a: Tensors, out: Answer, step: bytes) -> Steps[bool]:
        """Ask another host about some of a step's examples; tells whether the answer to the step is right."""
        few = {name: each[:ROWS] for name, each in a.items()}
        second = next((peer for peer in asked.trusted if peer != out.peer), None)
        if second is None:
            return True
        try:
            other = yield from call((second,), NAMES.predict, few, step=b"a" + step, is_last=True)
        except Unanswered:
            asked.unanswered(second)
            return True
        told_ = {out.peer: out.tensors["b"][:ROWS], other.peer: other.tensors["b"]}
        if agree(*told_.values()):
            side.known.audited[out.peer] = side.known.audited.get(out.peer, 0) + 1
            return True
        right = side.features(heard("a", few))
        liar = max(told_, key=lambda peer: (distance(told_[peer], right), peer == out.peer))
        asked.answered_wrongly(liar)
        return liar != out.peer


@dataclass(frozen=True, slots=True)
class _Done:
    """A client's steps of a round with a host."""

    loss: float
    examples: int
    steps: int
    lost: int
    memory: Mapping[str, Array]


def _rows(config: SFPromptConfig, side: "ClientSide") -> int:
    """Return how many examples a step has at most: a call holds activations, and features' gradients."""
    return min(config.rows, most_rows(side.entry, config.number) * 9 // 10)


def _kept(state: State, examples: int) -> "Places | None":
    """Return which examples go to the host, as chosen before; None: nothing was, or the data changed."""
    kept = state.private.get(KEPT)
    if (
        kept is None
        or not len(kept)
        or kept.dtype != np.int64
        or not 0 <= kept.min() <= kept.max() < examples
    ):
        return None
    return np.array(kept)


def _answer(
    side: "HostSide", request: Request, entry: tuple[int, ...], out: tuple[int, ...]
) -> Tensors | Refusal:
    """Return what a host says to a call."""
    tensors = request.tensors
    if "g" in tensors and not (len(tensors["g"]) and tensors["g"].shape[1:] == out):
        return MISFIT
    if request.verb == NAMES.grad:
        back = side.backward(request.peer, request.step, tensors["g"])
        return NOT_HELD if back is None else {"da": back}
    if not (len(tensors["a"]) and tensors["a"].shape[1:] == entry):
        return MISFIT
    a = heard("a", tensors)
    if request.verb == AGAIN:
        return {"da": side.again(a, tensors["g"])} if len(a) == len(tensors["g"]) else MISFIT
    if request.verb == NAMES.predict:
        return {"b": side.predict(a)}
    return {"b": side.forward(request.peer, request.step, a)}


def _client(config: SFPromptConfig, learner: Any) -> "ClientSide":
    """Return a learner's client side, made once."""
    from shoal.methods.sfprompt.sides import ClientSide

    found: ClientSide | None = getattr(learner, "split_client", None)
    if found is None:
        found = ClientSide(learner, config.cut, config.lr, config.noise)
        learner.split_client = found
    return found


def _host(config: SFPromptConfig, learner: Any) -> "HostSide":
    from shoal.methods.sfprompt.sides import HostSide

    return HostSide(learner, config.cut)


def _told(learner: Any) -> dict[str, float]:
    """Return what a hosting node tells of its hosting."""
    side: HostSide | None = getattr(learner, "prompt_host", None)
    if side is None:
        return {}
    return {"host1_steps": float(side.steps), "host1_rows": float(side.rows)}


def _say_cost(config: SFPromptConfig, learner: Any) -> None:
    """Say what this client's rounds cost, before the first."""
    if not getattr(learner, "prompt_said", False):
        learner.prompt_said = True
        side = _client(config, learner)
        options = (config.number, config.gamma, config.local_epochs, config.epochs)
        log.info("%s", estimate(side.sizes, side.prompt_numel, *options))
