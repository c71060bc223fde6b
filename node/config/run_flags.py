"""The flags of a run, made from the fields of `RunSettings` and their docstrings: `start`, `testnet up`.

A field ``group_size`` is the flag ``--group-size``, unless its type names another one, and an argument
``run_group_size`` of the command. Values are checked where the settings are put together, not here.
"""

import inspect
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Final, Literal

import msgspec
import typer

from shoal.gossip.run_spec import RunSettings, Scalar, usual_combine
from shoal.methods.options import field_docs
from shoal.node.config.settings import default_of, scalars

PREFIX: Final = "run_"
"""Of a command's arguments that are settings of the run."""


@cache
def flag_names() -> dict[str, str]:
    """Return the flag of every setting of a run."""
    return {field.name: _flag(field) for field in msgspec.structs.fields(RunSettings)}


def _flag(field: msgspec.structs.FieldInfo) -> str:
    for meta in getattr(field.type, "__metadata__", ()):
        if meta.extra and "flag" in meta.extra:
            return str(meta.extra["flag"])
    return "--" + field.name.replace("_", "-")


def has_run_flags(
    struct: type[RunSettings], *, shows_defaults: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for every setting of a run, in place of its ``**`` argument.

    `struct`: whose docstrings and defaults are shown.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        parameters = [*own, *_parameters(struct, shows_defaults)]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
        return command

    return decorate


def _parameters(struct: type[RunSettings], shows_defaults: bool) -> list[inspect.Parameter]:
    docs = field_docs(struct)
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    made = []
    for name, flag in flag_names().items():
        default = default_of(fields[name])
        is_worth_saying = default not in ("", {}) and default is not False
        option = typer.Option(
            flag,
            help=docs.get(name, ""),
            rich_help_panel="Training",
            show_default=str(default) if shows_defaults and is_worth_saying else False,
            metavar="K=V" if _plain(fields[name].type) == list[str] else None,
            autocompletion=_VALUES.get(name),
        )
        annotation: Any = Annotated[_plain(fields[name].type) | None, option]
        kind = inspect.Parameter.KEYWORD_ONLY
        made.append(inspect.Parameter(PREFIX + name, kind, default=None, annotation=annotation))
    return made


def _methods(incomplete: str) -> list[str]:
    from shoal.methods.registry import method_names

    return [name for name in method_names() if name.startswith(incomplete)]


def _codecs(incomplete: str) -> list[str]:
    from shoal.gossip.averaging.tensor_codecs import CODECS

    return [name for name in CODECS if name.startswith(incomplete)]


_VALUES: Final[Mapping[str, Callable[[str], list[str]]]] = {"method": _methods, "codec": _codecs}
"""What a shell completes, by setting; loaded when it asks."""


def _plain(annotation: Any) -> Any:
    """Return what the command line makes of a setting's type."""
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict:
        return list[str]
    if origin is Literal and not all(isinstance(each, str) for each in arguments):
        return type(arguments[0])
    return annotation


def run_values(given: Mapping[str, Any]) -> dict[str, object]:
    """Return the settings that a command's arguments say, by field.

    Raises:
        BadConfig: a pair has no ``=``.
    """
    found: dict[str, object] = {}
    for name, flag in flag_names().items():
        value = given.get(PREFIX + name)
        if isinstance(value, list | tuple):
            if value:
                found[name] = scalars(list(value), flag)
        elif value is not None:
            found[name] = value
    return found


def run_words(run: RunSettings) -> list[str]:
    """Return the words of a command line that say the method, and what differs from the defaults of a run."""
    words: list[str] = []
    plain = RunSettings()
    for name, flag in flag_names().items():
        value = getattr(run, name)
        if isinstance(value, dict):
            words += option_words(flag, dict(sorted(value.items())))
        elif name == "combine":
            words += [flag, str(value)] if value != usual_combine(run) else []
        elif isinstance(value, bool):
            words += [flag] if value else []
        elif name == "method" or value != getattr(plain, name):
            words += [flag, str(value)]
    return words


def option_words(flag: str, options: Mapping[str, Scalar]) -> list[str]:
    """Return ``flag key=value`` for each option."""
    words: list[str] = []
    for key, value in options.items():
        words += [flag, f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    return words
