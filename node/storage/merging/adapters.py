"""Merged adapters: what LoRA learned, added to the weights of the base that it was trained on.

    W ← W + s B A        s = lora_alpha / r, or lora_alpha / √r with rsLoRA

Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen, "LoRA", 2021, https://arxiv.org/abs/2106.09685, section
4.1; Kalajdzievski, "A Rank Stabilization Scaling Factor", 2023, https://arxiv.org/abs/2312.03732. Tensors
that were trained whole, such as a head or biases, take the place of the base's. Names are those of PEFT.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from shoal.methods.base import Array
from shoal.node.storage.model_file import NoModel

CONFIG: Final = "adapter_config.json"
_LORA: Final = re.compile(r"(?P<module>.+)\.lora_(?P<which>[A-Za-z_]+)(\.default)?(\.weight)?$")
_WRAPPERS: Final = (".base_layer", ".modules_to_save.default", ".modules_to_save")
"""Words that PEFT puts into the names of what it wraps."""


class AdapterConfig(msgspec.Struct, frozen=True):
    """What of ``adapter_config.json`` says how adapters act."""

    r: int = 8
    lora_alpha: float = 8.0
    peft_type: str = "LORA"
    base_model_name_or_path: str | None = None
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}

    @property
    def scale(self) -> float:
        """By what B A is multiplied."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


def read_config(folder: Path) -> AdapterConfig:
    """Read how the adapters of a folder act.

    Raises:
        NoModel: it has none, or they act in a way that is not known here.
    """
    try:
        found = msgspec.convert(json.loads((folder / CONFIG).read_text("utf-8")), AdapterConfig)
    except FileNotFoundError:
        raise NoModel(
            f"--merge: {folder} holds no {CONFIG}: name the folder of the adapters that were trained"
        ) from None
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise NoModel(f"{folder / CONFIG} cannot be read: {error}") from None
    known = found.peft_type == "LORA" and found.r > 0 and not found.use_dora
    if not known or found.rank_pattern or found.alpha_pattern:
        raise NoModel(
            "--merge knows plain LoRA, with one rank and one alpha: leave out --merge, and merge with"
            " merge_and_unload() of peft"
        )
    return found


def base_folder(folder: Path, config: AdapterConfig) -> Path:
    """Return the folder of the base, as the adapters name it: as it stands, or beside theirs.

    Raises:
        NoModel: it is not on this machine.
    """
    named = config.base_model_name_or_path or ""
    places = [Path(named).expanduser(), folder / named] if named else []
    for place in places:
        if (place / "config.json").exists():
            return place
    raise NoModel(
        f"--merge needs the base, and {folder / CONFIG} names {named or 'none'}, which is no folder here:"
        " name it with --base hf:PATH"
    )


def merged(
    adapters: Mapping[str, Array], config: AdapterConfig, read: Callable[[str], tuple[str, Array]]
) -> dict[str, Array]:
    """Return the tensors of the base that adapters change, by the base's names; float32.

    `adapters`: by the names that PEFT gives them. `read`: the base's name and float32 numbers of a tensor
    that is named by the end of its name.

    Raises:
        NoModel: something is no LoRA, or does not fit the base.
    """
    halves: dict[str, dict[str, Array]] = {}
    found: dict[str, Array] = {}
    for name, array in adapters.items():
        if (match := _LORA.fullmatch(name)) is not None:
            halves.setdefault(match["module"], {})[match["which"]] = array
            continue
        base_name, _ = read(_bare(name))
        found[base_name] = array
    for module, parts in halves.items():
        base_name, weight = read(f"{_bare(module)}.weight")
        found[base_name] = _changed(module, weight, parts, config)
    return found


def _changed(module: str, weight: Array, parts: Mapping[str, Array], config: AdapterConfig) -> Array:
    """Return W + s B A."""
    if set(parts) != {"A", "B"} or any(each.ndim != 2 for each in parts.values()):
        raise NoModel(
            f"--merge: {module} has adapters {', '.join(sorted(parts))}, and LoRA of linear layers has A and"
            " B: leave out --merge, and merge with merge_and_unload() of peft"
        )
    a, b = parts["A"].astype(np.float32), parts["B"].astype(np.float32)
    change = np.float32(config.scale) * (b @ a) if b.shape[1] == a.shape[0] else np.empty(0, np.float32)
    change = change.T if config.fan_in_fan_out else change
    if change.shape != weight.shape:
        raise NoModel(
            f"--merge: the adapters of {module} are {list(b.shape)} and {list(a.shape)}, and its weight in"
            f" the base is {list(weight.shape)}: name the base that was trained"
        )
    return np.asarray(weight + change)


def _bare(name: str) -> str:
    """Return a name as the base has it."""
    for word in _WRAPPERS:
        name = name.replace(word, "")
    return name.removeprefix("base_model.model.")
