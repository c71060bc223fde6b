"""The examples run as they are told to be run."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        # Ctrl-C, so that each stops the node that it started.
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def left_behind(home: Path) -> list[list[str]]:
    """Return the command lines of processes that still work in a home."""
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(home) in " ".join(line)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_plain_loop_in_two_processes_ends_with_one_model(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    port = free_port()
    common = ["--every=20", "--rounds=12", "--node-option=--no-mdns", "--node-option=--no-dht"]
    common += ["--node-option=--wait-for=2", "--node-option=--swarm=plain-loop-test"]
    for index, extra in enumerate(([f"--node-option=--port={port}"], [f"--join=127.0.0.1:{port}"]), 1):
        home = tmp_path / str(index)
        command = [sys.executable, str(ROOT / "examples" / "plain_loop.py"), f"--home={home}"]
        command += [f"--share={index}/2", *common, *extra]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        processes.append(process)
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    said = [re.search(r"accuracy (0\.\d+) after 12 rounds", output) for output in outputs]
    assert said[0] is not None
    assert said[1] is not None, outputs
    # Equal to three digits: the same model on the same test set.
    assert said[0][1] == said[1][1]
    assert float(said[0][1]) > 0.7
    for index in (1, 2):
        log = (tmp_path / str(index) / "node.log").read_text()
        assert "Traceback" not in log, log
    # Whoever started a node has stopped it.
    assert left_behind(tmp_path) == []
