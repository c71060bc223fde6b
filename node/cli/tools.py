"""Commands around training: methods, a task of one's own, the version."""

import keyword
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from shoal.node.cli.common import HomeOption, JsonOption, console, home_of, print_json, row, table
from shoal.node.cli.export import model_export
from shoal.node.config.settings import scalars
from shoal.node.errors import BadConfig
from shoal.node.storage.home import typed
from shoal.node.text import our_version, printable, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shoal.gossip.run_spec import Scalar
    from shoal.methods.base import ModelSize
    from shoal.methods.needs import Fit, Measured, Need

methods_app = typer.Typer(invoke_without_command=True, help="The training methods.")
task_app = typer.Typer(no_args_is_help=True, help="What is learned.")
model_app = typer.Typer(no_args_is_help=True, help="The model that was learned.")

_TEMPLATE: Final = Path(__file__).with_name("templates") / "task.py.txt"


@methods_app.callback()
def methods_list(ctx: typer.Context, json: JsonOption = False) -> None:
    """List the training methods."""
    if ctx.invoked_subcommand is not None:
        return
    from shoal.methods.registry import known_methods

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
    task: Annotated[
        str, typer.Option("--task", help="Whose model to tell the bytes of.", show_default=False)
    ] = "",
    task_option: Annotated[
        list[str] | None, typer.Option("--task-option", help="key=value for the task. Repeatable.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="key=value for the method. Repeatable.")
    ] = None,
    parameters: Annotated[
        int, typer.Option("--parameters", min=1, help="Size of the model, where no task is given.")
    ] = 1_000_000,
    peers: Annotated[int, typer.Option("--peers", min=2, max=256, help="Nodes of the round.")] = 8,
    json: JsonOption = False,
) -> None:
    """Show a method: paper, what travels, bytes per round, when to use it, what a task must give, options."""
    from shoal.methods.base import ModelSize
    from shoal.methods.registry import describe

    given = scalars(option or [], "--option")
    describe(name, None, given)  # before the task is loaded, which takes seconds
    measured = _measured(task, task_option or [], name, given) if task else None
    model = measured.size if measured else ModelSize.of_one_body(parameters)
    found = describe(name, model, given)
    per_round = found.traffic.bytes_per_round(peers)
    if json:
        fit = {"fit": measured.fit} if measured else {}
        print_json({"method": found, "peers": peers, "bytes_per_round": per_round, **fit})
        return
    print(f"{found.name}: {found.summary}\n")
    print(f"paper      {found.paper}")
    print(f"exchanges  {found.exchanges}")
    print(f"use        {found.use}")
    if found.body_bound:
        print(f"one body   {found.body_bound}")
    each_way = f"about {size(per_round)} each way per round of {peers} peers"
    print(f"bytes      {each_way}, for {_described(model, task)}")
    for line in _fit_lines(task, measured.fit) if measured else _need_lines(found.needs):
        print(line)
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


def _measured(
    task: str, options: list[str], method: str, method_options: "Mapping[str, Scalar]"
) -> "Measured":
    """Return a task's size and whether a method takes it; in a process of its own, since that loads torch.

    Raises:
        BadConfig: the task does not load.
    """
    from shoal.methods.needs import Measured

    texts = (scalars(options, "--task-option"), method_options)
    text, method_text = (msgspec.json.encode(each).decode() for each in texts)
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "shoal.node.trainer.model_size", task, text, method, method_text],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or [
            f"python -P -m shoal.node.trainer.model_size {task} failed"
        ]
        raise BadConfig(printable(lines[-1]))
    return msgspec.json.decode(ran.stdout.splitlines()[-1], type=Measured)


def _need_lines(needs: "tuple[Need, ...]") -> list[str]:
    """Say what a task must give a method."""
    lines = ["a task     gives model() and train_data(); test_data(), for accuracy to be told"]
    lines += [
        f"           {'must' if each.must else 'should'} give {each.what}: {each.why}" for each in needs
    ]
    return lines


def _fit_lines(task: str, fit: "Fit") -> list[str]:
    """Say whether a task fits a method, and what it does not give."""
    if not fit.fits:
        return [printable(f"task       {task} does NOT fit: {fit.problem}")]
    lines = [f"task       {task} fits"]
    for each in fit.given:
        words = {True: "gives", False: "does not give", None: "gives, if you say so,"}[each.is_given]
        found = f" ({each.found})" if each.found else ""
        lines.append(printable(f"           {words} {each.need.what}{found}: {each.need.why}"))
    return lines


def _described(model: "ModelSize", task: str) -> str:
    """Say what the bytes are of."""
    parts = [f"{model.numel:,} parameters"]
    if task:
        parts[0] += f" of {task}"
        if model.body < model.numel:
            parts.append(f"{model.body:,} of them its body")
        if model.parts > 1:
            parts.append(f"{model.parts} tasks a node")
    return ", ".join(parts)


@task_app.command("new")
def task_new(
    name: Annotated[
        str, typer.Argument(help="Of the module: a Python name such as flowers.", show_default=False)
    ],
    directory: Annotated[Path, typer.Option("--dir", help="Where to write it.", file_okay=False)] = Path(),
    method: Annotated[
        str, typer.Option("--for", help="Give what this method asks for too.", show_default=False)
    ] = "",
    json: JsonOption = False,
) -> None:
    """Write a small task that trains as it stands, to be changed into yours."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise BadConfig(f"{printable(name)} is no module name; use letters, digits and _, such as flowers")
    class_name = "".join(part.capitalize() for part in name.split("_")) or "MyTask"
    path = directory / f"{name}.py"
    text = _template(method).replace("MODULE", name).replace("CLASS", class_name)
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
    words = f"--task {name}:{class_name}" + (f" --method {method}" if method else "")
    go_there = "" if directory == Path() else f"cd {typed(directory.absolute())} && "
    print(f"Train it: {go_there}shoal start {words}")
    print(f"Try it with others on this machine: {go_there}shoal testnet up {words}")


def _template(method: str) -> str:
    """Return the text of a new task, with what a method asks for.

    Raises:
        MethodNotFound: there is no such method.
        BadConfig: it is of another package, and asks for what only its authors know.
    """
    from shoal.methods.registry import METHODS, method_class

    text = _TEMPLATE.read_text("utf-8")
    if not method:
        return text
    if method not in METHODS:
        theirs: Any = method_class(method)
        if getattr(theirs, "needs", ()):
            raise BadConfig(f"leave out --for; what {method} asks for: shoal methods show {method}")
        return text
    more = _TEMPLATE.with_name(f"for_{method}.py.txt")
    if not more.exists():
        return text
    members, _, after = more.read_text("utf-8").partition("# after the class\n")
    if "Literal[" in members:
        text = text.replace("import torch\n", "from typing import Literal\n\nimport torch\n", 1)
    return text.replace("\n\n\ndef spirals(", f"\n\n{members.strip(chr(10))}\n\n\n{after}def spirals(")


@model_app.command("save")
def model_save(
    path: Annotated[
        Path, typer.Argument(help="Of the new file, such as mine.safetensors.", show_default=False)
    ],
    home: HomeOption = None,
    values: Annotated[
        int,
        typer.Option(
            "--values",
            min=0,
            max=256,
            help="Keep at most so many values per tensor: 32 make it about six times smaller. 0: exact.",
        ),
    ] = 0,
    json: JsonOption = False,
) -> None:
    """Write what a node's last run has learned, its model's tensors by name; the node may go on meanwhile.

    shoal.load_model("FILE") reads it back, for model.load_state_dict.
    """
    from shoal.node.storage.model_file import newest_of, save_model
    from shoal.node.storage.private_rounds import own_parts

    place = home_of(home)
    checkpoint, spec = newest_of(place)
    unshared = own_parts(place.state_dir, spec, checkpoint.round)
    written = save_model(path, checkpoint.vector[: spec.params_numel], spec.tensors, values, unshared)
    exact = 4 * spec.params_numel
    if json:
        found = {"path": str(path), "bytes": written, "float32_bytes": exact, "round": checkpoint.round}
        print_json({**found, "task": spec.task, "method": spec.method})
        return
    print(f"wrote {path}: {spec.params_numel:,} parameters after round {checkpoint.round} of {spec.method}")
    smaller = exact / written
    than = f" ({smaller:.1f} times smaller than float32)" if smaller >= 1.05 else ""
    print(f"on {spec.task}, {size(written)}{than}")
    if spec.pinned:
        print(f"without the {len(spec.pinned)} frozen tensors: load these first, then it with strict=False")


def version(json: JsonOption = False) -> None:
    """Print the version, and what it runs on."""
    about = {"shoal": our_version(), "python": platform.python_version(), "system": platform.platform()}
    if json:
        print_json(about)
    else:
        print("\n".join(f"{name} {value}" for name, value in about.items()))


model_app.command("export")(model_export)
