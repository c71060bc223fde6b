"""The examples of frameworks run as they are told to be run, and both processes end with one model."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SAID = {
    "hf_lora": r"loss \d+\.\d+ -> (\d+\.\d+), \d+ adapter tensors, sum (-?\d+\.\d+)",
    "flower_client": r"accuracy (0\.\d+)",
    "lightning_vit": r"accuracy (0\.\d+)",
    "torchrun_fsdp2": r"accuracy (0\.\d+)",
}
NEEDS = {
    "hf_lora": ("transformers", "peft", "accelerate"),
    "flower_client": ("flwr",),
    "lightning_vit": ("lightning",),
    "torchrun_fsdp2": (),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate()


@pytest.mark.parametrize("name", SAID)
def test_two_processes_end_with_one_model(
    name: str, tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    for each in NEEDS[name]:
        if importlib.util.find_spec(each) is None:
            pytest.skip(f"{each} is not installed; see docs/frameworks.md")
    port = free_port()
    for index, extra in enumerate(([f"--node-option=--port={port}"], [f"--join=127.0.0.1:{port}"]), 1):
        command = [sys.executable]
        if name == "torchrun_fsdp2":
            command += ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
        command += [str(EXAMPLES / f"{name}.py"), f"--home={tmp_path / str(index)}", *extra]
        command += [f"--seed={index}"] if name == "hf_lora" else [f"--share={index}/2"]
        command += ["--node-option=--no-mdns", "--node-option=--no-dht", "--node-option=--wait-for=2"]
        command += [f"--node-option=--swarm={name}"]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
            )
        )
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    said = [re.search(SAID[name], output) for output in outputs]
    assert said[0] is not None, outputs
    assert said[1] is not None, outputs
    assert said[0].groups()[-1] == said[1].groups()[-1], outputs
    if name != "hf_lora":
        assert float(said[0][1]) > 0.7
