"""Vision transformers, and what transformers computes by them, for tests/networks/test_vit.py.

    PYTHON benchmarks/make_reference_backbones.py [FOLDER]

PYTHON has torch and transformers (5.17 with torch 2.14 made those that are there), which are no
dependencies of featcache. Each family gets a folder with a randomly initialised network, as
`save_pretrained` writes it, and `reference.npz`: images as the network expects them, (n, height,
width, 3), all tokens and what the family's authors take of them, for three sizes of image.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

FOLDER = Path(__file__).parent.parent / "tests" / "networks" / "reference"
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
SMALL |= {"image_size": 24, "intermediate_size": 24}
DINO = SMALL | {"mlp_ratio": 2}
DINOV3 = SMALL | {"num_register_tokens": 3}
FAMILIES = {
    "dinov2": ("Dinov2Model", "Dinov2Config", DINO),
    "dinov2-gated": ("Dinov2Model", "Dinov2Config", DINO | {"use_swiglu_ffn": True}),
    "dinov2-registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        DINO | {"num_register_tokens": 3},
    ),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", DINOV3),
    "dinov3-gated": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        DINOV3 | {"use_gated_mlp": True, "query_bias": False, "value_bias": False},
    ),
    "vit": ("ViTModel", "ViTConfig", SMALL),
    "deit": ("DeiTModel", "DeiTConfig", SMALL),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", SMALL),
    "siglip2": ("Siglip2VisionModel", "Siglip2VisionConfig", SMALL | {"num_patches": 9}),
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", SMALL),
}
SIZES = ((24, 24), (40, 32), (16, 24))  # the positions' own, larger, and smaller in one direction
OWN_POOLING = ("vit", "deit")  # whose pooler is a layer that training added: the token counts
STATISTICS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter a value that would show if it were forgotten."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.3))
            if (name.endswith("weight") and parameter.ndim == 1) or name.endswith("lambda1"):
                parameter.add_(1.0)
    return model.eval()


def inputs_of(family: str, images: torch.Tensor) -> dict[str, Any]:
    """Return what a family's model takes for images (1, 3, height, width)."""
    if family == "siglip2":  # cut into patches beforehand
        _, n_channels, height, width = images.shape
        side = SMALL["patch_size"]
        shape = (height // side, width // side)
        cut = images.reshape(1, n_channels, shape[0], side, shape[1], side)
        patches = cut.permute(0, 2, 4, 3, 5, 1).reshape(1, shape[0] * shape[1], -1)
        return {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(1, patches.shape[1]),
            "spatial_shapes": torch.tensor([shape]),
        }
    more = {} if family.startswith("dino") else {"interpolate_pos_encoding": True}
    return {"pixel_values": images, **more}


def main() -> None:
    root = Path(sys.argv[1]) if sys.argv[1:] else FOLDER
    for family, (kind, config, values) in FAMILIES.items():
        made = getattr(transformers, config)(**values)
        model = randomised(getattr(transformers, kind)(made))
        folder = root / family
        model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(STATISTICS))
        arrays = {}
        for height, width in SIZES:
            images = torch.randn(1, 3, height, width)
            with torch.no_grad():
                found = model(**inputs_of(family, images))
            tokens = found.last_hidden_state.numpy()
            pooled = tokens[:, 0] if family in OWN_POOLING else found.pooler_output.numpy()
            size = f"{height}x{width}"
            arrays[f"{size} images"] = images.numpy().transpose(0, 2, 3, 1)
            arrays[f"{size} tokens"] = tokens
            arrays[f"{size} pooled"] = pooled
        np.savez_compressed(folder / "reference.npz", **arrays)


if __name__ == "__main__":
    main()
