"""Networks on the Hugging Face Hub that have a short name here, as `dinov2-small`."""

from __future__ import annotations

from dataclasses import dataclass

from featcache.networks.checkpoint import HUB

DINOV3_LICENCE = "DINOv3 License"


@dataclass(frozen=True)
class Published:
    """Where a network's weights are, and on what terms."""

    repository: str
    family: str
    licence: str
    asks_for_consent: bool = False

    @property
    def name(self) -> str:
        """The name that says where it is."""
        return f"{HUB}{self.repository}"


def _dinov2(size: str) -> dict[str, Published]:
    names = {f"dinov2-{size}": size, f"dinov2-{size}-registers": f"with-registers-{size}"}
    return {
        name: Published(f"facebook/dinov2-{end}", "DINOv2", "Apache-2.0")
        for name, end in names.items()
    }


def _dinov3(**names: str) -> dict[str, Published]:
    return {
        f"dinov3-{size.replace('_', '-')}": Published(
            f"facebook/dinov3-{end}-pretrain-lvd1689m", "DINOv3", DINOV3_LICENCE, True
        )
        for size, end in names.items()
    }


def _google(family: str, **names: str) -> dict[str, Published]:
    word = family.replace(" ", "").lower()
    return {
        f"{word}-{size}": Published(f"google/{word}-{end}", family, "Apache-2.0")
        for size, end in names.items()
    }


PUBLISHED: dict[str, Published] = {
    **_dinov2("small"),
    **_dinov2("base"),
    **_dinov2("large"),
    **_dinov2("giant"),
    **_dinov3(
        small="vits16",
        small_plus="vits16plus",
        base="vitb16",
        large="vitl16",
        huge_plus="vith16plus",
        convnext_tiny="convnext-tiny",
        convnext_small="convnext-small",
        convnext_base="convnext-base",
        convnext_large="convnext-large",
    ),
    **_google(
        "SigLIP",
        base="base-patch16-224",
        large="large-patch16-256",
        so400m="so400m-patch14-384",
    ),
    **_google(
        "SigLIP 2",
        base="base-patch16-224",
        large="large-patch16-256",
        so400m="so400m-patch14-384",
    ),
    "clip-vit-b32": Published("openai/clip-vit-base-patch32", "CLIP", "MIT"),
    "clip-vit-b16": Published("openai/clip-vit-base-patch16", "CLIP", "MIT"),
    "clip-vit-l14": Published("openai/clip-vit-large-patch14", "CLIP", "MIT"),
    "vit-base": Published("google/vit-base-patch16-224-in21k", "ViT", "Apache-2.0"),
    "vit-large": Published("google/vit-large-patch16-224-in21k", "ViT", "Apache-2.0"),
    "deit-base": Published("facebook/deit-base-distilled-patch16-224", "DeiT", "Apache-2.0"),
    "convnextv2-tiny": Published("facebook/convnextv2-tiny-22k-224", "ConvNeXt V2", "Apache-2.0"),
    "convnextv2-base": Published("facebook/convnextv2-base-22k-224", "ConvNeXt V2", "Apache-2.0"),
    "convnextv2-large": Published("facebook/convnextv2-large-22k-224", "ConvNeXt V2", "Apache-2.0"),
}
