"""Wrapped optimizer: one of torch's optimizers to everybody, which hands all on to the one inside.

Schedulers, GradScaler, accelerate and callbacks ask for a `torch.optim.Optimizer`, change its parameter
groups, save its state and hook into its steps. Groups, state and defaults here are those of the optimizer
inside, and so are hooks; what the wrapper adds is said by its subclass.

Steps are counted where they happen, by a hook of the innermost optimizer: one that accelerate leaves out
because gradients are still gathered, or GradScaler because they are not finite, is none.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from shoal.node.errors import UserError


class NotCopied(UserError, TypeError):
    """What holds a line to a node can neither be copied nor pickled; the message says what can."""


class WrappedOptimizer(torch.optim.Optimizer):  # type: ignore[misc]  # torch's classes are unknown to mypy
    """See the module's docstring."""

    # Else GradScaler leaves its scale here, where the optimizer inside does not look for it.
    _step_supports_amp_scaling = False

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        """`optimizer`: what is wrapped. Torch's own constructor would make parameter groups of our own."""
        self.optimizer = optimizer
        self.steps_taken = 0
        """How many steps the optimizer inside has taken."""
        self._innermost = optimizer
        while isinstance(getattr(self._innermost, "optimizer", None), torch.optim.Optimizer):
            self._innermost = self._innermost.optimizer
        hook = getattr(self._innermost, "register_step_post_hook", None)
        self._counts_itself = hook is None
        self._counting = None if hook is None else hook(self._count)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of the optimizer inside."""
        loss = self.optimizer.step() if closure is None else self.optimizer.step(closure)
        if self._counts_itself:
            self.steps_taken += 1
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """See `torch.optim.Optimizer`."""
        self.optimizer.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimizer inside."""
        state: dict[str, Any] = self.optimizer.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give the optimizer inside a state that `state_dict` of either returned."""
        self.optimizer.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`."""
        self.optimizer.add_param_group(param_group)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the optimizer inside."""
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        return groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.optimizer.param_groups = groups

    @property
    def state(self) -> Any:
        """That of the optimizer inside."""
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.optimizer.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """Those of the optimizer inside."""
        defaults: dict[str, Any] = self.optimizer.defaults
        return defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.optimizer.defaults = defaults

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> Any:
        """See `torch.optim.Optimizer`; the hook is given this optimizer."""
        return self._innermost.register_step_pre_hook(lambda _, *rest: hook(self, *rest))

    def register_step_post_hook(self, hook: Callable[..., Any]) -> Any:
        """See `torch.optim.Optimizer`; the hook is given this optimizer."""
        return self._innermost.register_step_post_hook(lambda _, *rest: hook(self, *rest))

    def register_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> Any:
        """See `torch.optim.Optimizer`; the hook is given this optimizer."""
        return self._innermost.register_state_dict_pre_hook(lambda _, *rest: hook(self, *rest), prepend)

    def register_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> Any:
        """See `torch.optim.Optimizer`; the hook is given this optimizer."""
        return self._innermost.register_state_dict_post_hook(lambda _, *rest: hook(self, *rest), prepend)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> Any:
        """See `torch.optim.Optimizer`; the hook is given this optimizer."""
        return self._innermost.register_load_state_dict_pre_hook(lambda _, *rest: hook(self, *rest), prepend)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> Any:
        """See `torch.optim.Optimizer`; the hook is given this optimizer."""
        return self._innermost.register_load_state_dict_post_hook(lambda _, *rest: hook(self, *rest), prepend)

    def __getattr__(self, name: str) -> Any:
        """Hand on what is not here to the optimizer inside."""
        if name == "optimizer":  # before __init__ has run there is nothing to hand on to
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __repr__(self) -> str:
        """Show what is inside."""
        return f"{type(self).__name__}({self.optimizer!r})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be copied.

        Raises:
            NotCopied: always.
        """
        raise NotCopied(
            f"a {type(self).__name__} holds a line to its node and cannot be copied or pickled:"
            " copy its .optimizer, or save its state_dict()"
        )

    def _count(self, *_: Any) -> None:
        self.steps_taken += 1

    def _let_go(self) -> None:
        """Leave no hook behind in the optimizer inside."""
        if self._counting is not None:
            self._counting.remove()
            self._counting, self._counts_itself = None, True
