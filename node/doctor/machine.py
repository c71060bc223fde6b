"""The machine under a node: Python, clock, disk, memory, limits and GPU. Pure: what was found is handed in.

node/doctor/look.py finds it.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from shoal.gossip.run_spec import RunSpec
from shoal.node.doctor.findings import Finding
from shoal.node.storage.checkpoint import KEPT
from shoal.node.text import duration, size
from shoal.node.trainer.memory import BASE, too_large, vector_bytes

PYTHONS: Final = ((3, 11), (3, 13))
"""The oldest and the newest Python that every dependency has wheels for."""
CLOCK_SLACK: Final = 300.0
"""Seconds by which a file may be newer than the clock: disks of networks have clocks of their own."""
FILES: Final = 1024
"""Open files below which a node with all its links, circuits and sockets may run out of them. A guess."""
RAISED: Final = 8192
LEAST_DISK: Final = 1_000_000_000
"""Bytes that are to be free where no model is known yet."""


class Gpu(msgspec.Struct, frozen=True):
    """A GPU as torch sees it."""

    device: str
    """As --device takes it: cuda:0 or mps."""
    name: str
    free_bytes: int = 0
    total_bytes: int = 0


class GpuReport(msgspec.Struct, frozen=True, kw_only=True):
    """What torch says, in a process of its own."""

    torch: str = ""
    """Its version; empty where it is not installed."""
    gpus: list[Gpu] = []
    failure: str = ""
    """Why it could not be asked."""
    has_driver: bool = False
    """Whether the system has a driver for an NVIDIA GPU, whatever torch says."""


def check_versions(python: tuple[int, int], versions: dict[str, str], running: str) -> list[Finding]:
    """Look at Python, at what is installed, and whether the running node is of the same version.

    `running`: the version of the node that runs; empty: none does.
    """
    shown = ", ".join(f"{name} {number}" for name, number in versions.items())
    text = f"Python {python[0]}.{python[1]}, {shown}"
    oldest, newest = PYTHONS
    found = [Finding("versions", "ok", text)]
    if not oldest <= python <= newest:
        fix = f"install Python {newest[0]}.{newest[1]}, and shoal with it"
        found = [Finding("versions", "fix", f"{text}: this Python is not one that shoal is tested with", fix)]
    if running and running != versions.get("shoal"):
        text = f"the node that runs is shoal {running}, and what is installed is {versions.get('shoal')}"
        found.append(
            Finding("versions", "fix", text, "shoal stop, then shoal start with the flags of before")
        )
    return found


def check_clock(now: float, newest_file: float, is_kept: bool | None) -> Finding:
    """Look at the clock: invites and bans end by it.

    `now`, `newest_file`: Unix seconds. `is_kept`: whether the system keeps it in time; None: it does not say.
    """
    fix = "set the clock: sudo timedatectl set-ntp true, or as your system does it"
    if newest_file - now > CLOCK_SLACK:
        text = f"the clock is at least {duration(newest_file - now)} behind: files of this node are newer"
        return Finding("clock", "fix", text, fix)
    if is_kept is None:
        return Finding("clock", "ok", "not older than this node's files; the system does not say more")
    if is_kept:
        return Finding("clock", "ok", "kept in time by the system")
    return Finding("clock", "note", "nothing keeps the clock in time; far off, invites are refused", fix)


def check_disk(free: int, state_bytes: int, place: str) -> Finding:
    """Look at the disk under the home. `state_bytes`: of one saved state; 0: none is known."""
    needed = KEPT * state_bytes or LEAST_DISK
    why = f"{KEPT} states take {size(needed)}" if state_bytes else f"{size(needed)} is little for models"
    text = f"{size(free)} are free in {place}"
    if free < needed:
        return Finding("disk", "fix", f"{text}, and {why}", "free some, or start with --home on another disk")
    return Finding("disk", "ok", f"{text}; {why}" if state_bytes else text)


def check_memory(spec: RunSpec | None, exchange_numel: int, machine: int, free: int) -> Finding:
    """Look at the memory against what the last run of this home takes; bytes, of the machine and free now.

    A node that runs has its memory already: hand in None for `spec` then.
    """
    text = f"{size(free)} of {size(machine)} are free"
    if spec is None:
        if free < BASE:
            return Finding("memory", "fix", f"{text}, a node takes {size(BASE)}", "end other programs")
        return Finding("memory", "ok", text)
    needed = BASE + vector_bytes(spec, exchange_numel)
    if reason := too_large(spec, exchange_numel, machine):
        said, _, fix = reason.rpartition(": ")
        return Finding("memory", "fix", said, fix)
    run = f"the run {spec.name} takes {size(needed)} and its batches"
    if needed > free:
        return Finding("memory", "fix", f"{text}, and {run}", "end other programs, or train fewer tensors")
    return Finding("memory", "ok", f"{text}; {run}")


def check_limits(soft: int, hard: int, container_bytes: int) -> list[Finding]:
    """Look at what the system allows: open files (0: no limit), and the memory of a container (0: none)."""
    found = []
    if 0 < soft < FILES:
        may = RAISED if hard == 0 or hard >= RAISED else hard
        fix = f"ulimit -n {may}" if may > soft else "ask who runs this machine for 8192 open files"
        found.append(Finding("limits", "fix", f"only {soft} files may be open at once", fix))
    else:
        found.append(Finding("limits", "ok", f"{soft or 'any number of'} files may be open at once"))
    if container_bytes:
        text = f"this container has {size(container_bytes)} of memory; what node and trainer share counts"
        found.append(Finding("limits", "note", text))
    return found


def check_gpu(report: GpuReport, wanted: str, trains: bool) -> Finding:
    """Look at what torch would compute on. `wanted`: --device; `trains`: whether the settings name a task."""
    if not report.torch:
        if trains:
            fix = "install torch as https://pytorch.org/get-started says"
            return Finding(
                "gpu", "fix", report.failure or "torch is not installed, and training needs it", fix
            )
        return Finding("gpu", "note", report.failure or "torch is not installed: this node can only help")
    if report.failure:
        return Finding("gpu", "fix", report.failure, "install torch anew: https://pytorch.org/get-started")
    names = {gpu.device for gpu in report.gpus}
    is_missing = wanted not in ("auto", "cpu") and not any(name.startswith(wanted) for name in names)
    if is_missing or (report.has_driver and not report.gpus and wanted != "cpu"):
        there = "this machine has an NVIDIA GPU, and" if report.has_driver else f"{wanted} is asked for, and"
        fix = "install torch for your CUDA: https://pytorch.org/get-started, or take --device cpu"
        return Finding("gpu", "fix", f"{there} torch {report.torch} sees none", fix)
    if not report.gpus:
        return Finding("gpu", "ok", f"none; torch {report.torch} computes on the processor")
    return Finding("gpu", "ok", "; ".join(map(_gpu_text, report.gpus)))


def _gpu_text(gpu: Gpu) -> str:
    memory = f", {size(gpu.free_bytes)} of {size(gpu.total_bytes)} free" if gpu.total_bytes else ""
    return f"{gpu.device} is {gpu.name}{memory}"


def check_ports(taken: Sequence[tuple[int, str, str]], free_port: int, is_listening: bool) -> list[Finding]:
    """Look at the ports. `taken`: port, flag, and who has it or why it cannot be had.

    `free_port`: one that is free in its place. `is_listening`: a node runs here, and has its own.
    """
    if is_listening:
        return [Finding("ports", "ok", "the node that runs listens")]
    found = [Finding("ports", "fix", text, f"shoal start {flag} {free_port}") for _, flag, text in taken]
    return found or [Finding("ports", "ok", "free")]
