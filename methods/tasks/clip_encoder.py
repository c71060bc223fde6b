"""CLIP's image encoder, read from the files in which such models are published, to be fine-tuned at its end.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021,
https://arxiv.org/abs/2103.00020. A folder with config.json and model.safetensors, or the name of one on the
Hugging Face hub, such as laion/CLIP-ViT-B-32-laion2B-s34B-b79K.

    pixels --patches, class token, places, norm--> h --block--> h ... --block--> h --norm--> h[class token]
           '------------- stem: frozen, computed once per image ----' '---- tail: what is trained ----'

Why not the transformers library: it is large, and how its blocks are called changes between its versions,
while the files have been the same since 2021. The numbers are the same; a test holds some of them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional

from shoal.methods.errors import BadOption

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
PREFIX: Final = "vision_model."
"""Of the image encoder's tensors, where the text encoder is in the file too."""
PARTS: Final = ("embeddings.", "pre_layrnorm.", "encoder.layers.", "post_layernorm.")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model's config says."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


class Attention(nn.Module):  # type: ignore[misc]  # torch's classes are unknown to mypy, see pyproject.toml
    """Every token looks at every token."""

    def __init__(self, shape: Shape) -> None:
        """The names of the layers are those in the files."""
        super().__init__()
        self.heads = shape.num_attention_heads
        self.q_proj = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.k_proj = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.v_proj = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.out_proj = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(self, h_BTD: torch.Tensor) -> torch.Tensor:
        """Return what each token found."""
        q, k, v = (
            project(h_BTD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        found_BHTd = functional.scaled_dot_product_attention(q, k, v)
        mixed: torch.Tensor = self.out_proj(found_BHTd.transpose(1, 2).flatten(-2))
        return mixed


class Perceptron(nn.Module):  # type: ignore[misc]
    """Two layers on each token alone."""

    def __init__(self, shape: Shape) -> None:
        """See `Attention`."""
        super().__init__()
        self.fc1 = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.fc2 = nn.Linear(shape.intermediate_size, shape.hidden_size)
        self.is_quick = shape.hidden_act == "quick_gelu"

    def forward(self, h_BTD: torch.Tensor) -> torch.Tensor:
        """Return each token's outcome."""
        inner = self.fc1(h_BTD)
        active = inner * torch.sigmoid(1.702 * inner) if self.is_quick else functional.gelu(inner)
        outcome: torch.Tensor = self.fc2(active)
        return outcome


class Block(nn.Module):  # type: ignore[misc]
    """A layer of the transformer."""

    def __init__(self, shape: Shape) -> None:
        """See `Attention`."""
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)
        self.self_attn = Attention(shape)
        self.layer_norm2 = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)
        self.mlp = Perceptron(shape)

    def forward(self, h_BTD: torch.Tensor) -> torch.Tensor:
        """Return the tokens after this layer."""
        h_BTD = h_BTD + self.self_attn(self.layer_norm1(h_BTD))
        return h_BTD + self.mlp(self.layer_norm2(h_BTD))


class Encoder(nn.Module):  # type: ignore[misc]
    """The whole image encoder."""

    def __init__(self, shape: Shape) -> None:
        """Build it; the numbers come from a file."""
        super().__init__()
        self.shape = shape
        places = (shape.image_size // shape.patch_size) ** 2 + 1
        self.embeddings = nn.ParameterDict({"class_embedding": torch.zeros(shape.hidden_size)})
        self.patches = nn.Conv2d(3, shape.hidden_size, shape.patch_size, shape.patch_size, bias=False)
        self.places = nn.Embedding(places, shape.hidden_size)
        self.pre_layrnorm = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)
        self.layers = nn.ModuleList([Block(shape) for _ in range(shape.num_hidden_layers)])
        self.post_layernorm = nn.LayerNorm(shape.hidden_size, shape.layer_norm_eps)

    def stem(self, pixels: torch.Tensor, blocks: int) -> torch.Tensor:
        """Return the tokens [batch, tokens, hidden] after all but the last so many blocks."""
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        first = self.embeddings["class_embedding"].expand(len(pixels), 1, -1)
        h_BTD: torch.Tensor = self.pre_layrnorm(torch.cat([first, patches], 1) + self.places.weight)
        for block in self.layers[: len(self.layers) - blocks]:
            h_BTD = block(h_BTD)
        return h_BTD


class Tail(nn.Module):  # type: ignore[misc]
    """The last blocks of an encoder and its last norm; tokens in, one vector out."""

    def __init__(self, encoder: Encoder, blocks: int) -> None:
        """Take over the encoder's own modules."""
        super().__init__()
        self.layers = encoder.layers[len(encoder.layers) - blocks :]
        self.post_layernorm = encoder.post_layernorm

    def forward(self, h_BTD: torch.Tensor) -> torch.Tensor:
        """Return the class token."""
        # Tokens are kept as 16-bit numbers, of which there are many.
        h_BTD = h_BTD.to(self.post_layernorm.weight.dtype)
        for block in self.layers:
            h_BTD = block(h_BTD)
        first: torch.Tensor = self.post_layernorm(h_BTD[:, 0])
        return first


def find_model(name: str) -> Path:
    """Return the folder of a model: this one, or a copy of one on the hub.

    Raises:
        BadOption: there is none.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise BadOption(
            f"model = {name}: no such folder; for a name on the hub, pip install huggingface_hub"
        ) from None
    try:
        # Never code, and never a pickle: only these two files.
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or ["it cannot be reached"])[0]
        raise BadOption(f"model = {name}: no such folder, and not from the hub: {reason}") from error


def load_encoder(folder: Path) -> Encoder:
    """Read an encoder.

    Raises:
        BadOption: a file is missing, or holds something else.
    """
    try:
        told: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
        told = told.get("vision_config") or told
        fields = {name: told[name] for name in Shape.__dataclass_fields__ if name in told}
        encoder = Encoder(Shape(**fields))
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            tensors = {
                _renamed(name): file.get_tensor(name).float()
                for name in file.keys()  # noqa: SIM118  # it is no mapping
                if name.removeprefix(PREFIX).startswith(PARTS) and not name.endswith("position_ids")
            }
        encoder.load_state_dict(tensors)
    except FileNotFoundError as error:
        raise BadOption(
            f"model = {folder}: {error.filename} is missing; it takes {CONFIG}, {WEIGHTS}"
        ) from None
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise BadOption(f"model = {folder} is no CLIP image encoder: {reason}") from error
    encoder.eval().requires_grad_(False)
    return encoder


def _renamed(name: str) -> str:
    """Return our name of a tensor; most are as in the files."""
    name = name.removeprefix(PREFIX)
    for theirs, ours in (
        ("embeddings.patch_embedding.", "patches."),
        ("embeddings.position_embedding.", "places."),
        ("encoder.layers.", "layers."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
