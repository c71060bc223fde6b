"""Options: the scalars a user gives for a method or a task, checked, with one-line errors.

They come from a command line, a TOML file or a run spec, so ``"0.1"``, ``0.1`` and ``1`` are all a float.
What is declared decides: the fields of a method's config, the arguments of a task's constructor.
"""

import ast
import inspect
import textwrap
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from shoal.gossip.run_spec import Scalar
from shoal.methods.errors import BadOption

C = TypeVar("C", bound=msgspec.Struct)
_SCALARS: Final = (bool, int, float, str)


class OptionInfo(msgspec.Struct, frozen=True):
    """An option as `shoal methods show` prints it."""

    name: str
    type: str
    default: Scalar | None
    """None where the option must be given."""
    bounds: str
    """Such as ``> 0, <= 100``; empty without."""
    doc: str


def build_config(config_type: type[C], options: Mapping[str, Scalar], owner: str) -> C:
    """Make a config from options.

    Raises:
        BadOption: one is unknown, of the wrong type or out of range.
    """
    check_known(options, [field.name for field in msgspec.structs.fields(config_type)], owner)
    try:
        return msgspec.convert(dict(options), config_type, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        hints = typing.get_type_hints(config_type, include_extras=True)
        if typing.get_origin(hints.get(name)) is typing.Literal:
            reason = f"choose one of {_type_name(hints[name])}"
        given = f"{name} = {options[name]!r}: " if name in options else ""
        raise BadOption(f"{owner}: {given}{_lower(reason)}") from None


def call_with_options(make: Callable[..., Any], options: Mapping[str, Scalar], owner: str) -> Any:
    """Call a constructor with options as its keyword arguments.

    Raises:
        BadOption: one is unknown or of the wrong type, or one is missing.
    """
    parameters = inspect.signature(make).parameters.values()
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind == p.VAR_KEYWORD for p in parameters):
        check_known(options, known, owner)
    missing = [
        p.name for p in parameters if p.name in known and p.default is p.empty and p.name not in options
    ]
    if missing:
        raise BadOption(f"{owner}: option {missing[0]} has no default; give it a value")
    hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    return make(**{name: _scalar(name, value, hints.get(name), owner) for name, value in options.items()})


def check_known(options: Mapping[str, Scalar], known: list[str], owner: str) -> None:
    """Refuse options that nobody reads.

    Raises:
        BadOption: there is one; the message lists the known ones.
    """
    for name in options:
        if name not in known:
            raise BadOption(f"{owner} has no option {name}; it has: {', '.join(known) or 'none'}")


def explain_options(config_type: type[msgspec.Struct]) -> tuple[OptionInfo, ...]:
    """Return what is declared about every option, its docstring included."""
    docs = field_docs(config_type)
    return tuple(
        OptionInfo(
            name=field.name,
            type=_type_name(field.type),
            default=None if field.required else field.default,
            bounds=_bounds(field.type),
            doc=docs.get(field.name, ""),
        )
        for field in msgspec.structs.fields(config_type)
    )


def field_docs(config_type: type) -> dict[str, str]:
    """Return the docstrings that stand under the fields of a class, those of its bases included."""
    docs: dict[str, str] = {}
    for base in reversed(config_type.__mro__[:-1]):
        if base.__module__.split(".")[0] in ("msgspec", "builtins"):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError):
            # Without source, as in a frozen program, options are listed without their texts.
            continue
        assert isinstance(tree, ast.ClassDef)
        for node, after in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                match after:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        docs[node.target.id] = " ".join(text.split())
    return docs


def _scalar(name: str, value: Scalar, hint: Any, owner: str) -> Any:
    if hint not in _SCALARS:
        return value
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError as error:
        raise BadOption(f"{owner}: {name} = {value!r}: {_lower(str(error))}") from None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _type_name(annotation: Any) -> str:
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(str(value) for value in typing.get_args(annotation))
    return str(getattr(annotation, "__name__", annotation))


def _bounds(annotation: Any) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    metas = [m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, msgspec.Meta)]
    found = ((sign, getattr(meta, key)) for meta in metas for key, sign in signs.items())
    return ", ".join(f"{sign} {bound:,}" for sign, bound in found if bound is not None)
