"""Image tasks: a published encoder's files are read rightly, and a tiny copy of one is fine-tuned."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lockstep import names, run_round
from PIL import Image
from safetensors.torch import save_file

from shoal.methods.base import Report, State
from shoal.methods.deltamask.masking import where
from shoal.methods.deltamask.method import DeltaMask, DeltaMaskConfig
from shoal.methods.errors import BadOption
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.matu.method import MaTU, MaTUConfig
from shoal.methods.matu.part_work import parts_of
from shoal.methods.tasks.clip_encoder import Encoder, Shape, Tail, find_model, load_encoder
from shoal.methods.tasks.image_folder import find_split, to_pixels
from shoal.methods.tasks.image_tasks import HEAD_FILE, Images, ImageTasks

SHAPE = Shape(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    image_size=32,
    patch_size=8,
)
RENAMED = {"patches.": "embeddings.patch_embedding.", "places.": "embeddings.position_embedding."}


def published_name(name: str) -> str:
    for ours, theirs in RENAMED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return "encoder." + name if name.startswith("layers.") else name


def save_clip(
    folder: Path, act: str = "quick_gelu", prefix: str = "vision_model.", *, is_random: bool = True
) -> Path:
    """Write a tiny encoder as the hub has them: random numbers, or sines by the order of the names."""
    published = {published_name(name): tensor for name, tensor in Encoder(SHAPE).state_dict().items()}
    dice = torch.Generator().manual_seed(0)
    tensors = {}
    for i, name in enumerate(sorted(published)):
        count = published[name].numel()
        sine = torch.sin(torch.arange(count) * 0.7 + i) * 0.3
        flat = torch.randn(count, generator=dice) * 0.2 if is_random else sine
        tensors[prefix + name] = flat.view(published[name].shape)
    folder.mkdir()
    save_file({**tensors, "text_model.final_layer_norm.bias": torch.zeros(4)}, folder / "model.safetensors")
    config = {name: getattr(SHAPE, name) for name in Shape.__dataclass_fields__} | {"hidden_act": act}
    (folder / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": config}))
    return folder


def save_images(folder: Path, classes: dict[str, tuple[int, int, int]], each: int = 8) -> Path:
    """Write noisy pictures of one colour per class."""
    dice = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, color in classes.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(each):
                pixels = dice.normal(color, 30, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return save_clip(tmp_path / "clip")


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    return save_images(
        tmp_path / "colors", {"blue": (30, 30, 200), "green": (30, 200, 30), "red": (200, 30, 30)}
    )


# --- the encoder ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        ("quick_gelu", [-0.3464028, 0.3006144, 0.2520104, -0.0688071, -0.4654612]),
        ("gelu", [-0.3463615, 0.3001589, 0.2520095, -0.0687651, -0.4657336]),
    ],
)
@pytest.mark.parametrize("prefix", ["vision_model.", ""])
def test_its_numbers_are_those_of_the_reference(
    tmp_path: Path, act: str, prefix: str, expected: list[float]
) -> None:
    # From transformers 5.23, CLIPVisionModel.pooler_output with the same tensors.
    encoder = load_encoder(save_clip(tmp_path / act, act, prefix, is_random=False))
    pixels = torch.cos(torch.arange(3 * 32 * 32) * 0.01).view(1, 3, 32, 32)
    for blocks in (0, 1, 3):
        found = Tail(encoder, blocks)(encoder.stem(pixels, blocks))
        torch.testing.assert_close(found[0, :5], torch.tensor(expected), atol=1e-5, rtol=0)


def test_files_that_hold_something_else_are_refused_in_one_line(clip: Path, tmp_path: Path) -> None:
    (clip / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(BadOption, match="is no CLIP image encoder"):
        load_encoder(clip)
    (clip / "model.safetensors").unlink()
    with pytest.raises(BadOption, match="missing"):
        load_encoder(clip)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadOption, match="missing"):
        load_encoder(tmp_path / "empty")


def test_a_name_that_is_no_folder_comes_from_the_hub(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        if name == "nobody/nothing":
            raise OSError("401 no such repository\nand much more")
        return str(clip)

    hub = types.ModuleType("huggingface_hub")
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download, raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert find_model("laion/CLIP") == clip
    assert asked == [("laion/CLIP", ["config.json", "model.safetensors"])]
    with pytest.raises(BadOption, match="not from the hub: 401 no such repository$"):
        find_model("nobody/nothing")


def test_without_the_hub_s_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadOption, match="pip install huggingface_hub"):
        find_model("laion/CLIP")
    with pytest.raises(BadOption, match="pip install datasets"):
        find_split("cifar10", "train")


# --- the images -----------------------------------------------------------------------------------


def test_folders_are_classes(colors: Path) -> None:
    split = find_split(str(colors), "train")
    assert split.classes == ("blue", "green", "red")
    assert np.bincount(split.labels).tolist() == [8, 8, 8]
    (pixels,) = split.pixels(np.array([20]), 32)
    assert pixels.shape == (3, 32, 32)
    assert pixels[0].mean() > pixels[1].mean()


def test_pixels_are_the_middle_of_the_picture() -> None:
    wide = Image.new("RGB", (90, 30), (0, 0, 0))
    wide.paste((255, 255, 255), (30, 0, 60, 30))
    assert to_pixels(wide, 30).min() > 1.5


def test_folders_without_images_and_files_that_are_none_are_refused(colors: Path, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="no images in"):
        find_split(str(tmp_path), "train")
    (colors / "train" / "red" / "0.png").write_bytes(b"not a picture")
    with pytest.raises(BadOption, match="is no image"):
        list(find_split(str(colors), "train").pixels(np.arange(24), 32))


def test_a_dataset_on_the_hub_is_read_by_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    class Table:
        column_names = ("img", "label")

        def __init__(self) -> None:
            self.features = {"label": types.SimpleNamespace(names=["cat", "dog"])}

        def __getitem__(self, key: str | int) -> object:
            return [0, 1, 1] if key == "label" else {"image": Image.new("L", (10, 10), 255)}

        def rename_column(self, old: str, new: str) -> "Table":
            assert (old, new) == ("img", "image")
            return self

    library = types.ModuleType("datasets")
    monkeypatch.setattr(library, "load_dataset", lambda name, split: Table(), raising=False)
    monkeypatch.setitem(sys.modules, "datasets", library)
    split = find_split("cifar10", "test")
    assert split.classes == ("cat", "dog")
    assert split.labels.tolist() == [0, 1, 1]
    assert next(split.pixels(np.array([1]), 8)).shape == (3, 8, 8)


# --- fine-tuning ----------------------------------------------------------------------------------


def rounds(
    method: DeltaMask | MaTU, learners: list[TorchLearner], count: int
) -> tuple[list[State], list[Report]]:
    peers = names(len(learners))
    states = dict.fromkeys(peers, method.init(learners[0].initial))
    reports: list[Report] = []
    for round_ in range(count):
        steps = {p: method.round(states[p], each, round_) for p, each in zip(peers, learners, strict=True)}
        ended = run_round(steps)
        states = {peer: ended.results[peer][0] for peer in peers}
        reports = [ended.results[peer][1] for peer in peers]
    return list(states.values()), reports


def test_the_body_is_the_weights_of_the_last_blocks(clip: Path, colors: Path) -> None:
    learner = TorchLearner(Images(str(colors), str(clip), blocks=2), seed=0)
    hidden, inner = SHAPE.hidden_size, SHAPE.intermediate_size
    assert where(learner, "body").sum() == 2 * (4 * hidden * hidden + 2 * hidden * inner)
    assert where(learner, "head").sum() == 3 * hidden + 3


def test_a_tiny_encoder_is_masked_by_two_peers(clip: Path, colors: Path) -> None:
    learners = [TorchLearner(Images(str(colors), str(clip), f"{i}/2", blocks=1), seed=0) for i in (1, 2)]
    method = DeltaMask(DeltaMaskConfig(head_rounds=6, head_lr=0.01, steps=4))
    states, reports = rounds(method, learners, 9)
    assert states[0].params.tobytes() == states[1].params.tobytes()
    assert reports[0].metrics["bits_per_weight"] > 0
    assert learners[0].evaluate(states[0].params)["accuracy"] >= 0.6


def test_only_low_rank_changes_travel_and_two_datasets_share_them(
    clip: Path, colors: Path, tmp_path: Path
) -> None:
    grays = save_images(tmp_path / "grays", {"dark": (50, 50, 50), "light": (200, 200, 200)})
    hidden = SHAPE.hidden_size
    save_file({"weight": torch.randn(2, hidden)}, grays / HEAD_FILE)
    one = TorchLearner(ImageTasks(f"{colors},{grays}", str(clip), "1/2", blocks=2, rank=4), seed=0)
    other = TorchLearner(ImageTasks(str(grays), str(clip), "2/2", blocks=2, rank=4), seed=0)
    assert one.initial.size == 2 * 2 * (4 * hidden + hidden * 4)
    assert one.initial.tobytes() == other.initial.tobytes()
    assert parts_of(one)[1].identity == parts_of(other)[0].identity
    states, reports = rounds(MaTU(MaTUConfig(steps=10, lr=0.01)), [one, other], 4)
    assert {k: v.tobytes() for k, v in states[0].shared.items()} == {
        k: v.tobytes() for k, v in states[1].shared.items()
    }
    assert set(reports[0].metrics) >= {"accuracy", "accuracy colors", "accuracy grays"}
    assert reports[0].metrics["accuracy grays"] >= 0.8


def test_another_encoder_makes_another_task(clip: Path, colors: Path, tmp_path: Path) -> None:
    other = save_clip(tmp_path / "other", prefix="")
    tensors = load_encoder(other).state_dict()
    tensors["layers.0.mlp.fc1.bias"] += 1
    save_file({published_name(name): tensor for name, tensor in tensors.items()}, other / "model.safetensors")
    ids = [
        parts_of(TorchLearner(ImageTasks(str(colors), str(folder), blocks=1)))[0].identity.id
        for folder in (clip, other)
    ]
    assert ids[0] != ids[1]


def test_as_one_task_it_can_be_averaged(clip: Path, colors: Path, tmp_path: Path) -> None:
    grays = save_images(tmp_path / "grays", {"dark": (50, 50, 50), "light": (200, 200, 200)})
    learner = TorchLearner(ImageTasks(f"{colors},{grays}", str(clip), blocks=1), seed=0)
    trained = learner.train(learner.initial, steps=5, lr=0.01, batch_size=16)
    assert set(learner.evaluate(trained.params)) == {"accuracy", "accuracy colors", "accuracy grays"}


@pytest.mark.parametrize("options", [{"blocks": 4}, {"blocks": 0}, {"rank": 0}])
def test_options_that_make_no_sense_are_refused(clip: Path, colors: Path, options: dict[str, int]) -> None:
    with pytest.raises(BadOption, match="choose from 1"):
        ImageTasks(str(colors), str(clip), **options)  # type: ignore[arg-type]


def test_a_head_of_another_shape_is_refused(clip: Path, colors: Path) -> None:
    save_file({"weight": torch.zeros(2, 5)}, colors / HEAD_FILE)
    with pytest.raises(BadOption, match="remove it or write it anew"):
        ImageTasks(str(colors), str(clip), blocks=1)


def test_images_are_put_aside_by_folder_or_by_share(tmp_path: Path) -> None:
    model = str(save_clip(tmp_path / "clip"))
    data = save_images(tmp_path / "data", {"red": (200, 0, 0), "blue": (0, 0, 200)})
    options: dict[str, Any] = {"model": model, "blocks": 1}
    assert Images(**{**options, "data": str(data)}).validation_data() is None
    cut = Images(**{**options, "data": str(data), "validation": 0.25})
    held = cut.validation_data()
    assert held is not None
    assert (len(cut.train_data()[0]), len(held[0])) == (12, 4)
    assert sorted(held[1].tolist()) == [0, 0, 1, 1]
    assert not {row.numpy().tobytes() for row in cut.train_data()[0]} & {
        row.numpy().tobytes() for row in held[0]
    }
    [part] = ImageTasks(**{**options, "data": str(data), "validation": 0.25}).parts().values()
    held = part.validation_data()
    assert held is not None
    assert len(held[0]) == 4
    (data / "test").rename(data / "validation")
    save_images(tmp_path / "more", {"red": (200, 0, 0), "blue": (0, 0, 200)}, each=2)
    (tmp_path / "more" / "test").rename(data / "test")
    held = Images(**{**options, "data": str(data)}).validation_data()
    assert held is not None
    assert len(held[0]) == 16
    (data / "validation").rename(data / "elsewhere")
    with pytest.raises(BadOption, match=r"validation = 0\.05: .*; choose another share"):
        Images(**{**options, "data": str(data), "validation": 0.05})
