"""Model files: what a node has saved comes out by name, exact or small, and foreign files are told apart."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import shoal
from shoal.gossip.events import Vector
from shoal.gossip.run_spec import RunSpec, TensorSpec, run_id
from shoal.gossip.state.tree_hash import state_hash
from shoal.methods.coding.codebook import encode_vector
from shoal.node.cli.main import main
from shoal.node.storage.checkpoint import Checkpoint, save
from shoal.node.storage.database import Store
from shoal.node.storage.home import Home
from shoal.node.storage.model_file import MAGIC, NoModel, newest, read_arrays, remember_spec, save_model

SPECS = (TensorSpec("0.weight", "float32", (64, 50)), TensorSpec("0.bias", "float32", (64,)))
NUMEL = 64 * 50 + 64


def params() -> Vector:
    return np.random.default_rng(0).standard_normal(NUMEL).astype(np.float32)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home in which a run of three rounds has left its state, and a shared vector with it."""
    return saved_home(tmp_path / "home", SPECS, params())


def saved_home(path: Path, specs: tuple[TensorSpec, ...], trained: Vector) -> Home:
    made = Home(path)
    made.create_key()
    numel = len(trained)
    shared = (TensorSpec("momentum", "float32", (numel,)),)
    spec = RunSpec(method="diloco", task="digits", tensors=specs, shared=shared)
    vector = np.concatenate([trained, np.zeros(numel, np.float32)])
    run = run_id(spec)
    layout = [("momentum", numel)]
    save(made.state_dir, Checkpoint(run, 3, state_hash(vector.data), b"", vector), shared=layout)
    store = Store(made.database)
    remember_spec(store, run, spec)
    store.close()
    return made


def test_what_a_node_saved_is_written_by_name_and_loads_into_the_model(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.safetensors"
    assert main(["model", "save", str(file), "--home", str(home.path)]) == 0
    assert "times smaller" not in capsys.readouterr().out  # than itself
    model = nn.Sequential(nn.Linear(50, 64))
    model.load_state_dict(shoal.load_model(file))
    assert torch.equal(model[0].weight.detach().reshape(-1), torch.tensor(params()[: 64 * 50]))


def test_with_few_values_a_file_is_a_fifth_and_has_no_more_of_them(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.shoal"
    assert main(["model", "save", str(file), "--values", "32", "--home", str(home.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == file.stat().st_size
    assert told["float32_bytes"] >= 5 * told["bytes"]
    assert told["round"] == 3
    arrays = read_arrays(file)
    assert arrays["0.weight"].shape == (64, 50)
    assert np.unique(arrays["0.weight"]).size <= 32
    assert np.abs(arrays["0.weight"].reshape(-1) - params()[: 64 * 50]).max() < 0.5


def test_a_slip_is_one_line(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.safetensors"
    file.touch()
    for arguments, words in (
        ([str(file), "--home", str(home.path)], "exists; choose another name"),
        ([str(tmp_path / "no" / "x"), "--home", str(home.path)], "choose another place"),
        ([str(tmp_path / "x"), "--home", str(tmp_path / "none")], "name it with --home"),
    ):
        assert main(["model", "save", *arguments]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert words in error


def test_a_node_that_has_saved_nothing_has_no_model(tmp_path: Path) -> None:
    store = Store(tmp_path / "shoal.db")
    with pytest.raises(NoModel, match="run a node with this --home first"):
        newest(tmp_path / "state", store)
    store.close()


@pytest.mark.parametrize("data", [b"", b"noise", MAGIC, MAGIC + bytes(4), MAGIC + b"\xff" * 40])
def test_a_foreign_file_is_no_model(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    with pytest.raises(NoModel, match="no model file"):
        read_arrays(file)


def test_a_file_that_announces_more_than_is_in_it_allocates_nothing(tmp_path: Path) -> None:
    specs = (TensorSpec("x", "float32", (1 << 40,)),)
    save_model(tmp_path / "honest", params(), SPECS, 8)
    data = (tmp_path / "honest").read_bytes()
    manifest = msgspec.msgpack.encode(specs)
    body = encode_vector(params(), SPECS, 8)
    (tmp_path / "giant").write_bytes(data[:4] + len(manifest).to_bytes(4, "little") + manifest + body)
    with pytest.raises(NoModel, match="announces more than is in it"):
        read_arrays(tmp_path / "giant")


def test_what_a_node_saved_is_exported_as_a_folder_of_hugging_faces(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    (base / "config.json").write_text("{}")
    tensors = {"0.weight": torch.zeros(64, 50), "0.bias": torch.zeros(64), "1.weight": torch.ones(2)}
    save_file(tensors, base / "model.safetensors")
    command = ["model", "export", str(out), "--like", f"hf:{base}", "--home", str(home.path)]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["tensors"], told["kept"], told["round"]) == (2, 1, 3)
    found = load_file(out / "model.safetensors")
    assert torch.equal(found["0.weight"].reshape(-1), torch.tensor(params()[: 64 * 50]))
    assert torch.equal(found["1.weight"], torch.ones(2))
    assert "| method | diloco |" in (out / "README.md").read_text()
    assert main(command) == 1
    assert "exists; choose another name" in capsys.readouterr().err
    assert main([*command, "--dtype", "int8"]) == 2
    assert "choose float32, float16, bfloat16" in capsys.readouterr().err


def test_adapters_of_a_run_are_exported_as_a_model_without_adapters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapters, out = tmp_path / "base", tmp_path / "adapters", tmp_path / "out"
    for folder, text in ((base, {}), (adapters, {"r": 2, "lora_alpha": 2, "peft_type": "LORA"})):
        folder.mkdir()
        (folder / ("config.json" if folder == base else "adapter_config.json")).write_text(json.dumps(text))
    save_file({"0.weight": torch.zeros(3, 4), "1.weight": torch.ones(2)}, base / "model.safetensors")
    stem = "base_model.model.0.lora"
    specs = (
        TensorSpec(f"{stem}_A.default.weight", "float32", (2, 4)),
        TensorSpec(f"{stem}_B.default.weight", "float32", (3, 2)),
    )
    home = saved_home(tmp_path / "home", specs, np.arange(14, dtype=np.float32))
    command = ["model", "export", str(out), "--like", f"hf:{adapters}", "--home", str(home.path)]
    assert main([*command, "--base", f"hf:{base}"]) == 2
    assert "add --merge" in capsys.readouterr().err
    assert main([*command, "--merge"]) == 1
    assert "name it with --base hf:PATH" in capsys.readouterr().err
    assert main([*command, "--merge", "--base", f"hf:{base}"]) == 0
    found = load_file(out / "model.safetensors")
    a, b = np.arange(8).reshape(2, 4), np.arange(8, 14).reshape(3, 2)
    assert found["0.weight"].tolist() == (b @ a).tolist()
    assert found["1.weight"].tolist() == [1, 1]
    assert not (out / "adapter_config.json").exists()
