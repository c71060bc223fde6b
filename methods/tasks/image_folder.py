"""Images of a user's own: from folders, or from a dataset on the hub, as an encoder wants them.

    DATA/train/CLASS/any.png    DATA/test/CLASS/any.jpg      the names of the folders are the classes
    DATA/validation/CLASS/any.png                            if there is one

A name that is no folder is one of a dataset on the Hugging Face hub, such as cifar10, which the library
`datasets` fetches and decodes; it runs no code of the dataset.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from sklearn.model_selection import train_test_split

from shoal.methods.errors import BadOption
from shoal.methods.tasks.shares import check_validation

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
"""Of the pixels that CLIP was trained on, by colour; the encoder expects it to be taken away."""
DEVIATION: Final = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class Split:
    """One half of a dataset."""

    source: Any
    """Paths, or a dataset of the library."""
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def pixels(self, indices: npt.NDArray[np.int64], size: int) -> Iterator[torch.Tensor]:
        """Yield images as an encoder takes them, [3, size, size].

        Raises:
            BadOption: a file is no image.
        """
        for index in indices.tolist():
            yield to_pixels(self._image(index), size)

    def cut(self, share: float) -> "tuple[Split, Split | None]":
        """Return the rest, and this share of the images, stratified by class; None where the share is 0."""
        if not share:
            return self, None
        rest, held = train_test_split(
            np.arange(len(self.labels)), test_size=share, random_state=1, stratify=self.labels
        )
        return self._at(np.sort(rest)), self._at(np.sort(held))

    def _at(self, indices: npt.NDArray[np.int64]) -> "Split":
        found = indices.tolist()
        is_paths = isinstance(self.source, tuple)
        source = tuple(self.source[i] for i in found) if is_paths else self.source.select(found)
        return replace(self, source=source, labels=self.labels[indices])

    def _image(self, index: int) -> Image.Image:
        if not isinstance(self.source, tuple):
            found: Image.Image = self.source[index]["image"]
            return found
        try:
            with Image.open(self.source[index]) as image:
                return image.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise BadOption(f"data: {self.source[index]} is no image ({error}); remove it") from error


def find_training(data: str, validation: float) -> tuple[Split, Split | None]:
    """Return what is trained on, and what values are chosen on: its own folder, or else a share cut off.

    Raises:
        BadOption: the data are not there, or the share is not from 0 to 0.5.
    """
    check_validation(validation)
    train = find_split(data, "train")
    if (Path(data) / "validation").is_dir():
        return train, find_split(data, "validation")
    try:
        return train.cut(validation)
    except ValueError as error:
        # scikit-learn says which class has too few.
        raise BadOption(f"validation = {validation}: {_first_line(error)}; choose another share") from None


def find_split(data: str, name: str) -> Split:
    """Return the half of this name, ``train`` or ``test``, of a dataset.

    Raises:
        BadOption: there is none, or it has no images.
    """
    return _in_folders(Path(data) / name) if Path(data).is_dir() else _on_hub(data, name)


def to_pixels(image: Image.Image, size: int) -> torch.Tensor:
    """Return the middle of an image, its shorter side scaled to `size`, as an encoder takes it."""
    image = image.convert("RGB")
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    scaled = image.resize((width, height), Image.Resampling.BICUBIC).crop(
        (left, top, left + size, top + size)
    )
    pixels = torch.tensor(np.asarray(scaled, np.float32) / 255).permute(2, 0, 1)
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)


def _in_folders(folder: Path) -> Split:
    classes = sorted(path.name for path in folder.glob("*") if path.is_dir())
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise BadOption(f"data: no images in {folder}; lay them out as {folder}/CLASS/image.png")
    return Split(tuple(paths), np.array(labels, np.int64), tuple(classes))


def _on_hub(data: str, name: str) -> Split:
    try:
        from datasets import load_dataset
    except ImportError:
        raise BadOption(
            f"data = {data}: no such folder; for a name on the hub, pip install datasets"
        ) from None
    try:
        found = load_dataset(data, split=name)
    except (OSError, ValueError) as error:
        reason = _first_line(error) or "it cannot be reached"
        raise BadOption(f"data = {data}: no such folder, and not from the hub: {reason}") from error
    column = next((each for each in ("label", "fine_label", "labels") if each in found.column_names), None)
    image = next((each for each in ("image", "img") if each in found.column_names), None)
    if column is None or image is None:
        raise BadOption(
            f"data = {data} has columns {', '.join(found.column_names)}; it takes image and label"
        )
    if image != "image":
        found = found.rename_column(image, "image")
    return Split(found, np.array(found[column], np.int64), tuple(found.features[column].names))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
