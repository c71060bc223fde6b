"""config.toml as a file: written with every setting explained, changed without losing a word of its owner's.

Settings stand there commented out, with their defaults, so that a file written long ago does not hold on to
the defaults of its day. ``join`` alone is live from the start: ``shoal bootstrap add`` writes into it.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import tomlkit
from tomlkit.items import Array, Table

from shoal.methods.options import field_docs
from shoal.node.config.profiles import PROFILES, Profile
from shoal.node.config.settings import HIDDEN, NodeConfig, default_of, is_struct, toml_value
from shoal.node.errors import BadConfig
from shoal.node.storage.files import write_whole

_HEAD: Final = """\
# Settings of this shoal node. A line such as "# rounds = 0" shows a default: take the # away to change it.
# A flag of `shoal start` comes before a variable of the environment (run.rounds is SHOAL_RUN_ROUNDS), that
# before this file. `shoal config show --origin` tells what holds and why.
"""


def default_text(profile: Profile | None = None) -> str:
    """Return the file as `shoal init` writes it; what a profile says stands in it without the #."""
    text = _HEAD + "\n" + "\n".join(_section(NodeConfig, "")).rstrip("\n") + "\n"
    section, lines, chosen = "", [], dict(PROFILES[profile]) if profile is not None else {}
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]") + "."
        name = section + line.removeprefix("# ").partition(" = ")[0]
        if line.startswith("# ") and name in chosen:
            line = (
                f"{name.removeprefix(section)} = {toml_value(chosen.pop(name))}  # of the profile {profile}"
            )
        lines.append(line)
    assert not chosen
    return "\n".join(lines) + "\n"


def _section(struct: Any, prefix: str) -> Iterator[str]:
    docs = field_docs(struct)
    fields = msgspec.structs.fields(struct)
    # A table ends where the next begins, so plain settings come first.
    for field in fields:
        if not is_struct(field.type) and field.name != "home":
            yield from _comment(docs.get(field.name, ""))
            yield f"{'' if field.name == 'join' else '# '}{field.name} = {toml_value(default_of(field))}\n"
    for field in fields:
        name = prefix + field.name
        if is_struct(field.type) and name not in HIDDEN:
            yield from _comment(docs.get(field.name, ""))
            yield f"[{name}]\n"
            yield from _section(field.type, name + ".")


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 100, initial_indent="# ", subsequent_indent="# ")


def change_setting(path: Path, section: str, key: str, value: str) -> None:
    """Set a text in a section, beside all else that stands there.

    Raises:
        BadConfig: the file cannot be read or written.
    """
    try:
        document = tomlkit.parse(path.read_text("utf-8-sig") if path.exists() else default_text())
        if section not in document:
            document[section] = tomlkit.table()
        table = document[section]
        assert isinstance(table, Table)  # load() has checked the file
        table[key] = value
        write_whole(path, tomlkit.dumps(document).encode())
    except OSError as error:
        raise BadConfig(
            f"cannot write {path}: {error.strerror}; make room or choose another --home"
        ) from None


def change_join(path: Path, *, add: str = "", remove: str = "") -> bool:
    """Add an address to ``join`` or take it away; tells whether the file changed.

    Raises:
        BadConfig: the file cannot be read or written.
    """
    try:
        text = path.read_text("utf-8-sig") if path.exists() else default_text()
        document = tomlkit.parse(text)
        if "join" not in document:
            document["join"] = tomlkit.array()
        addresses = document["join"]
        assert isinstance(addresses, Array)  # load() has checked the file
        if add and add not in addresses:
            addresses.append(add)
        elif remove and remove in addresses:
            addresses.remove(remove)
        else:
            return False
        write_whole(path, tomlkit.dumps(document).encode())
    except OSError as error:
        raise BadConfig(
            f"cannot write {path}: {error.strerror}; make room or choose another --home"
        ) from None
    return True
