"""What fine-tuning did, and what is kept of it: the new model's card and the page of its curves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from featcache.core.errors import SpecError
from featcache.data import splits
from featcache.finetuning.plan import TrainingPlan
from featcache.finetuning.training import History
from featcache.finetuning.training_images import TrainingImages
from featcache.models import card


@dataclass(frozen=True)
class Finetuning:
    """What fine-tuning did."""

    path: Path  # of the new model; where nothing improved it is the old one
    improved: bool  # on the validation images: a better metric, or the same and a lower loss
    metric: str
    before: dict[str, float]  # every metric of the model as it came, on the held-out part
    after: dict[str, float]  # of the model that was written
    unfrozen: tuple[str, ...]  # backbone layers of the last stage, in the order of the graph
    boundary: str  # where the last stage began to train
    stages: tuple[History, ...]
    n_train: int
    n_validation: int
    n_test: int
    refit: tuple[History, ...]  # of the second training, on the validation images as well
    parity: dict[str, Any] | None  # of the whole model with the suffix that was trained

    @property
    def best_epochs(self) -> tuple[int, ...]:
        """The epoch that was kept of each stage; 0: none was better."""
        return tuple(history.best_epoch for history in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self) | {"path": str(self.path), "best_epochs": list(self.best_epochs)}


def page_path(model: Path) -> Path:
    """Return where the page of a fine-tuned model lies."""
    return model.with_suffix(".html")


def check_page(target: Path) -> None:
    page = page_path(target)
    if page.exists() and "Made by featcache" not in page.read_text("utf-8", "replace"):
        raise SpecError(
            f"The training curves would overwrite '{page}', which is no such page. Choose another "
            f"--out."
        )


def page_of(
    described: card.Card, done: Finetuning, plans: TrainingPlan, data: TrainingImages
) -> dict[str, Any]:
    """Return what the page of the training curves shows."""
    stages = [asdict(history) | {"best_epoch": history.best_epoch} for history in done.stages]
    return done.to_dict() | {
        "model": done.path.name,
        "source": data.images.samples.origin,
        "head": described.head,
        "backbone": described.spec.backbone,
        "task": described.task,
        "plan": plans.to_dict(),
        "versions": card.versions(),
        "stages": stages,
    }


def card_of(
    described: card.Card, done: Finetuning, plans: TrainingPlan, data: TrainingImages
) -> card.Card:
    """Return the card of what was trained; of a model that stayed as it was, its own."""
    if not done.improved:
        return described
    changed = {*described.changed_layers, *done.unfrozen}
    before = {"source": described.source, "taught": (described.provenance or {}).get("taught")}
    now = {"source": data.images.samples.origin, "taught": splits.taught(data.learnt)}
    earlier = (described.finetuned or {}).get("earlier", [])
    about = done.to_dict() | {
        "plan": plans.to_dict(),
        "changed": sorted(changed),
        "earlier": earlier if before == now else [*earlier, before],  # what taught the model first
    }
    del about["path"]
    return replace(
        described,
        # what is held out from now on is a part of these images
        source=now["source"],
        provenance=(described.provenance or {}) | {"taught": now["taught"]},
        source_options=dict(data.images.samples.options),
        test_accuracy=done.after.get("accuracy"),
        test=done.after,
        parity=done.parity or described.parity,
        finetuned=about,
    )
