"""Networks as they run: built, compiled for this machine, and compared with Keras once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.core import progress
from featcache.core.spec import ExtractionSpec
from featcache.core.text import counted
from featcache.data import loading
from featcache.data.listing import Listing
from featcache.data.loading import Images
from featcache.data.recipe import views_of
from featcache.extraction.shards import NetworkPlan
from featcache.networks import backbones, engines

if TYPE_CHECKING:
    import keras


class Network:
    """One forward pass, with an output for each spec of its plan."""

    def __init__(self, plan: NetworkPlan):
        self.plan = plan
        self.agreed: engines.Compiled | None = None  # once it was compared with Keras
        self.ran: dict[str, Any] = {}  # what images go through, for provenance

    @property
    def spec(self) -> ExtractionSpec:
        """What the outputs have in common."""
        return self.plan.specs[0]

    @cached_property
    def model(self) -> keras.Model:
        """The backbone with preprocessing and pooling, as Keras runs it."""
        backbone = self.plan.backbone or backbones.build(
            self.spec.backbone, self.plan.weights, self.spec.image_size
        )
        return backbones.frozen_extractor(backbone, *self.plan.specs)

    @cached_property
    def compiled(self) -> engines.Compiled:
        """The model as the machine runs it fastest."""
        machine = self.plan.machine
        return engines.compile_frozen(
            self.model,
            runtime=machine.runtime,
            device=machine.device,
            precision=self.spec.precision,
            n_images=machine.n_images,
            kept=self._kept,
            say=progress.note,
        )

    @property
    def _kept(self) -> engines.ConversionCache | None:
        """Where what was converted and measured is kept."""
        models = self.plan.machine.models
        if models is None:
            return None
        graph = {
            "backbone": self.spec.backbone,
            "preprocessing": self.spec.preprocessing,
            "image_size": list(self.spec.image_size),
            "outputs": [[spec.layer, spec.pooling] for spec in self.plan.specs],
        }
        return engines.ConversionCache(models, self.spec.weights, graph)

    def batch_size(self, n_images: int) -> int:
        """Return how many images to compute at once."""
        machine, shape = self.plan.machine, (*self.spec.image_size, 3)
        return engines.batch_size_of(
            machine.batch_size,
            machine.device,
            lambda: self.compiled,
            shape,
            n_images,
            self._kept,
            progress.note,
        )

    def build(self) -> None:
        """Build and compile it now."""
        _ = self.compiled

    def check(self, images: Images) -> None:
        """Compare with Keras on the first images, unless that was done."""
        if self.agreed is not None:
            return
        self.agreed, agreement = engines.agree(
            self.compiled, self.model, images, self.spec.precision, progress.note
        )
        self.ran = {
            "runtime": f"{self.agreed.name} on {self.agreed.where}",
            "difference_to_keras": float(f"{agreement.largest_difference:.2e}"),
            "cosine_to_keras": round(agreement.cosine, 6),
        }

    def note_decoder(self, images: Images, listing: Listing, rows: np.ndarray, view: int) -> None:
        """Say how far features are from those of the same images decoded exactly."""
        spec, n = self.spec, engines.N_IMAGES
        assert self.agreed is not None
        exact, is_read = loading.read(
            listing, rows[:n], spec=replace(spec, decoder="exact"), view=view, batch_size=n
        )
        some = np.asarray(images[: len(exact)])[is_read]
        found = engines.Closeness.of(self.agreed(some), self.agreed(exact[is_read]))
        self.ran["cosine_to_exact_decoder"] = round(found.cosine, 6)
        progress.note(
            f"decoder {spec.decoder}: cosine similarity to exact {found.cosine:.4f} (the lowest of "
            f"{counted(len(some), 'image')})."
        )

    def start(self, stack: Images, places: Sequence[int]) -> Callable[[], list[np.ndarray]]:
        """Begin with some views of images; gives (b, v, …) for each spec."""
        assert self.agreed is not None
        n, n_views = len(stack), len(places)
        finish = self.agreed.start(views_of(stack, places))
        return lambda: [output.reshape(n, n_views, *output.shape[1:]) for output in finish()]


class Networks:
    """The networks of a process: each is built once, for whichever shards ask for it."""

    def __init__(self) -> None:
        self._known: dict[NetworkPlan, Network] = {}

    def of(self, plan: NetworkPlan) -> Network:
        """Return the network of a plan."""
        return self._known.setdefault(plan, Network(plan))
