"""Bech32m: bytes as text of letters and digits with a checksum, for what people copy.

BIP 350, "Bech32m format for v1+ witness addresses", Wuille, https://github.com/bitcoin/bips. The limit of 90
characters of that page is left out: for longer texts the checksum finds any change by chance but one of 2^30.
"""

from collections.abc import Iterable
from typing import Final

ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_CONSTANT: Final = 0x2BC830A3
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def encode(prefix: str, data: bytes) -> str:
    """Return ``prefix1…``."""
    values = _regroup(data, 8, 5, pads=True)
    polymod = _polymod([*_expanded(prefix), *values, *[0] * 6]) ^ _CONSTANT
    values += [(polymod >> 5 * (5 - place)) & 31 for place in range(6)]
    return prefix + "1" + "".join(ALPHABET[each] for each in values)


def decode(prefix: str, text: str) -> bytes:
    """Return the bytes of a text.

    Raises:
        ValueError: it has another prefix, or was altered.
    """
    if text != text.lower() and text != text.upper():
        raise ValueError("upper and lower case are mixed")
    found, one, body = text.lower().rpartition("1")
    if not one or found != prefix or len(body) < 6:
        raise ValueError(f"it does not begin with {prefix}1")
    values = [ALPHABET.find(each) for each in body]
    if min(values) < 0 or _polymod([*_expanded(prefix), *values]) != _CONSTANT:
        raise ValueError("its checksum does not fit")
    return bytes(_regroup(values[:-6], 5, 8, pads=False))


def _expanded(prefix: str) -> list[int]:
    return [*(ord(each) >> 5 for each in prefix), 0, *(ord(each) & 31 for each in prefix)]


def _polymod(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for place, part in enumerate(_GENERATOR):
            check ^= part if top >> place & 1 else 0
    return check


def _regroup(values: Iterable[int], from_bits: int, to_bits: int, *, pads: bool) -> list[int]:
    held = n_bits = 0
    found: list[int] = []
    for value in values:
        held, n_bits = held << from_bits | value, n_bits + from_bits
        while n_bits >= to_bits:
            n_bits -= to_bits
            found.append(held >> n_bits)
            held &= (1 << n_bits) - 1
    if pads and n_bits:
        found.append(held << to_bits - n_bits)
    elif not pads and (held or n_bits >= from_bits):
        raise ValueError("its end is not that of whole bytes")
    return found
