"""shoal forget --retrain: an earlier state of the run, without a peer's data, and how all go on from it."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from shoal.node.cli.common import home_flag
from shoal.node.config.run_flags import run_words
from shoal.node.errors import BadConfig

if TYPE_CHECKING:
    from shoal.crypto.keys import PeerId
    from shoal.gossip.run_spec import RunSpec
    from shoal.node.retraining.round_records import Past, RoundRecord
    from shoal.node.storage.checkpoint import Checkpoint
    from shoal.node.storage.home import Home

ME: Final = "me"
"""How a user names this node itself."""
KEPT_ALL: Final = (
    "What was saved of the run before, here and on other nodes, still has its data: remove it from state/"
    " when the new run is as you want it, and ask the others to."
)


def retrain(place: "Home", whom: str, out: Path) -> str:
    """Write the last kept state without a peer's data as a file, and return what to do with it.

    Raises:
        BadConfig: there is none; the message says what to type instead.
    """
    from shoal.node.retraining.start_file import origin_of, write_start

    run, spec, records = _run_of(place)
    peer = _peer_of(place, whom, records)
    first = min((record.round for record in records if peer in record.members), default=None)
    if first is None:
        raise BadConfig(
            f"by the records of this node {peer} was in no round of run {spec.name}, so there is nothing to"
            f" go back from{_no_gap(records)}"
        )
    found = _last_without(place, run, records, peer)
    if found is None:
        raise BadConfig(f"{peer} is in run {spec.name} since round {first}. {_anew(spec, peer)}")
    path, checkpoint, past = found
    file = out / f"{spec.name}-round{checkpoint.round}-without-{peer[-8:]}.safetensors"
    key = place.load_key()
    write_start(
        file,
        key,
        path,
        origin_of(key, checkpoint, name=spec.name, without=peer, first=first, members=past.members),
    )
    return _told(place, spec, peer, first, checkpoint.round, file)


def _run_of(place: "Home") -> "tuple[bytes, RunSpec, list[RoundRecord]]":
    """Return the run that was trained last here, and the records of its rounds, whose signatures hold."""
    from shoal.node.retraining.round_records import checked
    from shoal.node.storage.database import Store
    from shoal.node.storage.model_file import NoModel, newest

    if not place.database.exists():
        raise BadConfig("this node has trained nothing yet, so there is nothing to train anew")
    store = Store(place.database)
    try:
        checkpoint, spec = newest(place.state_dir, store)
        records, bad = checked(
            place.peer_id(), checkpoint.run_id.hex(), store.records(checkpoint.run_id.hex())
        )
    except NoModel as error:
        raise BadConfig(str(error)) from None
    finally:
        store.close()
    if not records:
        altered = f" ({bad} were altered, or are not of this node's key)" if bad else ""
        raise BadConfig(
            f"this node has no signed records of rounds of run {spec.name}{altered}: they are kept from the"
            " start on with shoal start --keep-states 16. Ask a node that keeps them for its file,"
            " or train anew: start all nodes that stay with --run NAME-anew, and the flags of before"
        )
    return checkpoint.run_id, spec, records


def _peer_of(place: "Home", whom: str, records: "list[RoundRecord]") -> "PeerId":
    """Return whom a user means: a peer id or its end, or `me`."""
    from shoal.crypto.keys import PeerId

    if whom == ME:
        return place.peer_id()
    known = {peer for record in records for peer in record.members}
    meant = sorted(peer for peer in known if peer.endswith(whom)) or [whom]
    if len(meant) > 1:
        raise BadConfig(f"--retrain {whom}: {len(meant)} peers end so; write more of the id")
    return PeerId(meant[0])


def _last_without(
    place: "Home", run: bytes, records: "list[RoundRecord]", peer: "PeerId"
) -> "tuple[Path, Checkpoint, Past] | None":
    """Return the latest kept state that the peer's data is not in, if its numbers are what was hashed."""
    from shoal.node.retraining.kept_states import kept
    from shoal.node.retraining.round_records import by_place, past_of
    from shoal.node.retraining.start_file import read_kept

    places = by_place(records)
    for round_, path in sorted(kept(place.state_dir, run).items(), reverse=True):
        checkpoint = read_kept(path, run) if round_ else None
        if checkpoint is None:
            continue
        past = past_of(places, checkpoint.round, checkpoint.state_hash.hex())
        if not past.gap and peer not in past.members:
            return path, checkpoint, past
    return None


def _no_gap(records: "list[RoundRecord]") -> str:
    """Say where the records do not tell all."""
    from shoal.node.retraining.round_records import by_place, past_of

    last = records[-1]
    past = past_of(by_place(records), last.round + 1, last.after)
    return f"; but they do not tell all: {past.gap}. Ask another node for its file" if past.gap else ""


def _anew(spec: "RunSpec", peer: str) -> str:
    command = shlex.join(["shoal", "start", "--task", spec.task, "--run", f"{spec.name}-anew"])
    return (
        f"No state from before is kept here whose records lead to the beginning without it. Ask another node"
        f" that keeps states: shoal forget --retrain {peer}. Or train anew from the model that the run began"
        f" with, on all nodes that stay: {command} and the flags of before"
    )


def _told(place: "Home", spec: "RunSpec", peer: str, first: int, round_: int, file: Path) -> str:
    """Return what was found, and the command that this node and all others type."""
    from shoal.gossip.run_spec import RunSettings
    from shoal.node.storage.home import typed

    words = run_words(msgspec.convert(_settings(spec), RunSettings))
    command = shlex.join(["shoal", "start", *words])
    stays = (
        f"Founders keep it out of the run: shoal ban {peer} --sign FOUNDER.key"
        if spec.charter
        else f"The run is open, so {peer} may join again: keep the new run's name from it, or found a closed"
        " run: shoal found --mode closed"
    )
    return "\n".join(
        [
            f"{peer} is in run {spec.name} since round {first}. The state of round {round_} is without its"
            " data, by this node's signed records of all rounds before it.",
            f"Written to {file}, with this node's signature. Give the file to all that stay.",
            "",
            f"Stop the node, and on each of them type (here with{home_flag(place) or ' the same --home'}):",
            f"  {command} --from {typed(file)}",
            "and what each has of its own, such as --join and --task-option.",
            "",
            f"Rounds {round_} to now are trained again. {stays}.",
            KEPT_ALL,
        ]
    )


def _settings(spec: "RunSpec") -> dict[str, object]:
    """Return a run's settings under the new name, without the options that are the method's defaults."""
    from shoal.gossip.run_spec import RunSettings
    from shoal.methods.registry import all_options, load_method

    usual = all_options(load_method(spec.method, {}))
    options = {key: value for key, value in spec.options.items() if usual.get(key) != value}
    found = {name: getattr(spec, name) for name in RunSettings.__struct_fields__}
    return found | {"options": options, "name": f"{spec.name}-anew"}
