"""The command `shoal found`: founders' keys, a charter, and this node on the roster."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from shoal.crypto.keys import new_key, peer_id_of, public_key_of
from shoal.gossip.admission.charter import MAX_DELEGATES, MAX_FOUNDERS, Charter
from shoal.gossip.admission.errors import AdmissionError
from shoal.gossip.admission.roster import Roster
from shoal.node.cli.admission.common import keep
from shoal.node.cli.admission.edicts import edict_by
from shoal.node.cli.common import HomeOption, JsonOption, home_flag, home_of, print_json
from shoal.node.config.settings import load
from shoal.node.errors import BadConfig, BadHome


def found(
    home: HomeOption = None,
    mode: Annotated[
        Literal["closed", "invite", "open"],
        typer.Option(
            "--mode", help="closed: whom founders admit. invite: and whom members invite. open: all."
        ),
    ] = "invite",
    founders: Annotated[
        int, typer.Option("--founders", min=1, max=MAX_FOUNDERS, help="Keys to make, one per founder.")
    ] = 1,
    threshold: Annotated[
        int, typer.Option("--threshold", min=1, max=MAX_FOUNDERS, help="How many of them must sign.")
    ] = 1,
    delegates: Annotated[
        int,
        typer.Option("--delegates", min=0, max=MAX_DELEGATES, help="How far invites may be passed on."),
    ] = 1,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the founders' keys.", file_okay=False)
    ] = Path(),
    admit_me: Annotated[
        bool, typer.Option("--admit-me/--no-admit-me", help="Put this node on the roster at once.")
    ] = True,
    json: JsonOption = False,
) -> None:
    """Begin a run that has a door: make founders' keys and a charter, and set it for this node."""
    from shoal.node.config.toml_file import change_setting
    from shoal.node.storage.files import write_whole

    place = home_of(home)
    config, origins = load(place.path, {}, os.environ)
    if config.run.charter and origins["run.charter"] != "default":
        raise BadHome(
            f"{place.path} has a charter already; take run.charter out of {place.config_file}, or choose"
            " another --home"
        )
    keys = sorted((new_key() for _ in range(founders)), key=lambda each: bytes(each.verify_key))
    try:
        charter = Charter(
            mode=mode,
            founders=tuple(bytes(key.verify_key) for key in keys),
            threshold=threshold,
            delegates=delegates,
        )
    except AdmissionError as error:
        raise BadConfig(str(error)) from None
    files = [out / f"founder-{number}.key" for number in range(1, founders + 1)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for key, path in zip(keys, files, strict=True):
            write_whole(path, f"{bytes(key).hex()}\n".encode(), may_replace=False)
    except FileExistsError:
        raise BadHome(f"{path} exists: it may govern a run; choose another folder with --out") from None
    except OSError as error:
        raise BadHome(f"cannot write to {out}: {error.strerror}; choose another folder with --out") from None
    place.create()
    me = peer_id_of(bytes(place.load_or_create_key().verify_key))
    change_setting(place.config_file, "run", "charter", str(charter))
    if admit_me:
        roster = Roster(charter)
        roster.add_edict(edict_by(roster, "admit", public_key_of(me), keys=keys))
        keep(place, roster)
    if json:
        print_json(
            {"charter": str(charter), "keys": list(map(str, files)), "peer_id": me, "admitted": admit_me}
        )
        return
    print(f"charter: {charter}")
    print(f"It is set in {place.config_file}: every node of the run needs it, and an invite brings it along.")
    print(f"founders' keys: {', '.join(map(str, files))}")
    print("Keep them away from this machine, on paper or a stick each; who has them decides who takes part.")
    if admit_me:
        print(f"This node is on the roster. Start it with: shoal start{home_flag(place)} --task ...")
    if mode == "invite":
        print(f"While it runs, let others in with: shoal invite{home_flag(place)}")
    else:
        print(f"Let others in with: shoal admit PEER_ID --sign {files[0]}{home_flag(place)}")
