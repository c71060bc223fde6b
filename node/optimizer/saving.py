"""Saving: the model of a swarm as it is now, in the form that its kind is saved in."""

from pathlib import Path
from typing import Any

from torch import nn

from shoal.methods.learning.model_tensors import Staying
from shoal.methods.learning.unshared import read_unshared
from shoal.node.optimizer.ranks import RankedVector
from shoal.node.storage.model_file import NoModel, save_model


def write_model(model: nn.Module, vector: RankedVector, stays: Staying, path: Path, values: int) -> None:
    """Write a model; called by the rank that speaks. See `Swarm.save_model`.

    Raises:
        NoModel: there is something of this name, or it cannot be written.
    """
    bare: Any = model
    while isinstance(inside := getattr(bare, "_orig_mod", getattr(bare, "module", None)), nn.Module):
        bare = inside  # of torch.compile, or of DDP
    has_folder = hasattr(bare, "save_pretrained") and not values and not vector.is_sharded
    if not has_folder:
        save_model(path, vector.read(), vector.manifest, values, read_unshared(model, stays))
        return
    if path.exists():
        raise NoModel(f"{path} exists; choose another name, or remove it")
    try:
        bare.save_pretrained(path)
    except OSError as error:
        raise NoModel(f"cannot write {path}: {error.strerror or error}; choose another place") from None
