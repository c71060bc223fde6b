"""Commands about whom a node goes by."""

import typer

from shoal.node.cli.common import HomeOption, JsonOption, home_of, print_json
from shoal.node.errors import BadHome, NotRunning

trust_app = typer.Typer(
    no_args_is_help=True, help="Whom this node goes by where peers hold different states."
)


@trust_app.command("reset")
def reset(home: HomeOption = None, json: JsonOption = False) -> None:
    """Forget colleagues, and take the next state from the nodes you named, or from the most.

    For a node that was away so long that it refuses its swarm's state, or whose colleagues are all gone.
    """
    from shoal.node.storage.run_trust import forget_trust
    from shoal.node.web import client

    place = home_of(home)
    told = True
    try:
        client.reset_trust(place.path)
    except NotRunning:
        told = False
        try:
            forget_trust(place.state_dir)
        except OSError as error:
            raise BadHome(f"cannot write {place.state_dir}: {error.strerror}; make it writable") from None
    if json:
        print_json({"running_node_told": told, "home": str(place.path)})
    else:
        print("forgotten (the running node was told)" if told else "forgotten; no node runs")
