"""`shoal doctor`: what does not work here, or soon will not, each in one line that says what to type."""

import os
from pathlib import Path
from typing import Annotated

import typer

from shoal.node.cli.common import HomeOption, JsonOption, console, home_of, print_json, row, table
from shoal.node.doctor.bundle import write_bundle
from shoal.node.doctor.findings import Finding, closing, exit_code
from shoal.node.doctor.line import Line, line_of
from shoal.node.doctor.look import Seen, examine, look, params_of, speed
from shoal.node.text import duration, printable, size

_WORDS = {"ok": "ok", "note": "note", "fix": "FIX", "unasked": "?"}
_STYLES = {"ok": "green", "note": "dim", "fix": "bold red", "unasked": "yellow"}


def doctor(
    home: HomeOption = None,
    json: JsonOption = False,
    line: Annotated[
        bool, typer.Option("--line", help="Say what a round takes on your line with each codec.")
    ] = False,
    mbit: Annotated[
        float | None, typer.Option("--mbit", help="What the line carries up.", min=0.001, show_default=False)
    ] = None,
    parameters: Annotated[
        int, typer.Option("--parameters", help="Of the model, if not of the last run.", min=0)
    ] = 0,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            help="Write logs, status and settings into a new .tar.gz for whoever helps; no key is in it.",
            show_default=False,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Look at this machine and its node, and say what to type where something does not work.

    Ends with 0 where nothing is to be fixed, 1 where something is, 2 where no peer could be asked.
    """
    seen = look(home_of(home))
    wants_line = line or mbit is not None or parameters > 0
    findings = examine(seen, mbit=(mbit or 0.0) if wants_line else None, numel=parameters)
    figures = _line(seen, mbit or 0.0, parameters) if wants_line else None
    written: list[str] = []
    if bundle is not None:
        written = write_bundle(bundle, seen.home, findings, seen.status, os.environ)
    if json:
        print_json(
            {
                "findings": findings,
                "line": figures,
                "bundle": None if bundle is None else {"path": str(bundle), "files": written},
                "exit_code": exit_code(findings),
            }
        )
    else:
        _print(findings, figures, _next_command(seen))
        if bundle is not None:
            print(f"{bundle} holds {', '.join(written)}. No key or invite is in it; addresses of peers are.")
    raise typer.Exit(exit_code(findings))


def _line(seen: Seen, mbit: float, parameters: int) -> Line | None:
    rate, origin = speed(seen, mbit)
    numel = params_of(seen, parameters)
    if not (rate and numel):
        return None
    return line_of(seen.spec or seen.config.run, seen.method, numel, rate, origin)


def _next_command(seen: Seen) -> str:
    if seen.status is None:
        return "start the node with: shoal start"
    return f"others join with: {seen.status.join_command}" if seen.status.join_command else "the node runs"


def _print(findings: list[Finding], line: Line | None, next_command: str) -> None:
    from rich.text import Text

    made = table("", "check", "found")
    for finding in findings:
        fix = f"\n-> {finding.fix}" if finding.fix else ""
        found = Text(printable(finding.text) + ("\n-> " + printable(finding.fix) if fix else ""))
        row(made, Text(_WORDS[finding.level], style=_STYLES[finding.level]), finding.check, found)
    console().print(made)
    if line is not None:
        codecs = table("codec", "sends", "takes", "", numbers=("sends", "takes"))
        for each in line.rows:
            used = "of this run" if each.is_used else ""
            row(codecs, each.codec, size(each.bytes_sent), duration(each.seconds), used)
        console().print(codecs)
    print(printable(closing(findings, next_command)))
