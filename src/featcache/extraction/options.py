"""From options as a user gives them to those of the spec, and to how to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

from featcache.core.checks import bad, check_choice, check_number, check_texts, whole_number
from featcache.core.errors import SpecError
from featcache.core.running import DASK, INLINE, RAY, RUNNING, Running
from featcache.core.spec import AUGMENTATIONS, MAX_VIEWS, NUMBERS
from featcache.data import decoding, nvimagecodec
from featcache.extraction.shards import Machine
from featcache.networks import engines

Names = Union[str, Sequence[str], None]


def machine_of(running: Running) -> Machine:
    """Return what a shard needs of how to run."""
    models = running.cache / engines.MODELS_FOLDER
    return Machine(running.batch_size, running.device, running.runtime, models)


def parted(values: Mapping[str, Any]) -> tuple[dict[str, Any], Running]:
    """Return what changes the numbers, as the spec has it but for the network's own, and the rest.

    Raises
    ------
    SpecError
        When a value is wrong.
    """
    numbers = {name: values[name] for name in NUMBERS if name in values}
    numbers["background"] = decoding.colour(numbers["background"])
    numbers["augment"] = augmentations(numbers.get("augment"), numbers.get("views", 1))
    running = Running(**{name: values[name] for name in RUNNING if name in values})
    _check_engine(running)
    if numbers["decoder"] == "gpu":
        _check_for_gpu(numbers["decode_scale"], running.device)
        nvimagecodec.leave_memory()  # as long as nothing has used the GPU
    engines.check_options(
        running.runtime, running.device, numbers["precision"], is_here=running.is_here
    )
    return numbers, running


def _check_for_gpu(decode_scale: bool, device: str) -> None:
    """Raise SpecError where a GPU is to decode, and another option says otherwise."""
    if decode_scale:
        raise SpecError(
            "decode_scale is set, and decoder is gpu, which decodes large JPEGs whole. Leave out "
            "--decode-scale, or use --decoder exact."
        )
    if device == "cpu":
        raise SpecError("decoder is gpu, and device is cpu. Use --device auto, or --decoder exact.")


def _check_engine(running: Running) -> None:
    """Raise SpecError where what is said of an engine is of another one, or there are two."""
    for name, engine in (("scheduler", DASK), ("address", RAY)):
        value = getattr(running, name)
        if value is not None and running.engine != engine:
            raise SpecError(
                f"{name} is of {engine}, and engine is {running.engine}. Say --engine {engine}."
            )
    limit = running.assemble_up_to
    if limit is not None:
        check_number("assemble_up_to", limit, "be gigabytes, 0 or more", lambda it: it >= 0)
    if running.executor is None:
        return
    if not callable(getattr(running.executor, "submit", None)):
        raise bad("executor", "have `submit`, as a concurrent.futures.Executor", running.executor)
    if running.engine != INLINE:
        raise SpecError(f"executor is given, and engine is {running.engine}. Leave one out.")


def augmentations(augment: Names, views: int) -> tuple[str, ...]:
    """Return augmentations in the order in which they are listed in `AUGMENTATIONS`."""
    views = whole_number("views", views, 1, MAX_VIEWS)
    if augment is None:
        return AUGMENTATIONS if views > 1 else ()
    names = augment.split(",") if isinstance(augment, str) else check_texts("augment", augment)
    for name in names:
        check_choice("augment", name, AUGMENTATIONS)
    if views == 1:
        raise SpecError(
            f"views is 1, the clean image alone, so there is nothing to augment by "
            f"{', '.join(names)}. Ask for 2 views or more."
        )
    return tuple(name for name in AUGMENTATIONS if name in names)
