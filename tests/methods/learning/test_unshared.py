"""A saved model loads strictly into any module that trained, and what does not travel outlives a restart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import shoal
from shoal.methods.learning.model_tensors import manifest, read_model
from shoal.methods.learning.unshared import read_unshared, write_unshared
from shoal.node.storage.model_file import NoModel, save_model

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")


class Tied(nn.Module):  # type: ignore[misc]
    """A tied head, integer and complex buffers, a bool mask, extra state, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("position_ids", torch.arange(4))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("phase", torch.ones(2, dtype=torch.complex64))
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.calls = 0

    def get_extra_state(self) -> Any:
        return {"calls": self.calls}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "tied": Tied,
    "batch norm": lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
    "tied twice": lambda: nn.ModuleList([Tied(), Tied()]),
    "half": lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).half(),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
    "plain": lambda: nn.Linear(2, 2),
}


def changed(model: nn.Module) -> nn.Module:
    """Return the model with other numbers everywhere."""
    with torch.no_grad():
        for tensor in model.state_dict(keep_vars=True).values():
            if isinstance(tensor, torch.Tensor):
                tensor.copy_(~tensor if tensor.dtype == torch.bool else tensor + 1)
    return model


def saved(model: nn.Module, path: Path, values: int = 0) -> Path:
    save_model(path, read_model(model), manifest(model), values, read_unshared(model))
    return path


@pytest.mark.parametrize("values", [0, 16])
@pytest.mark.parametrize("name", MODELS)
def test_what_was_saved_loads_strictly(name: str, values: int, tmp_path: Path) -> None:
    model, other = changed(MODELS[name]()), MODELS[name]()
    other.load_state_dict(shoal.load_model(saved(model, tmp_path / "file", values)))
    for key, value in model.state_dict().items():
        if isinstance(value, torch.Tensor) and (values == 0 or not value.is_floating_point()):
            assert torch.equal(other.state_dict()[key], value), key


@pytest.mark.parametrize(
    "wrap", [torch.compile, nn.DataParallel, lambda model: nn.DataParallel(torch.compile(model))]
)
def test_what_a_wrapped_model_saved_loads_into_the_bare_one_and_into_a_wrapped_one(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    file = saved(wrap(changed(Tied())), tmp_path / "file")
    bare, wrapped = Tied(), wrap(Tied())
    bare.load_state_dict(shoal.load_model(file))
    wrapped.load_state_dict(shoal.load_model(file, wrapped))
    assert np.array_equal(read_model(bare), read_model(wrapped))
    assert bare.position_ids.tolist() == [1, 2, 3, 4]
    assert bare.head.weight is bare.embed.weight


def test_extra_state_is_kept() -> None:
    model, other = Tied(), Tied()
    model.calls = 3
    write_unshared(other, read_unshared(model))
    assert other.calls == 3


def test_what_no_longer_fits_is_left_where_it_is() -> None:
    model = Tied()
    arrays = read_unshared(changed(Tied())) | {"mask": np.ones(5), "gone": np.ones(1)}
    write_unshared(model, arrays)
    assert model.mask.tolist() == [True, False]
    assert model.position_ids.tolist() == [1, 2, 3, 4]


def test_a_damaged_entry_is_no_model(tmp_path: Path) -> None:
    model = Tied()
    arrays = read_unshared(model)
    arrays["_extra_state"] = np.zeros(9, np.uint8)
    save_model(tmp_path / "file", read_model(model), manifest(model), 0, arrays)
    with pytest.raises(NoModel, match="damaged"):
        shoal.load_model(tmp_path / "file")
    with pytest.raises(ValueError, match="damaged"):
        write_unshared(Tied(), arrays)
