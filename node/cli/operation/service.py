"""`shoal service`: a node that starts with its user or its machine, by systemd or launchd."""

import getpass
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from shoal.node.cli.common import HomeOption, JsonOption, home_of, print_json
from shoal.node.cli.start import flags_of, start
from shoal.node.config.settings import load
from shoal.node.errors import BadConfig, BadHome
from shoal.node.service.unit_files import Service, launchd_plist, systemd_unit
from shoal.node.storage.files import write_whole
from shoal.node.storage.home import Home, typed

Kind = Literal["systemd", "launchd"]
app = typer.Typer(
    no_args_is_help=True,
    help="A node that starts with its user, or with the machine, and is started again when it fails.",
    add_completion=False,
    rich_markup_mode=None,
)
_REST: Final = {"allow_extra_args": True, "ignore_unknown_options": True}
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,48}")

NameOption = Annotated[str, typer.Option("--name", help="Of the service, where several nodes run here.")]
SystemdOption = Annotated[bool, typer.Option("--systemd", help="For systemd; so it is but on macOS.")]
LaunchdOption = Annotated[bool, typer.Option("--launchd", help="For launchd; so it is on macOS.")]
SystemOption = Annotated[
    bool, typer.Option("--system", help="Start with the machine, before anybody logs in; takes root.")
]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a service's file lies, and what is typed about it."""

    kind: Kind
    file: Path
    start: str
    stop: str
    look: str
    more: str = ""


def _kind(systemd: bool, launchd: bool) -> Kind:
    if systemd and launchd:
        raise BadConfig("--systemd and --launchd name two managers; give one of them")
    return "launchd" if launchd or (sys.platform == "darwin" and not systemd) else "systemd"


def _place(kind: Kind, name: str, *, is_system: bool) -> _Place:
    if not _NAME.fullmatch(name):
        raise BadConfig(f"--name {name!r}: write small letters, digits and dashes")
    if kind == "launchd":
        if is_system:
            raise BadConfig("--system is for systemd; leave it out, and the node starts when you log in")
        file = Path.home() / "Library/LaunchAgents" / f"org.{name}.plist"
        target = f"gui/{os.getuid()}"
        return _Place(
            kind,
            file,
            f"launchctl bootstrap {target} {typed(file)}",
            f"launchctl bootout {target}/org.{name}",
            f"launchctl print {target}/org.{name}",
        )
    if is_system:
        return _Place(
            kind,
            Path("/etc/systemd/system") / f"{name}.service",
            f"systemctl daemon-reload && systemctl enable --now {name}",
            f"systemctl disable --now {name}",
            f"systemctl status {name}",
        )
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return _Place(
        kind,
        config / "systemd/user" / f"{name}.service",
        f"systemctl --user daemon-reload && systemctl --user enable --now {name}",
        f"systemctl --user disable --now {name}",
        f"systemctl --user status {name}",
        "to run while you are not logged in: loginctl enable-linger",
    )


def _text(home: Home, kind: Kind, name: str, flags: Sequence[str], *, is_system: bool) -> str:
    """Return the file of a service; flags of `shoal start` are checked, so that it does start."""
    probe = typer.Typer()
    probe.command()(start)
    context = typer.main.get_command(probe).make_context("shoal start", list(flags))
    if context.params.get("home") is not None:
        raise BadConfig("--home stands before the --, not after it")
    load(home.path, flags_of(context.params), os.environ)
    command = (sys.executable, "-P", "-m", "shoal.node", "start", "--home", str(home.path), *flags)
    carried = {key: text for key, text in os.environ.items() if key.startswith("SHOAL_")}
    carried.pop("SHOAL_HOME", None)
    service = Service(name, command, home.path, Path.cwd(), carried, getpass.getuser())
    if kind == "launchd":
        return launchd_plist(service, Path.home() / "Library/Logs/shoal")
    return systemd_unit(service, is_system=is_system)


@app.command("show", context_settings=_REST)
def service_show(
    ctx: typer.Context,
    home: HomeOption = None,
    name: NameOption = "shoal",
    systemd: SystemdOption = False,
    launchd: LaunchdOption = False,
    system: SystemOption = False,
) -> None:
    """Print the file that install would write; flags of shoal start follow after --."""
    kind = _kind(systemd, launchd)
    _place(kind, name, is_system=system)
    print(_text(home_of(home), kind, name, ctx.args, is_system=system), end="")


@app.command("install", context_settings=_REST)
def service_install(
    ctx: typer.Context,
    home: HomeOption = None,
    name: NameOption = "shoal",
    systemd: SystemdOption = False,
    launchd: LaunchdOption = False,
    system: SystemOption = False,
    now: Annotated[bool, typer.Option("--now", help="Start it at once, and not only with you.")] = False,
    json: JsonOption = False,
) -> None:
    """Write the file of a service: shoal service install -- --task digits --join ADDRESS.

    What follows -- are flags of shoal start. The node writes into its home only, and needs no root.
    """
    place = _place(_kind(systemd, launchd), name, is_system=system)
    _needs_root(system)
    chosen = home_of(home)
    text = _text(chosen, place.kind, name, ctx.args, is_system=system)
    chosen.create()
    try:
        place.file.parent.mkdir(parents=True, exist_ok=True)
        if place.kind == "launchd":
            (Path.home() / "Library/Logs/shoal").mkdir(parents=True, exist_ok=True)
        # Closed to others: an invite may be among the flags.
        write_whole(place.file, text.encode())
    except OSError as error:
        raise BadHome(f"cannot write {place.file}: {error.strerror}; see: shoal service show") from None
    if now:
        _run(place.start)
    if json:
        print_json({"file": str(place.file), "start": place.start, "stop": place.stop, "started": now})
        return
    print(f"wrote {place.file}")
    if not now:
        print(f"start it with: {place.start}")
    print(f"look at it with: {place.look}")
    if place.more:
        print(place.more)


@app.command("uninstall")
def service_uninstall(
    name: NameOption = "shoal",
    systemd: SystemdOption = False,
    launchd: LaunchdOption = False,
    system: SystemOption = False,
    json: JsonOption = False,
) -> None:
    """Stop the service and remove its file; the node's home stays as it is."""
    place = _place(_kind(systemd, launchd), name, is_system=system)
    _needs_root(system)
    if not place.file.exists():
        raise BadHome(f"there is no service {name}: {place.file} is not there; see: shoal service install")
    stopped = _run(place.stop, may_fail=True)
    place.file.unlink()
    if json:
        print_json({"file": str(place.file), "stopped": stopped})
        return
    print(f"removed {place.file}{'' if stopped else '; it did not run'}")


def _needs_root(is_system: bool) -> None:
    if is_system and os.geteuid() != 0:
        raise BadConfig("--system takes root: sudo shoal service ..., or leave --system out")


def _run(commands: str, *, may_fail: bool = False) -> bool:
    """Run commands that are joined by &&; tells whether they worked."""
    for command in commands.split(" && "):
        try:
            ran = subprocess.run(command.split(), capture_output=True, text=True, check=False, timeout=120)
            why = ran.stderr.strip().rpartition("\n")[2]
        except (OSError, subprocess.TimeoutExpired) as error:
            ran, why = None, str(error)
        if ran is None or ran.returncode:
            if may_fail:
                return False
            raise BadHome(f"{command} did not work: {why}; see: shoal service show")
    return True
