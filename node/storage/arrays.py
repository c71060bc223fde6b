"""Arrays in the safetensors format, written from where they lie.

A file is a length, a JSON map and the raw numbers, so nothing has to be copied into one piece before.
"""

import json
from collections.abc import Mapping
from typing import Final

import numpy as np
from safetensors.numpy import save

from shoal.methods.base import Array

_TYPES: Final = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}


def pieces(arrays: Mapping[str, Array]) -> list[bytes | memoryview]:
    """Return a file's pieces in order; contiguous arrays are not copied.

    Raises:
        SafetensorError: the format has no such type.
    """
    laid = {name: np.asarray(array, order="C") for name, array in sorted(arrays.items())}
    if any(array.dtype.name not in _TYPES for array in laid.values()):
        return [save(laid)]
    # The format wants numbers at multiples of their size: the widest come first.
    ordered = sorted(laid.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header, at = {}, 0
    for name, array in ordered:
        span = [at, at + array.nbytes]
        header[name] = {
            "dtype": _TYPES[array.dtype.name],
            "shape": list(arrays[name].shape),
            "data_offsets": span,
        }
        at = span[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    raw = [array.reshape(-1).view(np.uint8).data for _, array in ordered if array.nbytes]
    return [len(text).to_bytes(8, "little") + text, *raw]
