"""The command line: arguments to calls, results to text, errors to one line and an exit code.

Commands stand in the modules of this package by subject. `COMMANDS` names each with its line in the help, so
that a command loads its own module alone, and the help none: `shoal id` answers at once. What costs time to
import is imported where it is used. Only this package prints.

Exit codes: 0 done, 1 it did not work, 2 it was asked wrongly, 130 Ctrl-C.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from shoal.methods.errors import MethodsError
from shoal.node.cli.common import RUNNING, SETUP, TRAINING, WHO, show_any_character, show_version
from shoal.node.errors import UserError
from shoal.node.text import printable


def error_of(typer_: Any) -> Any:
    """Return the class of typer's errors about what was typed; versions below 0.26 raise click's."""
    found = getattr(typer_, "TyperException", None)
    return found or importlib.import_module("click").ClickException


TypedWrongly: Final = error_of(typer)


class Entry(NamedTuple):
    """A command, or a group of them, in the list of the help."""

    panel: str
    place: str
    """``module:name`` of the function or of the `typer.Typer`."""
    help: str
    """What the help of the command itself begins with."""


COMMANDS: Final = {
    "start": Entry(
        RUNNING,
        "shoal.node.cli.start:start",
        "Run a node until Ctrl-C or shoal stop. Key and settings are made where they are missing.",
    ),
    "stop": Entry(
        RUNNING,
        "shoal.node.cli.node:stop",
        "Let the running node take leave of its peers, and wait until it has ended.",
    ),
    "pause": Entry(
        RUNNING,
        "shoal.node.cli.operation.pause:pause",
        "Train no more for a while; the node goes on helping others, and nobody's round waits for it.",
    ),
    "resume": Entry(
        RUNNING,
        "shoal.node.cli.operation.pause:resume",
        "End a pause; hours and battery, where the settings name them, still count.",
    ),
    "status": Entry(RUNNING, "shoal.node.cli.show:status", "Show what the running node does."),
    "peers": Entry(RUNNING, "shoal.node.cli.show:peers", "Show the peers the running node knows."),
    "runs": Entry(
        RUNNING,
        "shoal.node.cli.runs:runs",
        "Show the runs in the swarm: what they train, by which method, how many peers, and who may join.",
    ),
    "top": Entry(
        RUNNING,
        "shoal.node.cli.operation.top:top",
        "Show the node and its swarm as they are now, over the whole terminal: peers, rounds, events.",
    ),
    "history": Entry(
        RUNNING,
        "shoal.node.cli.history:history",
        "Show the rounds that this node has ended, whether it runs or not.",
    ),
    "track": Entry(
        RUNNING,
        "shoal.node.cli.history:track",
        "Hand the rounds of a node on to a tracker as they end; a second start goes on where it stopped.",
    ),
    "bootstrap": Entry(
        RUNNING,
        "shoal.node.cli.bootstrap:bootstrap_app",
        "Addresses this node dials; none is needed once it has peers.",
    ),
    "metrics": Entry(RUNNING, "shoal.node.cli.metrics:metrics_app", "What Prometheus reads of a node."),
    "trust": Entry(
        RUNNING,
        "shoal.node.cli.operation.trust:trust_app",
        "Whom this node goes by where peers hold different states.",
    ),
    "forget": Entry(
        RUNNING,
        "shoal.node.cli.forget:forget_app",
        "Take back what this node taught the model; no other node is told.",
    ),
    "doctor": Entry(
        RUNNING,
        "shoal.node.cli.operation.doctor:doctor",
        "Look at this machine and its node, and say what to type where something does not work.",
    ),
    "service": Entry(
        RUNNING,
        "shoal.node.cli.operation.service:app",
        "A node that starts with its user, or with the machine, and is started again when it fails.",
    ),
    "found": Entry(
        WHO,
        "shoal.node.cli.admission.founding:found",
        "Begin a run that has a door: make founders' keys and a charter, and set it for this node.",
    ),
    "invite": Entry(
        WHO,
        "shoal.node.cli.admission.inviting:invite",
        "Print one word with which another node joins the run of this one: shoal start --invite WORD.",
    ),
    "admit": Entry(
        WHO, "shoal.node.cli.admission.edicts:admit", "Put a node on the roster, with the key of a founder."
    ),
    "ban": Entry(
        WHO,
        "shoal.node.cli.admission.edicts:ban",
        "Keep a node out: of the run with a founder's key, else only away from this node.",
    ),
    "pardon": Entry(
        WHO,
        "shoal.node.cli.admission.edicts:pardon",
        "End a ban: of the founders with their keys, else that of this node.",
    ),
    "cosign": Entry(
        WHO,
        "shoal.node.cli.admission.edicts:cosign",
        "Add a founder's signature to an edict; it is put on the roster once enough have signed.",
    ),
    "members": Entry(
        WHO,
        "shoal.node.cli.admission.members:members",
        "Show who may take part in the run, and who is kept out.",
    ),
    "edict": Entry(
        WHO, "shoal.node.cli.admission.edicts:edict_app", "What founders have said of who takes part."
    ),
    "key": Entry(
        WHO,
        "shoal.node.cli.admission.network_key:key_app",
        "The key of a private network, which all its nodes share.",
    ),
    "init": Entry(SETUP, "shoal.node.cli.node:init", "Write a new key and a commented config.toml."),
    "id": Entry(SETUP, "shoal.node.cli.node:id_", "Print who this node is: its libp2p peer id."),
    "version": Entry(SETUP, "shoal.node.cli.tools:version", "Print the version, and what it runs on."),
    "completion": Entry(
        SETUP,
        "shoal.node.cli.operation.completion:completion",
        "Print the completion of a shell, to be read at its start.",
    ),
    "config": Entry(SETUP, "shoal.node.cli.config:config_app", "The settings."),
    "methods": Entry(TRAINING, "shoal.node.cli.tools:methods_app", "The training methods."),
    "task": Entry(TRAINING, "shoal.node.cli.tools:task_app", "What is learned."),
    "model": Entry(TRAINING, "shoal.node.cli.tools:model_app", "The model that was learned."),
    "testnet": Entry(
        TRAINING,
        "shoal.node.testnet.cli:app",
        "A swarm of real nodes on this machine: start it, watch it, shake it.",
    ),
}
"""Every command and group, in the order of the help."""

_EPILOG: Final = "A second device joins with the line that shoal start prints. Every command takes --help."


def load(name: str) -> Any:
    """Import a command or group of `COMMANDS`, and return it as click knows it."""
    module, _, attribute = COMMANDS[name].place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        parent = typer.Typer(rich_markup_mode=found.rich_markup_mode)
        parent.add_typer(found, name=name)
    else:
        parent = typer.Typer()
        parent.command(name)(found)
    return typer.main.get_group(parent).commands[name]


class _Later(TyperCommand):
    """Stands for a command or group in the list, and loads it when it is called."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name, help=entry.help, rich_help_panel=entry.panel)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """See `typer.core.TyperCommand`."""
        return load(str(self.name)).make_context(*args, **kwargs)


class _Commands(TyperGroup):
    """All commands, each loaded when it is used."""

    def __init__(self, **given: Any) -> None:
        super().__init__(
            **given | {"commands": {name: _Later(name, entry) for name, entry in COMMANDS.items()}}
        )


app = typer.Typer(
    name="shoal",
    cls=_Commands,
    no_args_is_help=True,
    epilog=_EPILOG,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train together with no one in charge: every node is a peer, none is needed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    show_any_character()
    try:
        code = app(args=arguments, prog_name="shoal", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader, such as head, has enough. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (TypedWrongly, typer.Abort, UserError, MethodsError, BaseExceptionGroup) as error:
        explained = None if "--debug" in arguments[:1] else _explain(error)
        if explained is None:
            raise
        return explained
    return code if isinstance(code, int) else 0


def _explain(error: BaseException) -> int | None:
    """Print what a person caused as one line; None where no person did: a bug is loud."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    match error:
        case typer.Abort():
            return 130
        case TypedWrongly():
            if not error.format_message():  # the help has been shown in its place
                return int(error.exit_code)
            text = f"{error.format_message().rstrip('.')}. See: {_path_of(error)} --help"
            code = int(error.exit_code)
        case UserError():
            text, code = str(error), error.exit_code
        case MethodsError():
            text, code = str(error), 2
        case _:
            return None
    print(f"error: {printable(' '.join(text.split()))}", file=sys.stderr)
    return code


def _path_of(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    return str(context.command_path) if context is not None else "shoal"
