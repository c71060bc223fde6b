"""What split learning says on the wire: roles and verbs of each stage, and their forms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shoal.gossip.calls.forms import Form, Number, TensorForm
from shoal.methods.errors import BadTask
from shoal.methods.mpsl.tokens import form_of, most_rows

IS_OVER: Final = "late: the step is over"
"""What a host says to a client whose gradients come after those of the others were taken."""
NO_STAGE: Final = "no next stage"
"""What it says where the stages behind it do not answer."""
CHUNK: Final = 1 << 19
"""Numbers of a body in one call: 2 MiB."""
MOST_ROWS: Final = 4096
"""Examples of all clients in one pass, where a body has several stages."""


@dataclass(frozen=True, slots=True)
class Names:
    """Roles and verbs of one stage of the body."""

    stage: int
    """From 0."""
    stages: int

    def _name(self, what: str) -> str:
        return what if self.stage == 0 else f"{what}{self.stage + 1}"

    @property
    def role(self) -> str:
        """Of its hosts."""
        return self._name("host")

    @property
    def spare(self) -> str:
        """Of those that hold a copy, for when no host answers."""
        return self._name("spare")

    @property
    def before(self) -> "Names | None":
        """Of the stage whose holders call this one; None: clients do."""
        return Names(self.stage - 1, self.stages) if self.stage else None

    @property
    def forward(self) -> str:
        """Activations for outputs."""
        return self._name("forward")

    @property
    def grad(self) -> str:
        """The gradients of outputs for those of activations."""
        return self._name("grad")

    @property
    def predict(self) -> str:
        """As `forward`, for a measurement or an audit: no gradients follow. `v` says of which params."""
        return self._name("predict")

    @property
    def give(self) -> str:
        """A piece of a holder's params, to be merged."""
        return self._name("give")

    @property
    def take(self) -> str:
        """A piece of the params that a holder has."""
        return self._name("take")

    @property
    def all(self) -> tuple[str, ...]:
        """All its verbs."""
        return self.forward, self.grad, self.predict, self.give, self.take

    @property
    def after(self) -> "Names | None":
        """The stage behind it."""
        return Names(self.stage + 1, self.stages) if self.stage + 1 < self.stages else None


def roles_of(stages: int, *, spares: bool) -> tuple[str, ...]:
    """Return the roles of a body in so many stages."""
    names = [Names(stage, stages) for stage in range(stages)]
    return tuple(each.role for each in names) + tuple(each.spare for each in names if spares)


def forms_of(
    names: Names, entry: tuple[int, ...], out: tuple[int, ...], rows: int, number: Number
) -> Mapping[str, Form]:
    """Return the forms of one stage's verbs. `entry`, `out`: shapes of an example, before and behind it.

    Raises:
        BadTask: a call does not hold one example.
    """
    most = min(rows, most_rows(entry, number)) if names.stage == 0 else most_rows(entry, number)
    most = min(most, MOST_ROWS)
    if most < 1:
        raise BadTask(
            f"the activations of one example are of shape {entry}, more than a call of 4 MiB holds:"
            " cut the model where they are smaller, or set number = int8"
        )
    outputs = {"y": TensorForm((most, *out), "float32" if number == "float32" else "float16")}
    grads = {"g": TensorForm((most, *out))}
    of_one = {"n": TensorForm((1,))}
    of_two = {"n": TensorForm((2,))}
    z, dz = form_of("z", entry, most, number), form_of("dz", entry, most, number)
    return {
        names.forward: Form(z, outputs),
        names.predict: Form(z, outputs | {"v": TensorForm((1,))}),
        names.grad: Form(grads | (of_one if names.stage else {}), dz | of_one),
        names.give: Form({"w": TensorForm((CHUNK,))} | of_two, of_two),
        names.take: Form(of_two, {"w": TensorForm((CHUNK,))}),
    }
