"""Small discrete logarithms: x with x g = P, for |x| within a bound, by baby steps and giant steps.

Shanks, "Class number, a theory of factorization, and genera", 1971. A table holds j g for 0 <= j <= m; since
-P has the y of P and the other sign, it answers for 2 m + 1 numbers. P is moved by so many at a time, from 0
outwards: a small x is found first. The table is made once per process, at 20 microseconds an entry.
"""

from functools import cache
from typing import Final

from shoal.crypto.functional.group import IDENTITY, add, multiply_base, subtract

TABLE: Final = 1 << 14
"""Baby steps (m): 0.3 s and 2 MB, once."""
MAX_BOUND: Final = 1 << 31
"""Of a logarithm: 2^16 giant steps, some 5 s. Callers choose far less."""


def find_log(point: bytes, bound: int) -> int | None:
    """Return x with |x| <= bound and x g = point, or None where there is none.

    Raises:
        ValueError: the bound is negative, or above 2^31.
    """
    if not 0 <= bound <= MAX_BOUND:
        raise ValueError(f"bound {bound}: choose 0 to {MAX_BOUND}")
    table, stride = _baby_steps(), 2 * TABLE + 1
    giant = multiply_base(stride)
    down = up = point
    for step in range((bound + TABLE) // stride + 1):
        if step:
            down, up = subtract(down, giant), add(up, giant)
        for moved, at in ((down, step * stride), (up, -step * stride)):
            found = _look_up(table, moved)
            if found is not None and abs(at + found) <= bound:
                return at + found
    return None


def _look_up(table: dict[bytes, tuple[int, int]], point: bytes) -> int | None:
    sign = point[31] >> 7
    found = table.get(_unsigned(point))
    if found is None:
        return None
    number, own = found
    return number if sign == own else -number


def _unsigned(point: bytes) -> bytes:
    return point[:31] + bytes([point[31] & 0x7F])


@cache
def _baby_steps() -> dict[bytes, tuple[int, int]]:
    """Return y -> (j, sign of j g)."""
    points = [IDENTITY, *(multiply_base(number) for number in range(1, TABLE + 1))]
    return {_unsigned(point): (number, point[31] >> 7) for number, point in enumerate(points)}
