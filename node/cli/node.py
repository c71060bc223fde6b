"""Commands that make a node, name it, and end it."""

from typing import Annotated

import typer

from shoal.node.cli.common import HomeOption, JsonOption, home_flag, home_of, print_json
from shoal.node.config.profiles import ABOUT, Profile
from shoal.node.errors import BadConfig, BadHome
from shoal.node.storage.home import Home


def init(
    home: HomeOption = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Make a new key in the place of the old one. Peers will see a stranger."
        ),
    ] = False,
    profile: Annotated[
        Profile | None,
        typer.Option(
            "--profile",
            help="Settings for where the node is: " + "; ".join(f"{k}: {v}" for k, v in ABOUT.items()) + ".",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a new key and a commented config.toml."""
    place = home_of(home)
    if profile is not None and place.config_file.exists():
        raise BadConfig(f"{place.config_file} exists; --profile is for a new one: move it away, or change it")
    if force and place.is_running():
        raise BadHome(
            f"a node runs in {place.path} with the key; stop it first with: shoal stop{home_flag(place)}"
        )
    wrote_settings = write_settings(place, profile)
    if force or not (wrote_settings and place.key_file.exists()):
        place.create_key(force=force)
    peer = place.peer_id()
    if json:
        print_json({"peer_id": peer, "home": str(place.path), "config": str(place.config_file)})
        return
    print(f"This node is {peer}")
    print(f"Settings are in {place.config_file}")
    print(f"Start it with: shoal start{home_flag(place)}")


def write_settings(home: Home, profile: Profile | None = None) -> bool:
    """Write the commented config.toml where there is none; tells whether it did.

    Raises:
        BadHome: it cannot be written.
    """
    from shoal.node.config.toml_file import default_text
    from shoal.node.storage.files import write_whole

    home.create()
    if home.config_file.exists():
        return False
    try:
        write_whole(home.config_file, default_text(profile).encode())
    except OSError as error:
        raise BadHome(
            f"cannot write {home.config_file}: {error.strerror}; make room or choose another --home"
        ) from None
    return True


def id_(home: HomeOption = None, json: JsonOption = False) -> None:
    """Print who this node is: its libp2p peer id."""
    place = home_of(home)
    peer = place.peer_id()
    if json:
        print_json({"peer_id": peer, "home": str(place.path)})
    else:
        print(peer)


def stop(home: HomeOption = None, json: JsonOption = False) -> None:
    """Let the running node take leave of its peers, and wait until it has ended."""
    from shoal.node.web import client

    place = home_of(home)
    client.stop(place.path)
    if json:
        print_json({"stopped": True, "home": str(place.path)})
    else:
        print("stopped")
