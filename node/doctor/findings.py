"""Findings: what a look at a node and its machine came to, each with what to type next.

    ok        as it should be
    note      worth knowing; nothing has to be done
    fix       something does not work, or soon will not; `fix` says what to type or do
    unasked   only peers could tell, and none answered

The exit code of `shoal doctor` follows: 1 where something is to be fixed, else 2 where nobody could be asked,
else 0.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

Level = Literal["ok", "note", "fix", "unasked"]
FIX: Final = 1
UNASKED: Final = 2


class Finding(msgspec.Struct, frozen=True):
    """One look at one thing."""

    check: str
    """What was looked at, in a word."""
    level: Level
    text: str
    """What was found, in one line."""
    fix: str = ""
    """What to type or do next; empty where there is nothing."""


def finding_of(check: str, level: Level, text: str, otherwise: str = "") -> Finding:
    """Return a finding of a text that says after a semicolon what to do; `otherwise`: where it does not."""
    said, _, fix = text.partition("; ")
    return Finding(check, level, said, fix or otherwise)


def exit_code(findings: Iterable[Finding]) -> int:
    """Return what the command ends with: see the module's docstring."""
    levels = {finding.level for finding in findings}
    if "fix" in levels:
        return FIX
    return UNASKED if "unasked" in levels else 0


def closing(findings: Sequence[Finding], next_command: str) -> str:
    """Return the last line: how many things are to be fixed, or what to type now."""
    to_fix = [finding for finding in findings if finding.level == "fix"]
    if to_fix:
        things = "1 thing" if len(to_fix) == 1 else f"{len(to_fix)} things"
        return f"{things} to fix; begin with {to_fix[0].check}: {to_fix[0].fix}"
    if exit_code(findings) == UNASKED:
        return "nobody could be asked; all that this machine can tell by itself is in order"
    return f"nothing to fix; {next_command}"
