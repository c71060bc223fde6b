"""Look: finds out what the checks go by. Everything here reads; nothing is changed, opened or reserved."""

import ctypes
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec
import psutil

from shoal.gossip.addresses import endpoint
from shoal.gossip.run_spec import RunSpec
from shoal.methods.base import Method, largest_exchange
from shoal.methods.errors import MethodsError
from shoal.methods.registry import load_method
from shoal.node.config.preflight import check_listens
from shoal.node.config.settings import NodeConfig, load
from shoal.node.doctor import machine, node
from shoal.node.doctor.findings import Finding, finding_of
from shoal.node.doctor.line import check_line
from shoal.node.errors import BadConfig, BadHome, NotRunning, Refused, UserError
from shoal.node.service.router import ask_router
from shoal.node.status import PortMappingStatus, Status
from shoal.node.storage.database import Store
from shoal.node.storage.home import Home, typed
from shoal.node.storage.model_file import newest_spec
from shoal.node.trainer.memory import container_bytes, free_bytes, machine_bytes
from shoal.node.web import client

PACKAGES: Final = ("shoal", "libp2p", "trio", "numpy", "torch")
DIAL_SECONDS: Final = 5.0
GPU_SECONDS: Final = 60.0
"""For torch to load, which takes two on a machine at rest."""
MAX_DIALS: Final = 8
"""Addresses to join that are dialled, one after the other."""
_OUT_OF_TIME: Final = 5
"""What adjtimex returns where nothing keeps the clock."""


@dataclass(frozen=True)
class Seen:
    """What was found of a home, its node and its settings."""

    home: Home
    config: NodeConfig
    status: Status | None = None
    refusal: str = ""
    """Why the node says nothing, though it runs."""
    spec: RunSpec | None = None
    """Of the run that was saved last here."""
    method: Method | None = None
    """Of that run, where it is known here."""
    problems: list[Finding] = field(default_factory=list)
    """What was wrong with settings or home."""


def look(home: Home) -> Seen:
    """Find a home's settings, its running node, and the run that it saved last."""
    problems = []
    try:
        config, _ = load(home.path, {}, os.environ)
    except BadConfig as error:
        problems.append(_finding("settings", error))
        config = NodeConfig(home=home.path)
    try:
        if home.key_file.exists():
            home.peer_id()
    except BadHome as error:
        problems.append(_finding("home", error))
    status, refusal = None, ""
    try:
        status = client.fetch_status(home.path)
    except NotRunning:
        pass
    except Refused as error:
        refusal = str(error)
    spec = _last_run(home)
    method = None
    if spec is not None:
        with suppress(MethodsError):
            method = load_method(spec.method, spec.options)
    return Seen(home, config, status, refusal, spec, method, problems)


def _finding(check: str, error: UserError) -> Finding:
    return finding_of(check, "fix", str(error), otherwise=str(error))


def _last_run(home: Home) -> RunSpec | None:
    if not home.database.exists():
        return None
    try:
        store = Store(home.database)
    except UserError:  # said by whoever needs it
        return None
    try:
        return newest_spec(home.state_dir, store)
    finally:
        store.close()


def examine(seen: Seen, *, mbit: float | None = None, numel: int = 0) -> list[Finding]:
    """Look at everything, in the order in which it is to be mended.

    `mbit`: of the line, None where it is not asked about, 0 where it is to be found out. `numel`: of the
    params, 0 where those of the run are meant.
    """
    config, status = seen.config, seen.status
    start = f"shoal start --home {typed(seen.home.path)}"
    running = status.version if status is not None else ""
    found = [
        *seen.problems,
        *machine.check_versions(sys.version_info[:2], _versions(), running),
        machine.check_clock(time.time(), _newest(seen.home), _is_clock_kept()),
        *_limits(),
        _disk(seen),
        _memory(seen),
        machine.check_gpu(_gpu(), config.run.device, bool(config.run.task)),
        *_ports(seen),
        *node.check_node(status, seen.refusal, start),
        *node.check_rounds(status, time.time()),
        node.check_peers(status, [] if status is not None else _dials(config)),
        node.check_reach(status, _port_of(config), config.network.hidden),
        *node.check_router(_router(seen)),
    ]
    if mbit is not None:
        found.append(line(seen, mbit, numel))
    return found


def speed(seen: Seen, mbit: float) -> tuple[float, str]:
    """Return what the line carries up, Mbit per second, and who says so; 0 where nobody does."""
    if mbit:
        return mbit, "as you say"
    if seen.config.gossip.uplink_mbit:
        return seen.config.gossip.uplink_mbit, "by gossip.uplink_mbit"
    measured = seen.status.uplink_mbit if seen.status is not None else 0.0
    return measured, "as the last rounds measured"


def params_of(seen: Seen, numel: int) -> int:
    """Return how many numbers a model has: as named, else as in the run; 0 where there is none."""
    if numel:
        return numel
    if seen.status is not None and seen.status.run is not None:
        return seen.status.run.parameters
    return seen.spec.params_numel if seen.spec is not None else 0


def line(seen: Seen, mbit: float, numel: int) -> Finding:
    """Look at what a round takes on the line."""
    run = seen.spec if seen.spec is not None else seen.config.run
    return check_line(run, seen.method, params_of(seen, numel), *speed(seen, mbit))


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _newest(home: Home) -> float:
    """Return when a file of a home was written last."""
    places = [home.database, home.config_file, *home.state_dir.glob("*.safetensors")]
    times = [0.0]
    for place in places:
        with suppress(OSError):
            times.append(place.stat().st_mtime)
    return max(times)


def _is_clock_kept() -> bool | None:
    """Ask the kernel of Linux whether something keeps the clock in time; it takes no privilege."""
    try:
        # All zero asks and sets nothing. The struct has about 208 bytes.
        answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else answer != _OUT_OF_TIME


def _limits() -> list[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    counts = [0 if each == unlimited else each for each in (soft, hard)]
    return machine.check_limits(counts[0], counts[1], container_bytes())


def _disk(seen: Seen) -> Finding:
    place = seen.home.path
    while not place.exists():
        place = place.parent
    state = 4 * seen.spec.state_numel if seen.spec is not None else 0
    return machine.check_disk(shutil.disk_usage(place).free, state, str(place))


def _memory(seen: Seen) -> Finding:
    spec = seen.spec if seen.status is None else None
    numel = largest_exchange(seen.method, spec.params_numel) if spec is not None and seen.method else 0
    return machine.check_memory(spec, numel, machine_bytes(), free_bytes())


def _gpu() -> machine.GpuReport:
    has_driver = Path("/proc/driver/nvidia/version").exists()
    if find_spec("torch") is None:
        return machine.GpuReport(has_driver=has_driver)
    command = [sys.executable, "-P", "-m", "shoal.node.doctor.gpu_report"]
    try:
        ran = subprocess.run(command, capture_output=True, timeout=GPU_SECONDS, check=False)
        report = msgspec.json.decode(ran.stdout.splitlines()[-1], type=machine.GpuReport)
    except (msgspec.MsgspecError, IndexError):
        why = ran.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return machine.GpuReport(torch=version("torch"), failure=f"torch cannot be loaded: {why[:200]}")
    except (subprocess.SubprocessError, OSError) as error:
        return machine.GpuReport(torch=version("torch"), failure=f"torch cannot be asked: {error}")
    return msgspec.structs.replace(report, has_driver=has_driver)


def _ports(seen: Seen) -> list[Finding]:
    is_there = seen.status is not None or bool(seen.refusal)
    taken = []
    for port, flag, error in [] if is_there else check_listens(seen.config):
        owner = _owner(port)
        text = f"port {port} is in use by {owner}" if owner else str(error).partition(";")[0]
        taken.append((port, flag, text))
    return machine.check_ports(taken, _free_port(), is_there)


def _owner(port: int) -> str:
    """Return who listens on a port; empty where the system does not say it to us."""
    with suppress(psutil.Error, OSError):
        for each in psutil.net_connections("tcp"):
            place = each.laddr
            if each.status == psutil.CONN_LISTEN and each.pid and place and place.port == port:
                return f"pid {each.pid} ({psutil.Process(each.pid).name()})"
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _router(seen: Seen) -> PortMappingStatus | None:
    """Return what the node says of the router; where none runs, what the router says itself."""
    if seen.status is not None:
        return seen.status.port_mapping
    return None if seen.refusal or seen.problems else ask_router(seen.config.network)


def _dials(config: NodeConfig) -> list[tuple[str, str]]:
    """Dial the addresses to join, and say of each why it does not answer; empty where it does."""
    found = []
    for address in config.join[:MAX_DIALS]:
        place = endpoint(address)
        if place is None:
            continue
        reason = ""
        try:
            socket.create_connection((place.host, place.port), DIAL_SECONDS).close()
        except TimeoutError:
            reason = "timeout"
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
        found.append((address, reason))
    return found


def _port_of(config: NodeConfig) -> int:
    places = [endpoint(each) for each in config.network.listen]
    return next((place.port for place in places if place is not None), 0)
