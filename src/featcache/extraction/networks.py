"""Forward passes: a backbone in one precision at one size, compiled, for the targets it serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featcache.core import progress
from featcache.core.spec import ExtractionSpec
from featcache.extraction.targets import Target
from featcache.networks import backbones, engines

if TYPE_CHECKING:
    import keras


@dataclass
class Settings:
    """How to compute; none of it changes the numbers beyond rounding."""

    batch_size: int = 32
    device: str = "auto"
    runtime: str = "auto"
    stop: bool = False  # at the first failure
    show_progress: bool = True
    models: Path | None = None  # folder of converted models


@dataclass(eq=False)
class Network:
    """One forward pass and the targets it serves, one output each: they differ in the layer."""

    targets: list[Target]
    settings: Settings
    agreed: engines.Compiled | None = None  # once it was compared with Keras

    @property
    def spec(self) -> ExtractionSpec:
        """What the targets have in common."""
        return self.targets[0].spec

    @cached_property
    def model(self) -> keras.Model:
        """The backbone with preprocessing and pooling, as Keras runs it."""
        resolved = self.targets[0].resolved
        backbone = resolved.backbone or backbones.build(
            self.spec.backbone, resolved.weights, self.spec.image_size
        )
        return backbones.frozen_extractor(backbone, *(target.spec for target in self.targets))

    @cached_property
    def compiled(self) -> engines.Compiled:
        """The model as the machine runs it fastest."""
        kept = None
        if self.settings.models is not None:
            graph = {
                "backbone": self.spec.backbone,
                "preprocessing": self.spec.preprocessing,
                "image_size": list(self.spec.image_size),
                "outputs": [[target.spec.layer, target.spec.pooling] for target in self.targets],
            }
            kept = engines.ConversionCache(self.settings.models, self.spec.weights, graph)
        return engines.compile_frozen(
            self.model,
            runtime=self.settings.runtime,
            device=self.settings.device,
            precision=self.spec.precision,
            kept=kept,
            say=progress.note,
        )

    def check(self, images: np.ndarray) -> None:
        """Compare with Keras on the first images of a run, and say so in the provenance."""
        self.agreed, agreement = engines.agree(
            self.compiled, self.model, images, self.spec.precision, progress.note
        )
        for target in self.targets:
            target.ran = {
                "runtime": f"{self.agreed.name} on {self.agreed.where}",
                "difference_to_keras": float(f"{agreement.largest_difference:.2e}"),
                "cosine_to_keras": round(agreement.cosine, 6),
            }

    def start(self, stack: np.ndarray) -> Callable[[], list[np.ndarray]]:
        """Begin with images (b, v, height, width, 3); gives (b, v, d) for each target."""
        assert self.agreed is not None
        n, n_views = stack.shape[:2]
        finish = self.agreed.start(stack.reshape(-1, *stack.shape[2:]))
        return lambda: [output.reshape(n, n_views, *output.shape[1:]) for output in finish()]
