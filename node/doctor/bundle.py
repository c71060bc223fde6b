"""Bundle: what somebody who helps wants to see, in one tar file, and no secret in it.

    findings.json   what `shoal doctor` found          settings.json   every setting and its origin
    machine.json    system, versions, memory           status.json     of the running node, where one runs
    NAME.log        the end of each log of the home

No file of the home is copied but logs. Keys, invites and whatever has the name of a password are taken out
of every text, whoever wrote it there. Peers, their addresses and folders stay in: whoever gives the file
away is told so.
"""

import io
import os
import platform
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from shoal.node.config.settings import HIDDEN, load, settings, variable
from shoal.node.doctor.findings import Finding
from shoal.node.errors import BadConfig, BadHome
from shoal.node.status import Status
from shoal.node.storage.home import Home

LOG_BYTES: Final = 1 << 20
"""Of the end of each log."""
MAX_LOGS: Final = 16
LEFT_OUT: Final = "[left out]"
_SECRET_NAME: Final = re.compile(r"(?i)(token|secret|password|passwd|api_?key|credential)")
_NAMED: Final = re.compile(
    r"""(?ix) (["']? [\w.-]* (?:token|secret|password|passwd|api_?key|credential) [\w.-]* ["']? \s* [=:] \s*)
        (?: "[^"\n]*" | '[^'\n]*' | [^\s,}]+ )"""
)
_INVITE: Final = re.compile(r"\bshoal1[02-9ac-hj-np-z]{20,}", re.IGNORECASE)
_SEED: Final = re.compile(r"(?im)^[0-9a-f]{64}$")
"""Alone in a line, as key files have it; run ids and hashes stand in sentences."""


def write_bundle(
    path: Path, home: Home, findings: Iterable[Finding], status: Status | None, environ: Mapping[str, str]
) -> list[str]:
    """Write a new bundle; returns the names of what is in it.

    Raises:
        BadHome: the file exists, or cannot be written.
    """
    clean = cleaner(home, environ)
    values: dict[str, object] = {
        "findings.json": list(findings),
        "settings.json": _settings(home, environ),
        "machine.json": _machine(),
    }
    if status is not None:
        values["status.json"] = status
    texts = {name: _json(without_secrets(value, clean)) for name, value in values.items()}
    texts |= {log.name: clean(_tail(log)) for log in log_files(home)}
    try:
        with tarfile.open(path, "x:gz") as archive:
            for name, text in texts.items():
                data = text.encode("utf-8", "replace")
                entry = tarfile.TarInfo(f"shoal-doctor/{name}")
                entry.size, entry.mode = len(data), 0o600
                archive.addfile(entry, io.BytesIO(data))
        path.chmod(0o600)
    except FileExistsError:
        raise BadHome(f"{path} exists; choose another name, or remove it") from None
    except OSError as error:
        raise BadHome(f"cannot write {path}: {error.strerror}; choose another place") from None
    return list(texts)


def cleaner(home: Home, environ: Mapping[str, str]) -> Callable[[str], str]:
    """Return what takes every secret out of a text: those of the home, and what looks like one."""
    secrets = sorted(_secrets(home, environ), key=len, reverse=True)

    def clean(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, LEFT_OUT)
        text = _INVITE.sub(LEFT_OUT, text)
        text = _SEED.sub(LEFT_OUT, text)
        return _NAMED.sub(rf"\g<1>{LEFT_OUT}", text)

    return clean


def _secrets(home: Home, environ: Mapping[str, str]) -> set[str]:
    """Return the words of keys and invites of a home, as they may stand in a text."""
    found = {environ.get(variable("invite"), "")}
    files = [home.key_file, *home.path.glob("*.key")]
    try:
        config, _ = load(home.path, {}, environ)
        found.add(config.invite)
        if config.network.key_file:
            files.append(Path(config.network.key_file).expanduser())
    except BadConfig:  # then nothing of the file is in the bundle
        pass
    for file in files:
        try:
            found |= set(file.read_bytes()[:4096].decode("ascii", "ignore").split())
        except OSError:
            continue
    # Short words, such as /base16/ in the file of a network's key, are no secret.
    return {word for word in found if len(word) >= 24}


def without_secrets(value: object, clean: Callable[[str], str]) -> Any:
    """Return a value as JSON has it, every text in it cleaned; what has the name of a secret is left out."""
    found = msgspec.to_builtins(value)
    if isinstance(found, str):
        return clean(found)
    if isinstance(found, dict):
        return {
            clean(str(key)): LEFT_OUT if _SECRET_NAME.search(str(key)) else without_secrets(each, clean)
            for key, each in found.items()
        }
    if isinstance(found, list | tuple):
        return [without_secrets(each, clean) for each in found]
    return found


def _settings(home: Home, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return every setting with its origin."""
    try:
        config, origins = load(home.path, {}, environ)
    except BadConfig as error:
        return {"error": str(error)}
    shown = {}
    for name in settings():
        if name.startswith(HIDDEN):
            continue
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        shown[name] = {"value": value, "origin": origins[name]}
    return shown


def log_files(home: Home) -> list[Path]:
    """Return the logs that lie in a home, the newest first."""
    found = [path for path in home.path.glob("*.log*") if path.is_file() and not path.is_symlink()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:MAX_LOGS]


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES))
            return file.read(LOG_BYTES).decode("utf-8", "replace")
    except OSError as error:
        return f"cannot read it: {error.strerror}\n"


def _machine() -> dict[str, Any]:
    packages = {each.name: each.version for each in distributions() if each.name}
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "swap_bytes": psutil.swap_memory().total,
        "packages": dict(sorted(packages.items())),
    }


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=1).decode() + "\n"
