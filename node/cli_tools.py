"""Commands around training: methods, a task of one's own, the version."""

import keyword
import platform
from pathlib import Path
from typing import Annotated, Final

import typer

from node.cli_common import JsonOption, console, our_version, print_json, printable, row, size, table
from node.errors import BadConfig

methods_app = typer.Typer(invoke_without_command=True, help="The training methods.")
task_app = typer.Typer(no_args_is_help=True, help="What is learned.")

_TEMPLATE: Final = Path(__file__).with_name("templates") / "task.py.txt"


@methods_app.callback()
def methods_list(ctx: typer.Context, json: JsonOption = False) -> None:
    """List the training methods."""
    if ctx.invoked_subcommand is not None:
        return
    from methods.registry import known_methods

    found = known_methods()
    if json:
        print_json(found)
        return
    made = table("method", "what it does")
    for name, summary in found.items():
        row(made, name, summary)
    console().print(made)
    print("More of one: shoal methods show NAME")


@methods_app.command("show")
def methods_show(
    name: Annotated[str, typer.Argument(help="As shoal methods lists it.", show_default=False)],
    parameters: Annotated[
        int, typer.Option("--parameters", min=1, help="Size of the model, for the bytes per round.")
    ] = 1_000_000,
    json: JsonOption = False,
) -> None:
    """Show a method: paper, what travels, when to use it, hyperparameters."""
    from methods.registry import describe

    found = describe(name, parameters)
    per_round = found.bytes_per_round(8)
    if json:
        print_json({"method": found, "bytes_per_round_of_8_peers": per_round})
        return
    print(f"{found.name}: {found.summary}\n")
    print(f"paper      {found.paper}")
    print(f"exchanges  {found.exchanges}")
    print(f"use        {found.use}")
    print(f"bytes      {size(per_round)} each way per round of 8 peers, for {parameters:,} parameters")
    made = table("option", "type", "default", "bounds", "meaning")
    for each in found.options:
        row(
            made,
            each.name,
            each.type,
            "required" if each.default is None else each.default,
            each.bounds,
            each.doc,
        )
    if found.options:
        console().print(made)


@task_app.command("new")
def task_new(
    name: Annotated[
        str, typer.Argument(help="Of the module: a Python name such as flowers.", show_default=False)
    ],
    directory: Annotated[Path, typer.Option("--dir", help="Where to write it.", file_okay=False)] = Path(),
    json: JsonOption = False,
) -> None:
    """Write a small task that trains as it stands, to be changed into yours."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise BadConfig(f"{printable(name)} is no module name; use letters, digits and _, such as flowers")
    class_name = "".join(part.capitalize() for part in name.split("_")) or "MyTask"
    path = directory / f"{name}.py"
    text = _TEMPLATE.read_text("utf-8").replace("MODULE", name).replace("CLASS", class_name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise BadConfig(f"{path} exists; choose another name, or remove it") from None
    except OSError as error:
        raise BadConfig(f"cannot write {path}: {error.strerror}; choose another --dir") from None
    if json:
        print_json({"path": str(path), "task": f"{name}:{class_name}"})
        return
    print(f"wrote {path}")
    print(f"Train it, in {directory.absolute()}: shoal start --task {name}:{class_name}")
    print(f"Try it with others on this machine: shoal testnet up --task {name}:{class_name}")


def version(json: JsonOption = False) -> None:
    """Print the version, and what it runs on."""
    about = {"shoal": our_version(), "python": platform.python_version(), "system": platform.platform()}
    if json:
        print_json(about)
    else:
        print("\n".join(f"{name} {value}" for name, value in about.items()))
