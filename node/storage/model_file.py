"""Model files: what a run has learned, as a file for use elsewhere; exact, or in a few values per tensor.

    x.safetensors    float32 tensors under the model's own names; any reader of the format opens it
    x.shoal          "SHM2" | length | msgpack manifest | length | safetensors of what did not travel | the
                     model as methods/coding/codebook.py packs it     ("SHM1" has nothing of the third kind)

Integer buffers are in both, with their own types; second names of tied tensors are in the metadata only.

The second kind is FedCompress's: with 32 values per tensor a file has a sixth of the bytes. It serves for a
model of any method. `shoal.load_model` reads both; nothing in a file is executed.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from shoal.gossip.errors import RemoteViolation
from shoal.gossip.events import Vector
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.methods.base import Array
from shoal.methods.coding import codebook
from shoal.methods.params import views
from shoal.node.errors import UserError
from shoal.node.storage.checkpoint import Checkpoint, load_newest
from shoal.node.storage.database import Store
from shoal.node.storage.home import Home

MAGIC: Final = b"SHM1"
MAGIC_2: Final = b"SHM2"
ABOUT: Final = "shoal"
"""The name in the metadata under which methods/learning/unshared.py says more."""
MAX_NUMEL: Final = 1 << 36
"""Of a model that is read; what a manifest announces beyond it is no model."""
_encode_spec = msgspec.msgpack.Encoder(order="sorted").encode
_decode_spec = msgspec.msgpack.Decoder(RunSpec).decode
_decode_manifest = msgspec.msgpack.Decoder(tuple[TensorSpec, ...]).decode


class _Aliases(msgspec.Struct):
    """What is of use here in the entry `ABOUT`; methods/learning/unshared.py writes it."""

    aliases: dict[str, str] = {}


class NoModel(UserError):
    """There is no model to save, or none in the file; the message says what to do."""


def remember_spec(store: Store, run: bytes, spec: RunSpec) -> None:
    """Keep a run's spec, whose manifest names the tensors in its state files."""
    store.put(f"spec {run.hex()}", _encode_spec(spec))


def newest(state_dir: Path, store: Store) -> tuple[Checkpoint, RunSpec]:
    """Return what was saved last by a node, of whatever run.

    Raises:
        NoModel: it has saved nothing, or it was another version that saved it.
    """
    for run, spec in _known_runs(state_dir, store):
        checkpoint = load_newest(state_dir, run)
        if checkpoint is not None:
            return checkpoint, spec
    raise NoModel(
        f"{state_dir} holds no model yet; run a node with this --home first: shoal start --task ..."
    )


def newest_of(home: Home) -> tuple[Checkpoint, RunSpec]:
    """Return what was saved last in a node's home; the node may run meanwhile.

    Raises:
        NoModel: it is no home, or it has saved nothing.
    """
    if not home.database.exists():
        raise NoModel(f"{home.path} is no node's home; name it with --home")
    store = Store(home.database)
    try:
        return newest(home.state_dir, store)
    finally:
        store.close()


def newest_spec(state_dir: Path, store: Store) -> RunSpec | None:
    """Return the run of what was saved last by a node; None where there is none, or it is not known."""
    return next((spec for _, spec in _known_runs(state_dir, store)), None)


def _known_runs(state_dir: Path, store: Store) -> Iterator[tuple[bytes, RunSpec]]:
    """Yield the runs that states were saved of, the last one first, with their specs."""
    files = sorted(state_dir.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files:
        try:
            with safe_open(path, framework="numpy") as tensors:
                run = bytes.fromhex((tensors.metadata() or {})["run_id"])
        except (SafetensorError, KeyError, ValueError, OSError):
            continue
        if (known := store.get(f"spec {run.hex()}")) is not None:
            yield run, _decode_spec(known)


def save_model(
    path: Path,
    params: Vector,
    specs: tuple[TensorSpec, ...],
    values: int = 0,
    unshared: Mapping[str, Array] | None = None,
) -> int:
    """Write a new file; `values`: at most so many per tensor, 0: exact. Returns its bytes.

    `unshared`: what of the model did not travel (methods/learning/unshared.py); the file then holds all that
    the model saves.

    Raises:
        NoModel: the file exists, or cannot be written.
    """
    rest = dict(unshared or {})
    about = rest.pop(ABOUT, None)
    metadata = {} if about is None else {ABOUT: about.tobytes().decode()}
    if values:
        manifest = msgspec.msgpack.encode(specs)
        head = (MAGIC_2 if unshared else MAGIC) + struct.pack("<I", len(manifest)) + manifest
        if unshared:
            others = save(rest, metadata)
            head += struct.pack("<Q", len(others)) + others
        data = head + codebook.encode_vector(params, specs, values)
    else:
        arrays = {name: np.ascontiguousarray(each) for name, each in views(params, specs).items()}
        data = save(arrays | rest, metadata)
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise NoModel(f"{path} exists; choose another name, or remove it") from None
    except OSError as error:
        raise NoModel(f"cannot write {path}: {error.strerror}; choose another place") from None
    return len(data)


def aliases_of(unshared: Mapping[str, Array]) -> dict[str, str]:
    """Return second names of tied tensors -> the names under which they travel."""
    if ABOUT not in unshared:
        return {}
    try:
        return msgspec.json.decode(unshared[ABOUT].tobytes(), type=_Aliases).aliases
    except msgspec.MsgspecError:
        return {}


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the tensors of a model file by name, those that travelled as float32.

    What beside them stands under `ABOUT` is told as in methods/learning/unshared.py.

    Raises:
        NoModel: it is no model file.
    """
    try:
        data = path.read_bytes()
        if data.startswith((MAGIC, MAGIC_2)):
            return _read_few_values(path, data)
        return _read_exact(data)
    except OSError as error:
        raise NoModel(f"cannot read {path}: {error.strerror}") from None
    except (SafetensorError, RemoteViolation, msgspec.MsgspecError, struct.error, ValueError) as error:
        raise NoModel(f"{path} is no model file: {error}") from None


def _read_exact(data: bytes) -> dict[str, Array]:
    arrays = dict(load(data))
    (length,) = struct.unpack_from("<Q", data)
    header = msgspec.json.decode(data[8 : 8 + length], type=dict[str, Any])
    if about := header.get("__metadata__", {}).get(ABOUT):
        arrays[ABOUT] = np.frombuffer(about.encode(), np.uint8)
    return arrays


def _read_few_values(path: Path, data: bytes) -> dict[str, Array]:
    (length,) = struct.unpack_from("<I", data, len(MAGIC))
    start = len(MAGIC) + 4
    specs = _decode_manifest(data[start : start + length])
    start += length
    if sum(spec.numel for spec in specs) > min(MAX_NUMEL, 1 << 12 << len(data).bit_length()):
        raise NoModel(f"{path} announces more than is in it")
    others: dict[str, Array] = {}
    if data.startswith(MAGIC_2):
        (length,) = struct.unpack_from("<Q", data, start)
        others = _read_exact(data[start + 8 : start + 8 + length])
        start += 8 + length
    return {**views(codebook.decode(data[start:], specs), specs), **others}
