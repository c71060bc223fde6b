"""Commands about what a node forgets. They write to the node's own folder, and send nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shoal.node.cli.common import HomeOption, JsonOption, home_flag, home_of, print_json
from shoal.node.cli.retraining import retrain as retraining
from shoal.node.errors import BadConfig, NotRunning

if TYPE_CHECKING:
    from shoal.node.storage.forget_file import Forgotten
    from shoal.node.storage.home import Home

CAN_FORGET: Final = ("efu",)
"""Methods whose rounds look at a request."""

forget_app = typer.Typer(help="Take back what this node taught the model; no other node is told.")


@forget_app.callback(invoke_without_command=True)
def forget(
    context: typer.Context,
    classes: Annotated[
        str, typer.Option(help="Forget this node's examples of these labels, such as 8,9.")
    ] = "",
    peer_data: Annotated[bool, typer.Option("--peer-data", help="Forget all examples of this node.")] = False,
    trigger: Annotated[
        Path | None,
        typer.Option(help="Forget examples that carry a trigger: an .npz file with arrays mask and pattern."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Rounds that unlearn.")] = 4,
    retrain: Annotated[
        str,
        typer.Option(
            "--retrain",
            metavar="PEER",
            help="Exact: go back to the last kept state without this peer's data, or me. See --keep-states of"
            " shoal start.",
        ),
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder for the state that --retrain writes.")] = Path(),
    replace: Annotated[
        bool, typer.Option("--replace", help="Give up an earlier request and its notes.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Unlearn in the next rounds, inside the ordinary updates of this node. Its run needs --method efu."""
    if context.invoked_subcommand is not None:
        return
    from shoal.methods.learning.forgetting import Request
    from shoal.node.storage.forget_file import ForgetFile
    from shoal.node.storage.forget_report import wish

    place = home_of(home)
    if retrain:
        print(retraining(place, retrain, out))
        return
    places, values = _trigger(trigger)
    labels = _labels(classes)
    if not (labels or peer_data or places):
        raise BadConfig("say what to forget: --classes 8,9, --peer-data or --trigger FILE")
    runs = _method_of(place)
    if runs is not None and runs not in CAN_FORGET:
        raise BadConfig(f"this node runs method {runs}, which cannot forget; start a run with --method efu")
    file = ForgetFile(place.state_dir)
    before = file.read()
    if before is not None and not replace:
        raise BadConfig(
            f"this node already forgets {wish(before.request)} ({before.unlearned} of {before.request.rounds}"
            " rounds); give --replace to ask for this in its place"
        )
    request = Request(classes=labels, peer_data=peer_data, places=places, values=values, rounds=rounds)
    file.ask(request)
    print(f"asked to forget {wish(request)} in {rounds} rounds; no other node is told")
    if runs is None:
        print("no node runs here now: it begins when one does, with --method efu")
    print(f"see what came of it with: shoal forget report{home_flag(place)}")


@forget_app.command("report")
def report(
    out: Annotated[Path, typer.Option(help="Folder for forget-report.json and .txt.")] = Path(),
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Write what came of it, signed by this node: accuracies, rounds, hashes, and what is not promised."""
    from shoal.node.storage.files import write_whole
    from shoal.node.storage.forget_file import ForgetFile
    from shoal.node.storage.forget_report import check, sign, text_of

    place = home_of(home)
    found = ForgetFile(place.state_dir).read()
    if found is None:
        raise BadConfig("this node was not asked to forget anything; see: shoal forget --help")
    data = sign(place.load_key(), found, _run_of(place, found))
    document = check(data)
    try:
        write_whole(out / "forget-report.json", data)
        write_whole(out / "forget-report.txt", (text_of(document) + "\n").encode())
    except OSError as error:
        raise BadConfig(f"cannot write into {out}: {error.strerror}; choose another --out") from None
    if json:
        print_json(document)
    else:
        print(text_of(document))
        print(f"\nwritten to {out / 'forget-report.json'} (signed) and .txt")


@forget_app.command("check")
def check_report(
    file: Annotated[Path, typer.Argument(help="A forget-report.json.")], json: JsonOption = False
) -> None:
    """Check the signature of a report, and show it."""
    from shoal.node.storage.forget_report import check, text_of

    try:
        document = check(file.read_bytes())
    except OSError as error:
        raise BadConfig(f"cannot read {file}: {error.strerror}; name a forget-report.json") from None
    if json:
        print_json(document)
    else:
        print(text_of(document))


@forget_app.command("withdraw")
def withdraw(home: HomeOption = None) -> None:
    """Forget nothing any more: the node trains on all its examples again. What was unlearned stays so."""
    from shoal.node.storage.forget_file import ForgetFile

    ForgetFile(home_of(home).state_dir).withdraw()
    print("withdrawn; from the next round on this node trains on all its examples")


def _run_of(place: "Home", found: "Forgotten") -> str:
    """Return the run in which the noted rounds were, its name and id; empty where none is known to be."""
    from shoal.node.storage.database import MAX_ROUNDS, Store
    from shoal.node.storage.model_file import NoModel, newest

    if not found.notes or not place.database.exists():
        return ""
    store = Store(place.database)
    try:
        checkpoint, spec = newest(place.state_dir, store)
        known = {each.state_hash for each in store.rounds(checkpoint.run_id.hex(), limit=MAX_ROUNDS)}
    except NoModel:
        return ""
    finally:
        store.close()
    is_of_it = any(note.state_after[:12] in known for note in found.notes)
    return f"{spec.name}, {checkpoint.run_id.hex()}" if is_of_it else ""


def _method_of(place: "Home") -> str | None:
    """Return the method that runs here; None where no node does."""
    from shoal.node.web import client

    try:
        status = client.fetch_status(place.path)
    except NotRunning:
        return None
    return status.run.method if status.run is not None else None


def _labels(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise BadConfig(f"--classes {text}: write labels as numbers, such as 8,9")
    return tuple(sorted({int(part) for part in parts}))


def _trigger(path: Path | None) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the places of a trigger in a flattened input, and its values there."""
    if path is None:
        return (), ()
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            mask, pattern = file["mask"].astype(bool).reshape(-1), file["pattern"].astype(float).reshape(-1)
            places = np.flatnonzero(mask)
            return tuple(places.tolist()), tuple(pattern[places].tolist())
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise BadConfig(
            f"--trigger {path}: no .npz file with arrays mask and pattern of an input's shape ({error})"
        ) from None
