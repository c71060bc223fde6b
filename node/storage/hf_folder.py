"""Hugging Face folders: what a run has learned, as a folder that `from_pretrained` reads.

    --like hf:BASE                                    DIR
    config.json, tokenizer ..., model.safetensors     the same files, with the tensors that were trained
    adapter_config.json, adapter_model.safetensors    the same files, with the adapters of the run

Names, shapes and dtypes are those of the base. A tensor that did not travel, such as a frozen one, is taken
from the base. Everything goes tensor by tensor, so that no more than one is in memory; torch is not needed.
"""

import json
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from shoal.methods.base import Array
from shoal.node.storage.model_file import NoModel

PREFIX: Final = "hf:"
MODEL: Final = "model.safetensors"
ADAPTER: Final = "adapter_model.safetensors"
CARD: Final = "README.md"
MAX_HEADER: Final = 100 << 20
"""Bytes; safetensors takes no longer one."""
_DTYPES: Final[Mapping[str, Callable[[Array], Array]]] = {
    "F64": lambda values: values.astype("<f8"),
    "F32": lambda values: values.astype("<f4"),
    "F16": lambda values: values.astype("<f2"),
    "BF16": lambda values: _bfloat16(values),
}
"""How float32 numbers are written in the dtypes of safetensors."""
NAMES: Final[Mapping[str, str]] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in a file of the base."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    """In the file."""
    n_bytes: int

    def read(self) -> bytes:
        """Return its bytes."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.n_bytes)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    n_trained: int
    n_kept: int
    """Tensors of the base that did not travel."""
    n_bytes: int


def base_of(like: str) -> Path:
    """Return the folder that ``--like`` names.

    Raises:
        NoModel: it is none of a model of Hugging Face's.
    """
    if not like.startswith(PREFIX):
        raise NoModel(f"--like {like}: write hf:PATH, the folder of the base that was trained")
    base = Path(like.removeprefix(PREFIX)).expanduser()
    if not (base / "config.json").exists() and not (base / "adapter_config.json").exists():
        raise NoModel(
            f"{base} holds neither config.json nor adapter_config.json: name a folder that save_pretrained"
            " wrote"
        )
    return base


def export(
    target: Path,
    base: Path,
    trained: Mapping[str, Array],
    card: str,
    dtype: str = "",
    shard_size: int = 5 << 30,
) -> Exported:
    """Write a new folder like `base` with what was `trained`; float32 by name.

    `dtype`: of floating tensors, as in `NAMES`; empty: those of the base. `shard_size`: bytes of a file.

    Raises:
        NoModel: the folder exists, the base is damaged, or it is the base of another model.
    """
    is_adapter = (base / "adapter_config.json").exists()
    file = ADAPTER if is_adapter else MODEL
    entries = _entries(base, file)
    found = {_adapter_name(name) if is_adapter else name: array for name, array in trained.items()}
    used = {name: found[match] for name in entries if (match := _match(name, found)) is not None}
    _check(used, entries, found)
    try:
        target.mkdir(parents=True)
        for path in _others(base):
            shutil.copyfile(path, target / path.name)
        (target / CARD).write_text(card, "utf-8")
        n_bytes = _write_all(target, file, entries, used, NAMES.get(dtype, ""), shard_size)
    except FileExistsError:
        raise NoModel(f"{target} exists; choose another name, or remove it") from None
    except OSError as error:
        raise NoModel(f"cannot write {target}: {error.strerror}; choose another place") from None
    return Exported(len(used), len(entries) - len(used), n_bytes)


def reader_of(base: Path) -> Callable[[str], tuple[str, Array]]:
    """Return what reads a tensor of a base, float32, by a name that may have more or fewer words before it.

    It returns the base's own name too, and raises `NoModel` where no tensor, or more than one, is meant.

    Raises:
        NoModel: the base has no safetensors, or they are damaged.
    """
    entries = _entries(base, MODEL)

    def read(name: str) -> tuple[str, Array]:
        found = [name] if name in entries else []
        found = found or [e for e in entries if e.endswith(f".{name}") or name.endswith(f".{e}")]
        if len(found) != 1 or entries[found[0]].dtype not in _DTYPES:
            raise NoModel(f"{name} is no tensor of {base}: name the base that was trained")
        entry = entries[found[0]]
        return found[0], _float32(entry).reshape(entry.shape)

    return read


def _others(base: Path) -> list[Path]:
    """Return the files of a base that hold no tensors, such as its configuration and its tokenizer."""
    tensors = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".index.json")
    return [
        path
        for path in sorted(base.iterdir())
        if path.is_file() and path.name != CARD and not path.name.endswith(tensors)
    ]


def _match(name: str, found: Mapping[str, Array]) -> str | None:
    """Return under which name a tensor of the base was trained; wrappers put words before it."""
    if name in found:
        return name
    longer = [each for each in found if each.endswith(f".{name}")]
    return longer[0] if len(longer) == 1 else None


def _adapter_name(name: str) -> str:
    """Return the name that PEFT gives a tensor in a file: without that of the adapter."""
    return name.replace(".default.", ".").removesuffix(".default")


def _check(used: Mapping[str, Array], entries: Mapping[str, Entry], found: Mapping[str, Array]) -> None:
    """Refuse a base that is not that of the run.

    Raises:
        NoModel: names a tensor that does not fit.
    """
    placed = {id(array) for array in used.values()}
    lost = [name for name, array in found.items() if id(array) not in placed]
    problem = ""
    if lost:
        problem = f"{len(lost)} tensors of the run are not in the base, such as {lost[0]}"
    for name, array in used.items():
        entry = entries[name]
        if tuple(array.shape) != entry.shape:
            problem = f"{name} is {list(array.shape)} in the run and {list(entry.shape)} in the base"
        elif entry.dtype not in _DTYPES:
            problem = f"{name} is {entry.dtype} in the base, which holds no trained numbers"
    if problem:
        raise NoModel(f"{problem}: name the folder of the model that was trained")


def _entries(base: Path, file: str) -> dict[str, Entry]:
    """Return the tensors of a base by name.

    Raises:
        NoModel: it has no safetensors, or they are damaged.
    """
    index = base / f"{file}.index.json"
    try:
        if index.exists():
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
            paths = [base / Path(name).name for name in names]
        else:
            paths = [base / file]
        return {name: entry for path in paths for name, entry in _header(path)}
    except FileNotFoundError as error:
        raise NoModel(f"{error.filename} is not there; save the base with safe_serialization=True") from None
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise NoModel(f"{base} holds a damaged model: {error}") from None


def _header(path: Path) -> Iterator[tuple[str, Entry]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER:
            raise ValueError(f"the header of {path.name} has {length} bytes")
        header: dict[str, Any] = json.loads(file.read(length))
    for name, about in header.items():
        if name == "__metadata__":
            continue
        lo, hi = about["data_offsets"]
        yield name, Entry(path, about["dtype"], tuple(about["shape"]), 8 + length + lo, hi - lo)


def _write_all(
    target: Path,
    file: str,
    entries: Mapping[str, Entry],
    used: Mapping[str, Array],
    dtype: str,
    shard_size: int,
) -> int:
    """Write the tensors, into several files where they are many; return their bytes."""
    plans: list[list[tuple[str, str, int]]] = [[]]
    total = 0
    for name, entry in entries.items():
        kind = dtype if dtype and entry.dtype in _DTYPES else entry.dtype
        n_bytes = (
            int(np.prod(entry.shape, dtype=np.int64)) * _width(kind) if kind in _DTYPES else entry.n_bytes
        )
        if plans[-1] and sum(each for *_, each in plans[-1]) + n_bytes > shard_size:
            plans.append([])
        plans[-1].append((name, kind, n_bytes))
        total += n_bytes
    stem = file.removesuffix(".safetensors")
    places: dict[str, str] = {}
    for number, plan in enumerate(plans, 1):
        name = file if len(plans) == 1 else f"{stem}-{number:05}-of-{len(plans):05}.safetensors"
        _write(target / name, plan, entries, used)
        places |= {tensor: name for tensor, *_ in plan}
    if len(plans) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (target / f"{file}.index.json").write_text(json.dumps(index, indent=2, sort_keys=True), "utf-8")
    return total


def _write(
    path: Path, plan: list[tuple[str, str, int]], entries: Mapping[str, Entry], used: Mapping[str, Array]
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, kind, n_bytes in plan:
        header[name] = {"dtype": kind, "shape": list(entries[name].shape), "data_offsets": [at, at + n_bytes]}
        at += n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, kind, _ in plan:
            entry = entries[name]
            if name in used:
                file.write(_DTYPES[kind](used[name].reshape(-1)).tobytes())
            elif kind == entry.dtype:
                file.write(entry.read())
            else:
                file.write(_DTYPES[kind](_float32(entry)).tobytes())


def _width(kind: str) -> int:
    return {"F64": 8, "F32": 4}.get(kind, 2)


def _float32(entry: Entry) -> Array:
    """Return a floating tensor of the base as float32."""
    data = entry.read()
    if entry.dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
    return np.frombuffer(data, kinds[entry.dtype]).astype(np.float32)


def _bfloat16(values: Array) -> Array:
    """Return float32 as the 16 bits of bfloat16, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    # Rounding must not make an infinity of a NaN.
    return np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2")
