"""What fine-tuning is asked to do, checked once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Union

from featcache.core.checks import (
    bad,
    check_choice,
    check_number,
    check_text,
    shown,
    whole,
    whole_number,
)
from featcache.core.errors import SpecError, StitchError
from featcache.core.spec import AUGMENTATIONS, DTYPES, MAX_VIEWS
from featcache.core.tasks import PROBABILITIES, TASKS, TargetKind
from featcache.data import splits
from featcache.heads import CATALOGUE

SCHEDULES = ("cosine", "constant")
DEFAULT_UNFREEZE = 20  # layers, or all where there are fewer
Unfreeze = Union[int, str]  # a number of layers, "all", "3 blocks", or the name of the first
BLOCKS = r"(\d+) blocks?"


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that decides what the trained weights become, but for the model and the images.

    Raises
    ------
    SpecError
        When a value is out of its range.
    """

    stages: tuple[Unfreeze, ...]  # what each unfreezes, one after the other
    learning_rate: float  # of Adam, at its highest
    lr_decay: float  # factor for each block further from the head
    schedule: str  # one of SCHEDULES
    warmup: float  # share of a stage's steps over which the rate rises from 0
    epochs: int  # of each stage
    patience: int | None  # epochs without a better one after which a stage ends; None is never
    class_weight: str | None  # None or "balanced"
    label_smoothing: float
    dropout: float  # share of the features dropped while training
    weight_decay: float  # of AdamW, decoupled from the gradient
    views: int  # activations kept of each image, the clean one and augmented ones
    augment: tuple[str, ...]  # how, of AUGMENTATIONS
    dtype: str  # of the kept activations, one of DTYPES
    end_to_end: bool  # train on the images, augmented anew in every epoch
    refit: bool  # train once more, for as many epochs as were best, with the validation images
    batch_size: int  # images per step
    seed: int

    def __post_init__(self) -> None:
        for stage in self.stages:
            if isinstance(stage, int) and stage < 0:
                raise bad("unfreeze", "be 0 or more layers, or all", stage)
        for name, most in (("epochs", None), ("batch_size", None), ("views", MAX_VIEWS)):
            count = whole_number(name, getattr(self, name), 1, most)
            object.__setattr__(self, name, count)  # NumPy's numbers have no place in JSON
        if self.patience is not None and (whole(self.patience) or 0) < 1:
            must = "be 1 or more epochs, or None (0 on the command line) for any number"
            raise bad("patience", must, self.patience)
        check_number(
            "learning_rate", self.learning_rate, "lie between 0 and 1", lambda x: 0 < x < 1
        )
        check_number("lr_decay", self.lr_decay, "lie in 0 to 1, 0 excluded", lambda x: 0 < x <= 1)
        for name in ("warmup", "label_smoothing", "dropout", "weight_decay"):
            must = "lie in 0 to 1, 1 excluded"
            check_number(name, getattr(self, name), must, lambda x: 0 <= x < 1)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("class_weight", self.class_weight, (None, "balanced"))
        check_choice("dtype", self.dtype, DTYPES)
        for name in self.augment:
            check_choice("augment", name, AUGMENTATIONS)
        if self.end_to_end and self.views > 1:
            raise SpecError(
                f"end_to_end makes new views of the images in every epoch, so there are none to "
                f"keep; leave views out (got {self.views})."
            )
        object.__setattr__(self, "seed", splits.check_seed(self.seed))

    def check_for(self, task: str, output: str, head: str) -> None:
        """Raise SpecError where an option has no meaning for a model."""
        if self.label_smoothing and output != PROBABILITIES:
            raise SpecError(
                f"label_smoothing is of probabilities, and {head} gives {output}. Leave it out, or "
                f"stitch a head that gives probabilities: `featcache stitch HEADS --head logreg`."
            )
        if self.class_weight and TASKS[task].kind is TargetKind.NUMBERS:
            raise SpecError("class_weight is of classes or labels; this model gives values.")

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON types."""
        return asdict(self) | {"stages": list(self.stages), "augment": list(self.augment)}


def stages_of(
    unfreeze: int | str | None,
    unfreeze_from: str | None,
    unfreeze_blocks: int | None,
    stages: Any,
) -> tuple[Unfreeze, ...] | None:
    """Return what each stage unfreezes; None leaves it to the default.

    Raises
    ------
    SpecError
        When more than one of them is given, or a stage is neither a number nor "all".
    """
    given = {
        "unfreeze": unfreeze,
        "unfreeze_from": unfreeze_from,
        "unfreeze_blocks": unfreeze_blocks,
        "stages": stages,
    }
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise SpecError(f"{' and '.join(named)} say the same thing differently; give one.")
    if not named:
        return None
    if unfreeze_blocks is not None:
        n_blocks = whole_number("unfreeze_blocks", unfreeze_blocks, 1)
        return (f"{n_blocks} {'block' if n_blocks == 1 else 'blocks'}",)
    if unfreeze_from is not None:
        check_text("unfreeze_from", unfreeze_from, "be the name of a layer")
        if unfreeze_from == "all" or unfreeze_from.isdecimal():
            raise SpecError(
                f"unfreeze_from must be the name of a layer; got '{unfreeze_from}'. A number of "
                f"layers, or all, is for unfreeze."
            )
        return (unfreeze_from,)
    every = [unfreeze] if stages is None else stages
    if isinstance(every, str):
        every = [one.strip() for one in every.split(",")]
    found: list[Unfreeze] = []
    for one in every if isinstance(every, (list, tuple)) else [every]:
        if isinstance(one, str) and one == "all":
            found.append("all")
        elif isinstance(one, str) and one.removeprefix("-").isdecimal():
            found.append(int(one))
        elif (n_layers := whole(one)) is not None and n_layers < 2**31:
            found.append(n_layers)
        else:
            raise SpecError(
                f"{named[0]} must be a number of layers or all, separated by commas for several "
                f"stages; got {shown(one)}."
            )
    if not found:
        raise SpecError("stages names nothing. Give numbers of layers, as in 10,30,all.")
    sizes = [math.inf if one == "all" else one for one in found]
    if sizes != sorted(set(sizes)):
        raise SpecError(
            f"Each stage must unfreeze more than the one before; got {', '.join(map(str, found))}."
        )
    return tuple(found)


def check_head(name: str, task: str, says_unknown: bool = False) -> None:
    """Raise StitchError where a head learns no labels, says unknown, or has no gradient."""
    if TASKS[task].is_one_class:
        raise StitchError(
            f"A model of {task} learns from good images alone, and nothing says to what its "
            f"backbone should be trained. Extract with another backbone or layer instead."
        )
    if says_unknown:
        raise StitchError(
            f"The model says unknown by features as its backbone gives them, which fine-tuning "
            f"changes. Fit heads without --unknown, stitch {name} and fine-tune that."
        )
    if name in CATALOGUE and not CATALOGUE[name].has_gradients:
        raise StitchError(
            f"The votes of {name} have no gradient, so it cannot be fine-tuned. "
            f"Stitch another head: `featcache stitch HEADS --head logreg`."
        )
