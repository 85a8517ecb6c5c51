"""What a fine-tuning is going to train, and what it will take, before anything is computed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from featcache import store
from featcache.finetuning import graph
from featcache.finetuning.plan import TrainingPlan, Unfreeze
from featcache.models import stitching

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class StagePreview:
    """One stage of a fine-tuning."""

    unfrozen: tuple[str, ...]  # backbone layers, in the order of the graph
    trained_parameters: int  # in them and in the head
    all_parameters: int
    boundary: str  # the layer whose activations are kept; "the features", or "the images"
    cache_bytes: int  # of the kept activations, on the disk at most; 0 where none are kept
    multiply_adds: int  # for an image behind the boundary, forwards
    all_multiply_adds: int  # in the whole model

    def __str__(self) -> str:
        what = "the head"
        if self.unfrozen:
            first, last = self.unfrozen[0], self.unfrozen[-1]
            names = first if first == last else f"{first} to {last}"
            n = len(self.unfrozen)
            what = f"{n} backbone layer{'s' if n > 1 else ''} ({names}) and the head"
        share = self.multiply_adds / max(self.all_multiply_adds, 1)
        kept = f", {self.cache_bytes / 1e6:,.1f} MB of activations" if self.cache_bytes else ""
        return (
            f"Trains {what}: {self.trained_parameters:,} of {self.all_parameters:,} parameters, "
            f"from {self.boundary}{kept}; {self.multiply_adds / 1e6:,.1f} of "
            f"{self.all_multiply_adds / 1e6:,.1f} million multiply-adds an image are left "
            f"({share:.0%})."
        )


@dataclass(frozen=True)
class Preview:
    """What `finetune` with `dry_run` returns: its stages, without training them."""

    stages: tuple[StagePreview, ...]
    n_train: int
    n_validation: int
    n_test: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self)


def stage_preview(
    network: keras.Model, stage: Unfreeze, plan: TrainingPlan, n_images: int
) -> StagePreview:
    """Return what a stage will do to a network, which stays as it is but for what can train."""
    backbone, features = graph.backbone_of(network), stitching.features_of(network)
    unfrozen = graph.chosen(backbone, stage)
    at = graph.boundary(backbone, unfrozen) if unfrozen else None
    if unfrozen:
        parted, where = graph.part(network, at, features), at.layer if at else "the images"
    else:
        parted, where = graph.part_at_features(network, features), "the features"
    graph.thaw(network, unfrozen)
    is_kept = at is not None and not plan.end_to_end
    shape = parted.suffix.input_shape[1:]
    return StagePreview(
        unfrozen=unfrozen,
        trained_parameters=stitching.n_parameters(parted.suffix.trainable_weights),
        all_parameters=stitching.n_parameters(network.weights),
        boundary=where,
        cache_bytes=store.size_of(n_images, shape, plan.dtype, plan.views) if is_kept else 0,
        multiply_adds=stitching.multiply_adds(parted.suffix),
        all_multiply_adds=sum(map(stitching.multiply_adds, (parted.prefix, parted.suffix))),
    )
