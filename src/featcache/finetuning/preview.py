"""What a fine-tuning is going to train, and what it will take, before anything is computed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from featcache import store
from featcache.finetuning import unfreezing
from featcache.finetuning.plan import TrainingPlan, Unfreeze
from featcache.finetuning.stages import parting
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
    multiply_adds: int | None  # for an image behind the boundary, forwards; None is not known
    all_multiply_adds: int | None  # in the whole model

    def __str__(self) -> str:
        what = "the head"
        if self.unfrozen:
            first, last = self.unfrozen[0], self.unfrozen[-1]
            names = first if first == last else f"{first} to {last}"
            n = len(self.unfrozen)
            what = f"{n} backbone layer{'s' if n > 1 else ''} ({names}) and the head"
        kept = f", {self.cache_bytes / 1e6:,.1f} MB of activations" if self.cache_bytes else ""
        left, every = self.multiply_adds, self.all_multiply_adds
        computed = "what the backbone computes for an image is not known, as it takes any size"
        if left is not None and every is not None:
            computed = (
                f"{left / 1e6:,.1f} of {every / 1e6:,.1f} million multiply-adds an image are left "
                f"({left / max(every, 1):.0%})"
            )
        return (
            f"Trains {what}: {self.trained_parameters:,} of {self.all_parameters:,} parameters, "
            f"from {self.boundary}{kept}; {computed}."
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
    made = parting(network, stage)
    prefix, suffix = made.parted.prefix, made.parted.suffix
    unfreezing.thaw(network, made.unfrozen)
    # the features themselves are in the cache already
    adds_to_cache = made.at is not None and not plan.end_to_end
    shape, left = suffix.input_shape[1:], stitching.multiply_adds(suffix)
    before = stitching.multiply_adds(prefix)
    return StagePreview(
        unfrozen=made.unfrozen,
        trained_parameters=stitching.n_parameters(suffix.trainable_weights),
        all_parameters=stitching.n_parameters(network.weights),
        boundary=made.where,
        cache_bytes=store.size_of(n_images, shape, plan.dtype, plan.views) if adds_to_cache else 0,
        multiply_adds=left,
        all_multiply_adds=None if left is None or before is None else before + left,
    )
