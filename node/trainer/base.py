"""The frozen base at the trainer: fetched through the daemon where the task has none, and kept for others."""

import logging
from pathlib import Path

import torch
from torch import nn

from shoal.gossip.run_spec import RunSpec
from shoal.gossip.state.base_blocks import BaseTree, NoBlocks
from shoal.methods.errors import BadTask
from shoal.methods.learning.model_tensors import Staying
from shoal.methods.learning.parts import pinned_of, pinned_specs
from shoal.methods.learning.pinned_base import base_bytes, lacks_base, need_base, put_base
from shoal.node.storage.base_file import BaseFile
from shoal.node.trainer import ipc
from shoal.node.trainer.session import LineLost

log = logging.getLogger(__name__)


def fill_base(model: nn.Module, stays: Staying, name: str, line: ipc.Line) -> None:
    """Give a model the base of this name: its own if it is that, else the one that peers have.

    Raises:
        BadTask: there is none, or it cannot be kept here.
        LineLost: the daemon is gone.
    """
    if not name:
        need_base(model, stays)
        return
    specs, wanted = pinned_specs(model, stays), bytes.fromhex(name)
    if not specs:
        raise BadTask(f"--base {name} is given, and no tensor of the model is frozen: leave --base out")
    if not lacks_base(model, stays) and pinned_of(model, stays)[1] == wanted:
        return
    try:
        tree = BaseTree(specs)
    except NoBlocks as error:
        raise BadTask(f"{error}: load the base in model()") from None
    path = _ask(line, ipc.FetchBase(name=wanted, specs=specs))
    put_base(model, tree, path)
    if pinned_of(model, stays)[1] != wanted:
        path.unlink(missing_ok=True)
        raise BadTask(f"{path} was damaged and is deleted; start again to fetch it anew")


def _ask(line: ipc.Line, question: ipc.FetchBase) -> Path:
    try:
        line.send(question)
        answer = line.receive()
    except (OSError, EOFError) as error:
        raise LineLost(f"the daemon is gone ({error})") from None
    if not isinstance(answer, ipc.BaseReady):
        raise LineLost("the daemon wants no trainer")
    if answer.reason:
        raise BadTask(answer.reason)
    return Path(answer.path)


def keep_base(folder: Path, model: nn.Module, spec: RunSpec) -> str:
    """Keep the base in a file, from which newcomers fetch it; returns why not, or nothing."""
    if not spec.pinned:
        return ""
    try:
        file = BaseFile(folder, spec.pinned_hash, spec.pinned)
        if not file.is_whole:
            with torch.no_grad():
                file.write(each.data for each in base_bytes(model, spec.pinned))
    except NoBlocks as error:
        return f"peers cannot fetch the frozen base from this node: {error}"
    except OSError as error:
        return f"peers cannot fetch the frozen base from this node: {error.strerror or error}"
    return ""
