"""Folders of Hugging Face's: names, dtypes and shards of the base, with what was trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shoal.node.storage.hf_folder import base_of, export
from shoal.node.storage.model_file import NoModel, aliases_of

BASE = {
    "body.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "head.weight": torch.tensor([0.1, -0.2, 3.0], dtype=torch.bfloat16),
    "frozen": torch.tensor([1.5, 2.5], dtype=torch.float16),
    "count": torch.tensor([7]),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    save_file(BASE, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "mine"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("of the base")
    (folder / "pytorch_model.bin").write_bytes(b"old")
    return folder


def trained() -> dict[str, Any]:
    return {
        "body.weight": np.full((2, 3), 0.5, np.float32),
        "head.weight": np.array([1.00390625, -3e-3, np.inf], np.float32),
    }


def test_what_was_trained_stands_under_the_names_and_in_the_dtypes_of_the_base(
    base: Path, tmp_path: Path
) -> None:
    done = export(tmp_path / "out", base, trained(), "a card")
    assert (done.n_trained, done.n_kept) == (2, 2)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in found.items()} == {n: t.dtype for n, t in BASE.items()}
    assert torch.equal(found["body.weight"], torch.full((2, 3), 0.5))
    # As torch rounds: to the nearest, ties to even.
    expected = torch.from_numpy(trained()["head.weight"]).to(torch.bfloat16)
    assert torch.equal(found["head.weight"], expected)
    assert torch.equal(found["frozen"], BASE["frozen"])
    assert torch.equal(found["count"], BASE["count"])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.safetensors", "config.json", "tokenizer.json", "README.md"}
    assert (tmp_path / "out" / "README.md").read_text() == "a card"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_all_floating_tensors_are_written_in_the_dtype_that_is_wanted(
    dtype: str, base: Path, tmp_path: Path
) -> None:
    export(tmp_path / "out", base, trained(), "", dtype)
    found = load_file(tmp_path / "out" / "model.safetensors")
    kind = getattr(torch, dtype)
    assert {tensor.dtype for name, tensor in found.items() if name != "count"} == {kind}
    assert torch.equal(found["count"], BASE["count"])
    assert torch.equal(found["frozen"], BASE["frozen"].to(kind))
    assert torch.equal(found["head.weight"], torch.from_numpy(trained()["head.weight"]).to(kind))


@pytest.mark.parametrize("seed", range(20))
def test_bfloat16_is_rounded_as_torch_does(seed: int) -> None:
    from shoal.node.storage.hf_folder import _bfloat16

    dice = np.random.default_rng(seed)
    values = dice.integers(0, 1 << 32, 1000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    ours = torch.from_numpy(_bfloat16(values).view(np.int16).copy()).view(torch.bfloat16)
    assert torch.equal(torch.nan_to_num(ours, 0), torch.nan_to_num(torch.from_numpy(values).bfloat16(), 0))
    assert torch.equal(ours.isnan(), torch.from_numpy(np.isnan(values)))


def test_a_large_model_is_written_in_several_files_with_an_index(base: Path, tmp_path: Path) -> None:
    export(tmp_path / "out", base, trained(), "", shard_size=24)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 24 + 6 + 4 + 8
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    assert len(files) > 1
    found = {k: v for name in files for k, v in load_file(tmp_path / "out" / name).items()}
    assert found.keys() == BASE.keys()
    # And it is a base itself.
    export(tmp_path / "again", tmp_path / "out", trained(), "")
    assert torch.equal(
        load_file(tmp_path / "again" / "model.safetensors")["body.weight"], found["body.weight"]
    )


def test_names_that_a_wrapper_made_longer_are_found(base: Path, tmp_path: Path) -> None:
    export(tmp_path / "out", base, {f"model.{name}": array for name, array in trained().items()}, "")
    assert load_file(tmp_path / "out" / "model.safetensors")["body.weight"][0, 0] == 0.5


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"other": np.zeros(2, np.float32)}, "1 tensors of the run are not in the base, such as other"),
        ({**trained(), "more": np.zeros(2, np.float32)}, "such as more: name the folder of the model"),
        ({"body.weight": np.zeros((3, 2), np.float32)}, r"is \[3, 2\] in the run and \[2, 3\] in the base"),
        ({"count": np.zeros(1, np.float32)}, "count is I64 in the base"),
    ],
)
def test_the_base_of_another_model_is_refused(
    arrays: dict[str, Any], words: str, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(NoModel, match=words):
        export(tmp_path / "out", base, arrays, "")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_or_a_base_that_is_none_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(NoModel, match="base exists; choose another name"):
        export(base, base, trained(), "")
    with pytest.raises(NoModel, match="write hf:PATH"):
        base_of("./base")
    with pytest.raises(NoModel, match=r"neither config.json nor adapter_config.json"):
        base_of(f"hf:{tmp_path}")
    (base / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(NoModel, match="holds a damaged model"):
        export(tmp_path / "out", base, trained(), "")
    (base / "model.safetensors").unlink()
    with pytest.raises(NoModel, match="safe_serialization=True"):
        export(tmp_path / "out", base, trained(), "")


def test_adapters_lose_the_name_that_peft_gives_them(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    name = "base_model.model.h.0.attn.lora_A"
    save_file({f"{name}.weight": torch.zeros(2, 3)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    export(tmp_path / "out", folder, {f"{name}.default.weight": np.ones((2, 3), np.float32)}, "")
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert torch.equal(found[f"{name}.weight"], torch.ones(2, 3))
    assert (tmp_path / "out" / "adapter_config.json").exists()


def test_second_names_of_tied_tensors_are_told() -> None:
    about = np.frombuffer(b'{"aliases": {"head": "embed"}, "packed": []}', np.uint8)
    assert aliases_of({"shoal": about}) == {"head": "embed"}
    assert aliases_of({}) == aliases_of({"shoal": about[:4]}) == {}
