"""Networks, and what transformers and timm compute by them, for test_vit.py and test_convnext.py.

    PYTHON benchmarks/make_reference_backbones.py FOLDER [FAMILY ...]

PYTHON has torch, transformers and timm (5.17 and 1.0.31 with torch 2.14 made those that are in
tests/networks/reference), which are no dependencies of featcache. Each family gets a folder with a
randomly initialised network, as these save it, and `reference.npz`: images as the network expects
them, (n, height, width, 3), all tokens or the map, and what the family's authors take of them, for
three sizes of image.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers

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
STAGES = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 2, 1, 1]}
CONVNEXT = {
    "convnext": ("ConvNextForImageClassification", "ConvNextConfig", STAGES),
    "convnextv2": ("ConvNextV2Model", "ConvNextV2Config", STAGES),
    "dinov3-convnext": ("DINOv3ConvNextModel", "DINOv3ConvNextConfig", STAGES),
}
STAGES_OF_TIMM = {"dims": [8, 12, 16, 20], "depths": [1, 2, 1, 1]}
OF_TIMM = {"embed_dim": 16, "depth": 2, "num_heads": 2}
TIMM = {
    "timm-convnext": ("convnext_tiny", STAGES_OF_TIMM),
    "timm-convnext-convolved": ("convnext_atto", STAGES_OF_TIMM),
    "timm-convnextv2": ("convnextv2_tiny", STAGES_OF_TIMM),
    "timm-vit": ("vit_tiny_patch16_224", OF_TIMM | {"patch_size": 8, "img_size": 24}),
    "timm-dinov2": ("vit_small_patch14_dinov2", OF_TIMM | {"patch_size": 8, "img_size": 24}),
    "timm-dinov2-registers": (
        "vit_small_patch14_reg4_dinov2",
        OF_TIMM | {"patch_size": 8, "img_size": 24},
    ),
    "timm-dinov2-gated": (
        "vit_giant_patch14_dinov2",
        OF_TIMM | {"patch_size": 8, "img_size": 24, "mlp_ratio": 3},
    ),
}
SIZES = ((24, 24), (40, 32), (16, 24))  # the positions' own, larger, and smaller in one direction
LARGER = ((32, 32), (64, 32), (37, 66))  # of maps, which stages halve
OWN_POOLING = ("vit", "deit")  # whose pooler is a layer that training added: the token counts
STATISTICS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}


# images (1, 3, height, width) to all tokens or the map, and what is taken of them
Run = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter a value that would show if it were forgotten."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.3))
            is_scale = name.endswith(("lambda1", "gamma", "layer_scale_parameter"))
            if (name.endswith("weight") and parameter.ndim == 1) or is_scale:
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
    is_plain = family.startswith("dino") or family in CONVNEXT
    more = {} if is_plain else {"interpolate_pos_encoding": True}
    return {"pixel_values": images, **more}


def of_transformers(family: str, folder: Path) -> Run:
    """Save a network of transformers and return what runs it."""
    kind, config, values = (FAMILIES | CONVNEXT)[family]
    made = getattr(transformers, config)(**values)
    model = randomised(getattr(transformers, kind)(made))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(STATISTICS))

    def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = getattr(model, "convnext", model)(**inputs_of(family, images))
        whole = found.last_hidden_state
        pooled = whole[:, 0] if family in OWN_POOLING else found.pooler_output
        if family == "dinov3-convnext":  # the mean is the first token
            height, width = (side // 32 for side in images.shape[2:])
            return whole[:, 1:].reshape(1, height, width, -1), pooled
        return whole.permute(0, 2, 3, 1) if whole.ndim == 4 else whole, pooled

    return run


def of_timm(family: str, folder: Path) -> Run:
    """Save a network of timm and return what runs it."""
    name, values = TIMM[family]
    is_vit = name.startswith("vit")
    more = {"dynamic_img_size": True} if is_vit else {}
    model = randomised(timm.create_model(name, num_classes=3, **values, **more))
    about = {"model_args": values}
    timm.models.save_for_hf(model, folder, about, safe_serialization=True)

    def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        whole = model.forward_features(images)
        pooled = model.forward_head(whole, pre_logits=True)
        return whole if is_vit else whole.permute(0, 2, 3, 1), pooled

    return run


def main() -> None:
    root, *wanted = sys.argv[1:]
    for family in wanted or [*FAMILIES, *CONVNEXT, *TIMM]:
        folder = Path(root) / family
        run = (of_timm if family in TIMM else of_transformers)(family, folder)
        arrays = {}
        for height, width in LARGER if "convnext" in family else SIZES:
            images = torch.randn(1, 3, height, width)
            with torch.no_grad():
                whole, pooled = run(images)
            size = f"{height}x{width}"
            arrays[f"{size} images"] = images.numpy().transpose(0, 2, 3, 1)
            arrays[f"{size} {'map' if 'convnext' in family else 'tokens'}"] = whole.numpy()
            arrays[f"{size} pooled"] = pooled.numpy()
        np.savez_compressed(folder / "reference.npz", **arrays)


if __name__ == "__main__":
    main()
