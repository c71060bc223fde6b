"""Scenario files: a plan in TOML, for real processes (`shoal testnet up --scenario FILE`) and simulated ones.

    about = "A node is killed every 15 s; the others lose no round."
    nodes = 6
    seconds = 600

    [link]
    latency = "80ms"

    [[faults]]
    kind = "kill"
    at = 10
    every = 15

    [holds]
    lost_rounds = 0

The keys are those of `Plan` (node/testnet/plan.py) and of the structs in it; unknown ones are refused.
Durations, shares and rates may be written with their unit.
"""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from shoal.node.testnet.faults import BadQuantity, quantity
from shoal.node.testnet.plan import BadPlan, Plan, check_alpha

_QUANTITIES: Final[dict[str, Literal["seconds", "share", "mbit"]]] = {
    "latency": "seconds",
    "jitter": "seconds",
    "loss": "share",
    "bandwidth_mbit": "mbit",
}


def load(path: Path, **changes: object) -> Plan:
    """Read a scenario; `changes` take the place of what the file says.

    Raises:
        BadPlan: the file cannot be read, is no TOML, or says what a plan cannot.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise BadPlan(f"cannot read {path}: {error.strerror}; see what is there with: ls scenarios") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadPlan(f"{path} is no TOML: {error}") from None
    try:
        plan = plan_of(_with_numbers(document) | changes)
        if "alpha" in document:
            check_alpha(plan)
        return plan
    except BadQuantity as error:
        raise BadPlan(f"{path}: {error}") from None
    except BadPlan as error:
        raise BadPlan(f"{path}: {error}") from None


def plan_of(values: object, name: Callable[[str], str] = str) -> Plan:
    """Return the plan of plain values; `name` says how a wrong one is called.

    Raises:
        BadPlan: a value is unknown, of the wrong type or out of range.
    """
    try:
        return msgspec.convert(values, Plan)
    except msgspec.ValidationError as error:
        text, _, where = str(error).replace("`", "").partition(" - at $.")
        raise BadPlan(f"{name(where)}: {text[:1].lower()}{text[1:]}".removeprefix(": ")) from None


def _with_numbers(value: Any, key: str = "") -> Any:
    """Turn texts such as 80ms into numbers where a number is meant."""
    if isinstance(value, dict):
        return {name: _with_numbers(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_numbers(each) for each in value]
    if isinstance(value, str) and key in _QUANTITIES:
        return quantity(value, _QUANTITIES[key])
    return value
