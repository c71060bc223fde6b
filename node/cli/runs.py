"""shoal runs: which runs there are in the swarm, so that a newcomer sees what there is to join."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shoal.node.cli.common import HomeOption, JsonOption, console, home_of, print_json, row, table
from shoal.node.errors import NotRunning, Refused, UserError
from shoal.node.text import figure

if TYPE_CHECKING:
    from shoal.node.status import HeardRunStatus, Status

LOOKS: Final = 0.2
"""Seconds between two looks at a node that has just been started."""
HELPER: Final = ("--hidden", "--no-mdns", "--http-port", "0", "--quiet")


class NobodyThere(UserError):
    """No address led to a swarm."""


def runs(
    home: HomeOption = None,
    join: Annotated[
        list[str] | None,
        typer.Option("--join", help="Ask the swarm at this address, without a node of your own. Repeatable."),
    ] = None,
    swarm: Annotated[str, typer.Option("--swarm", help="Its name, with --join, where it has one.")] = "",
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, max=600, help="How long to wait for answers, with --join.")
    ] = 20.0,
    json: JsonOption = False,
) -> None:
    """Show the runs in the swarm: what they train, by which method, how many peers, and who may join.

    Peers say which run they are in, and a peer that is linked shows what it does. What is not known yet is -.
    """
    from shoal.node.web import client

    found = _asked(join, swarm, seconds) if join else client.fetch_status(home_of(home).path)
    if json:
        print_json(found.runs)
        return
    if not found.runs:
        print("no run is known yet: ask again when the node is linked, or begin one: shoal start --task TASK")
        return
    console().print(_table(found.runs))
    print(_how_to_join(found.runs, join[0] if join else ""))


def _table(found: "list[HeardRunStatus]") -> object:
    made = table(
        "run", "name", "task", "method", "peers", "round", "accuracy", "who may join", "id",
        numbers=("peers", "round", "accuracy"),
    )  # fmt: skip
    for each in found:
        of = f" of {each.rounds}" if each.rounds else ""
        accuracy = figure(each.accuracy) if each.accuracy is not None else "-"
        row(
            made, "ours" if each.ours else "", each.name, each.task or "-", each.method or "-",
            each.peers + each.ours, f"{each.round}{of}", accuracy, each.mode or "-", each.run_id,
        )  # fmt: skip
    return made


def _how_to_join(found: "list[HeardRunStatus]", address: str) -> str:
    """Say what to type next."""
    for each in found:
        if not each.ours and each.method and each.mode == "open":
            where = f"--join {address} " if address else ""
            return (
                f"to join one: shoal start {where}--task TASK --method METHOD --run NAME, with the same"
                " settings as its peers; shoal status on one of them prints the whole command"
            )
    return "a peer of a run prints the command that joins it: shoal status"


def _asked(join: list[str], swarm: str, seconds: float) -> "Status":
    """Link a helper to the swarm, and return what it has heard.

    Raises:
        NobodyThere: no address led to a peer in time.
    """
    from shoal.node.web import client

    end, found = time.monotonic() + seconds, None
    with _helper(join, swarm) as (process, place, log):
        while time.monotonic() < end and process.poll() is None:
            time.sleep(LOOKS)
            with suppress(NotRunning, Refused):
                found = client.fetch_status(place)
            linked = [run for run in found.runs if run.linked] if found is not None else []
            if found is not None and linked and all(run.method for run in linked):
                return found
        said = log.read_text(errors="replace").strip().splitlines() if process.poll() else []
    if found is not None and (found.runs or any(peer.link != "none" for peer in found.peers)):
        return found
    tried = found.bootstrap if found is not None else []
    why = [f"{each.address}: {each.reason or each.state}" for each in tried] or said[-1:]
    raise NobodyThere(
        f"nobody of a swarm answered in {seconds:g} s ({'; '.join(why) or 'the helper did not start'});"
        " see that the address is that of a running node: shoal status shows it there"
    )


@contextmanager
def _helper(join: list[str], swarm: str) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """Run a node without a task for as long as the block lasts; nothing of it stays."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-runs-"))
    log = folder / "log"
    named = ("--swarm", swarm) if swarm else ()
    addresses = [word for address in join for word in ("--join", address)]
    command = [sys.executable, "-P", "-m", "shoal.node", "start", "--home", str(folder / "node")]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SHOAL_")}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, *HELPER, *named, *addresses],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=kept,
            start_new_session=True,
        )
    try:
        yield process, folder / "node", log
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
