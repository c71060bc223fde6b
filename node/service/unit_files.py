"""Unit files: how systemd and launchd start a node with the machine or with its user, as text.

A user's unit asks for no namespaces of mounts: where a system gives users none, it would not start. The
system's unit has these as well: there the node writes into its own folder only.
"""

import plistlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

WATCHDOG_SECONDS: Final = 60
FILES: Final = 8192
STOP_SECONDS: Final = 90
"""For the last state to be saved; a node without one leaves in a second."""
START_SECONDS: Final = 180
"""For task, method and device to be looked at, and the network stack to load."""
ASKED_WRONGLY: Final = 2
"""The exit code that no second start mends: see node/cli/main.py."""
_PLAIN: Final = re.compile(r"[\w@:=,./+-]+")


@dataclass(frozen=True, slots=True)
class Service:
    """One node as a service."""

    name: str
    """Of the unit: letters, digits and dashes."""
    command: tuple[str, ...]
    home: Path
    """The node's folder, the only one that it writes into."""
    folder: Path
    """Where it is started: a task of the user's own is found there."""
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    """Who runs it, in the system's unit."""


def systemd_unit(service: Service, *, is_system: bool) -> str:
    """Return the unit of one node, for a user's manager or for the system's."""
    unit = ["[Unit]", "Description=shoal node: training with others", "StartLimitIntervalSec=0"]
    if is_system:
        unit += ["Wants=network-online.target", "After=network-online.target"]
    start = [
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        "ExecStart=" + " ".join(argument(each) for each in service.command),
        f"WorkingDirectory={_specifiers(str(service.folder))}",
    ]
    start += [f"Environment={_quoted(f'{key}={text}')}" for key, text in service.environment.items()]
    if is_system:
        start += [f"User={service.user}"]
    install = ["[Install]", f"WantedBy={'multi-user' if is_system else 'default'}.target"]
    fence = [*_FENCE, *(_system_fence(service.home) if is_system else [])]
    sections = (unit, [*start, *_LIFE, *fence], install)
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


_LIFE: Final = (
    "Restart=on-failure",
    "RestartSec=5",
    f"RestartPreventExitStatus={ASKED_WRONGLY}",
    f"WatchdogSec={WATCHDOG_SECONDS}",
    f"TimeoutStartSec={START_SECONDS}",
    f"TimeoutStopSec={STOP_SECONDS}",
    # The daemon ends its trainer itself; what is left after that is killed.
    "KillMode=mixed",
    # A trainer that takes too much memory is killed alone, and the node starts another.
    "OOMPolicy=continue",
    "Nice=5",
    "CPUWeight=50",
    "IOWeight=50",
    f"LimitNOFILE={FILES}",
)
_FENCE: Final = (
    "UMask=0077",
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RestrictNamespaces=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
)
"""Neither MemoryDenyWriteExecute nor PrivateDevices: compilers of torch and GPUs need what they take away."""


def _system_fence(home: Path) -> list[str]:
    return [
        "CapabilityBoundingSet=",
        "PrivateTmp=yes",
        "ProtectSystem=strict",
        "ProtectHome=read-only",
        f"ReadWritePaths={argument(str(home))}",
        "ProtectClock=yes",
        "ProtectHostname=yes",
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelLogs=yes",
        "ProtectControlGroups=yes",
        "ProtectProc=invisible",
        "RemoveIPC=yes",
    ]


def argument(word: str) -> str:
    """Return a word of a command as a unit has it: nothing in it is expanded."""
    return _quoted(word).replace("$", "$$")


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{_specifiers(escaped)}"'


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


def launchd_plist(service: Service, logs: Path) -> str:
    """Return the agent of one node, for launchd of macOS. `logs`: the folder for what it writes."""
    about = {
        "Label": f"org.{service.name}",
        "ProgramArguments": list(service.command),
        "WorkingDirectory": str(service.folder),
        "EnvironmentVariables": dict(service.environment),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": STOP_SECONDS,
        "ProcessType": "Background",
        "LowPriorityIO": True,
        "Nice": 5,
        "Umask": 0o077,
        "SoftResourceLimits": {"NumberOfFiles": FILES},
        "StandardOutPath": str(logs / f"{service.name}.log"),
        "StandardErrorPath": str(logs / f"{service.name}.log"),
    }
    return plistlib.dumps(about, sort_keys=False).decode()
