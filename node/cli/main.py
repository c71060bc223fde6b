"""The command line: arguments to calls, results to text, errors to one line and an exit code.

Commands stand in ``cli_*.py`` by subject; what costs time to import is imported where it is used, so that
`shoal id` answers at once. Only these files print.

Exit codes: 0 done, 1 it did not work, 2 it was asked wrongly, 130 Ctrl-C.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from shoal.methods.errors import MethodsError
from shoal.node.cli.admission.edicts import admit, ban, cosign, edict_app, pardon
from shoal.node.cli.admission.founding import found
from shoal.node.cli.admission.inviting import invite
from shoal.node.cli.admission.members import members
from shoal.node.cli.common import RUNNING, SETUP, TRAINING, WHO, show_any_character, show_version
from shoal.node.cli.export import model_export
from shoal.node.cli.forget import forget_app
from shoal.node.cli.history import history, track
from shoal.node.cli.metrics import metrics_app
from shoal.node.cli.network_key import key_app
from shoal.node.cli.node import bootstrap_app, id_, init, stop
from shoal.node.cli.operation.pause import pause, resume
from shoal.node.cli.operation.top import top
from shoal.node.cli.runs import runs
from shoal.node.cli.show import config_app, peers, status
from shoal.node.cli.start import start
from shoal.node.cli.tools import methods_app, model_app, task_app, version
from shoal.node.cli.trust import trust_app
from shoal.node.errors import UserError
from shoal.node.text import printable

LAZY: Final = {
    "doctor": (RUNNING, "shoal.node.cli.operation.doctor", "Say what does not work here, and what to type."),
    "service": (RUNNING, "shoal.node.cli.operation.service", "A node that starts with its user or machine."),
    "testnet": (TRAINING, "shoal.node.testnet.cli", "A swarm of node processes on this machine."),
}
"""Commands and groups that are loaded when used: name -> panel, module with an `app`, help."""

_EPILOG: Final = "A second device joins with the line that shoal start prints. Every command takes --help."


class _Commands(TyperGroup):
    """The commands, some of which are loaded when used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """See `typer.core.TyperGroup`."""
        return [*super().list_commands(ctx), *LAZY]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """See `typer.core.TyperGroup`."""
        return _Later(cmd_name) if cmd_name in LAZY else super().get_command(ctx, cmd_name)


class _Later(TyperCommand):
    """Stands for a command or group in the list, and loads it when it is called."""

    def __init__(self, name: str) -> None:
        panel, module, text = LAZY[name]
        super().__init__(name, help=text, rich_help_panel=panel)
        self._module = module

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """See `typer.core.TyperCommand`."""
        group = typer.main.get_command(importlib.import_module(self._module).app)
        return group.make_context(*args, **kwargs)


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
    except (typer.TyperException, typer.Abort, UserError, MethodsError, BaseExceptionGroup) as error:
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
        case typer.TyperException():
            if not error.format_message():  # the help has been shown in its place
                return error.exit_code
            text = f"{error.format_message().rstrip('.')}. See: {_path_of(error)} --help"
            code = error.exit_code
        case UserError():
            text, code = str(error), error.exit_code
        case MethodsError():
            text, code = str(error), 2
        case _:
            return None
    print(f"error: {printable(' '.join(text.split()))}", file=sys.stderr)
    return code


def _path_of(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return str(context.command_path) if context is not None else "shoal"


_COMMANDS: Final[tuple[tuple[str, str, Callable[..., None]], ...]] = (
    (RUNNING, "start", start),
    (RUNNING, "stop", stop),
    (RUNNING, "pause", pause),
    (RUNNING, "resume", resume),
    (RUNNING, "status", status),
    (RUNNING, "peers", peers),
    (RUNNING, "runs", runs),
    (RUNNING, "top", top),
    (RUNNING, "history", history),
    (RUNNING, "track", track),
    (WHO, "found", found),
    (WHO, "invite", invite),
    (WHO, "admit", admit),
    (WHO, "ban", ban),
    (WHO, "pardon", pardon),
    (WHO, "cosign", cosign),
    (WHO, "members", members),
    (SETUP, "init", init),
    (SETUP, "id", id_),
    (SETUP, "version", version),
)
for panel, name, command in _COMMANDS:
    app.command(name, rich_help_panel=panel)(command)
model_app.command("export")(model_export)
app.add_typer(bootstrap_app, name="bootstrap", rich_help_panel=RUNNING)
app.add_typer(metrics_app, name="metrics", rich_help_panel=RUNNING)
app.add_typer(trust_app, name="trust", rich_help_panel=RUNNING)
app.add_typer(forget_app, name="forget", rich_help_panel=RUNNING)
app.add_typer(edict_app, name="edict", rich_help_panel=WHO)
app.add_typer(key_app, name="key", rich_help_panel=WHO)
app.add_typer(config_app, name="config", rich_help_panel=SETUP)
app.add_typer(methods_app, name="methods", rich_help_panel=TRAINING)
app.add_typer(task_app, name="task", rich_help_panel=TRAINING)
app.add_typer(model_app, name="model", rich_help_panel=TRAINING)
