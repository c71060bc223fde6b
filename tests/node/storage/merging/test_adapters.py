"""Adapters of a run, added to their base as PEFT adds them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shoal.node.storage.hf_folder import export, reader_of
from shoal.node.storage.merging.adapters import base_folder, merged, read_config
from shoal.node.storage.model_file import NoModel

A = np.array([[1, 0, 2]], np.float32)
"""[r, in]"""
B = np.array([[1], [-1]], np.float32)
"""[out, r]"""
WRAPPED = "base_model.model.body.linear"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    tensors = {
        "body.linear.weight": torch.zeros(2, 3),
        "body.linear.bias": torch.zeros(2),
        "body.conv.weight": torch.zeros(3, 2),
        "head.weight": torch.ones(2, 2),
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def adapters(tmp_path: Path, **changes: object) -> Path:
    folder = tmp_path / "adapters"
    folder.mkdir(exist_ok=True)
    text = {"peft_type": "LORA", "r": 1, "lora_alpha": 4, "base_model_name_or_path": str(tmp_path / "base")}
    (folder / "adapter_config.json").write_text(json.dumps(text | changes))
    return folder


def halves(module: str = WRAPPED, a: Any = A, b: Any = B) -> dict[str, Any]:
    return {f"{module}.lora_A.default.weight": a, f"{module}.lora_B.default.weight": b}


def test_a_weight_gets_the_product_of_its_adapters_times_their_scale(base: Path, tmp_path: Path) -> None:
    config = read_config(adapters(tmp_path))
    found = merged(halves(), config, reader_of(base))
    assert list(found) == ["body.linear.weight"]
    np.testing.assert_array_equal(found["body.linear.weight"], [[4, 0, 8], [-4, 0, -8]])


def test_a_weight_that_stands_the_other_way_gets_it_turned(base: Path, tmp_path: Path) -> None:
    config = read_config(adapters(tmp_path, fan_in_fan_out=True))
    found = merged(halves("base_model.model.body.conv"), config, reader_of(base))
    np.testing.assert_array_equal(found["body.conv.weight"], [[4, -4], [0, 0], [8, -8]])


def test_the_scale_of_rslora_is_by_the_root_of_the_rank(base: Path, tmp_path: Path) -> None:
    config = read_config(adapters(tmp_path, r=4, use_rslora=True))
    assert config.scale == 4 / math.sqrt(4)


def test_what_was_trained_whole_takes_the_place_of_the_bases(base: Path, tmp_path: Path) -> None:
    whole = {
        "base_model.model.head.modules_to_save.default.weight": np.full((2, 2), 5, np.float32),
        f"{WRAPPED}.base_layer.bias": np.full(2, 7, np.float32),
    }
    found = merged(halves() | whole, read_config(adapters(tmp_path)), reader_of(base))
    assert export(tmp_path / "out", base, found, "").n_kept == 1
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written["head.weight"].tolist() == [[5, 5], [5, 5]]
    assert written["body.linear.bias"].tolist() == [7, 7]
    assert written["body.conv.weight"].tolist() == [[0, 0]] * 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (halves("base_model.model.nowhere"), "nowhere.weight is no tensor of"),
        (halves(a=A[:, :2]), r"and its weight in the base is \[2, 3\]"),
        (halves(b=np.ones((2, 3), np.float32)), r"and its weight in the base is \[2, 3\]"),
        ({f"{WRAPPED}.lora_A.default.weight": A}, "merge_and_unload"),
        ({f"{WRAPPED}.lora_magnitude_vector.default.weight": A} | halves(), "merge_and_unload"),
        ({f"{WRAPPED}.lora_embedding_A.default": A}, "merge_and_unload"),
    ],
)
def test_what_does_not_fit_is_refused(given: Any, told: str, base: Path, tmp_path: Path) -> None:
    with pytest.raises(NoModel, match=told):
        merged(given, read_config(adapters(tmp_path)), reader_of(base))


@pytest.mark.parametrize(
    "changes", [{"use_dora": True}, {"peft_type": "IA3"}, {"rank_pattern": {"a": 2}}, {"r": 0}]
)
def test_adapters_that_act_otherwise_are_refused(changes: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(NoModel, match="merge_and_unload"):
        read_config(adapters(tmp_path, **changes))


def test_a_base_is_where_the_adapters_say_or_must_be_named(base: Path, tmp_path: Path) -> None:
    folder = adapters(tmp_path)
    assert base_folder(folder, read_config(folder)) == base
    folder = adapters(tmp_path, base_model_name_or_path="somebody/model")
    with pytest.raises(NoModel, match="somebody/model, which is no folder here: name it with --base"):
        base_folder(folder, read_config(folder))
    with pytest.raises(NoModel, match=r"holds no adapter_config\.json"):
        read_config(base)
    (folder / "adapter_config.json").write_text("no json")
    with pytest.raises(NoModel, match="cannot be read"):
        read_config(folder)
