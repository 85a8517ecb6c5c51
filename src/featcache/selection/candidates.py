"""Which heads are compared, with which settings, and which are left out and why."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache import heads
from featcache.core.checks import bad, shown
from featcache.core.errors import SpecError, one_line
from featcache.core.tasks import TASKS
from featcache.heads.custom import Own
from featcache.scoring import metrics
from featcache.selection import quick

ALL = "all"
QUICK = "quick"


@dataclass(frozen=True)
class Candidate:
    """A head with the settings to try, the simplest first."""

    name: str
    kind: type[heads.Head]
    settings: tuple[dict[str, Any], ...]

    @property
    def is_own(self) -> bool:
        """Whether it is an estimator of the user's."""
        return self.kind is Own


def choose(
    names: str | Sequence[Any] | None,
    *,
    task: str,
    size: tuple[int, int, int],
    metric: str,
    class_weight: str | None,
    calibrate: str | None,
    seed: int,
    dense: dict[str, Any] | None,
    false_alarms: float = 0.05,
    are_maps: bool = False,
) -> tuple[list[Candidate], dict[str, str]]:
    """Return the heads to compare, and for each that is left out the reason.

    Parameters
    ----------
    names : None or "quick" for the heads that there is time for, see `quick`; "all"; or a list
        of names, "quick" among them, heads of the catalogue with settings of their own (instead of
        its grid; several of one kind are all tried), scikit-learn estimators, (name, estimator)
        pairs and "module:factory" texts.
    size : rows to fit to, views counted; features; outputs.
    false_alarms : of good images, for heads that learn from these alone.
    are_maps : features are maps.

    Raises
    ------
    SpecError
        When a name or a parameter is wrong, or no head is left.
    """
    if dense is not None and not isinstance(dense, dict):
        raise bad("dense", "be a dict of parameters, as {'hidden': (256,)}", dense)
    wanted, asked = _wanted(names, dense, task)
    shared: dict[str, Any] = {"task": task, "class_weight": class_weight, "seed": seed}
    if TASKS[task].is_one_class:
        shared["false_alarms"] = false_alarms
    left_out = {}
    for name in wanted:
        kind = heads.catalogue_of(task).get(name, Own)
        if reason := _unfit(kind, name, task, metric, calibrate, shared):
            left_out[name] = reason
        elif getattr(kind, "needs_maps", False) and not are_maps:
            left_out[name] = "learns from maps; extract with --pooling none"
    able = [name for name in wanted if name not in left_out]
    if not TASKS[task].is_one_class:
        left_out |= quick.no_time_for(able, asked, task, size)
    chosen = []
    for name, given in wanted.items():
        if name in left_out:
            continue
        kind = heads.catalogue_of(task).get(name, Own)
        settings: Sequence[dict[str, Any]]
        if kind is Own:
            settings = ({"estimator": given},)
            Own(given, task).check()
        else:
            settings = given or ([dense] if name == "dense" and dense else kind.grid(task))
            _check_params(name, kind, settings)
        chosen.append(Candidate(name, kind, tuple(one | shared for one in settings)))
    if not any(candidate.name != heads.FLOOR for candidate in chosen):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise SpecError(f"No head is left to compare ({reasons or 'only the floor was named'}).")
    return chosen, left_out


def _wanted(
    names: str | Sequence[Any] | None, dense: dict[str, Any] | None, task: str
) -> tuple[dict[str, Any], Collection[str]]:
    """Return name -> estimator of the user's own; or, of the catalogue, settings or None.

    And those that were asked for by more than "quick".
    """
    known = heads.catalogue_of(task)
    every: dict[str, Any] = dict.fromkeys(known)
    floor: dict[str, Any] = {heads.FLOOR: None} if heads.FLOOR in known else {}
    names = QUICK if names is None else names
    is_one = isinstance(names, str) or not isinstance(names, Sequence)
    given: list[Any] = []
    for one in [names] if is_one else names:
        given += from_factory(one) if isinstance(one, str) and ":" in one else [one]
    asked: dict[str, Any] = {}
    for one in given:
        if isinstance(one, str) and one in (ALL, QUICK):
            continue
        if isinstance(one, str):
            heads.check_names([one], task)
            asked.setdefault(one, None)
        elif (name := _name_of(one, known)) is not None:
            params = _settings(name, one)
            asked[name] = [*(asked.get(name) or ()), params]
        else:
            (name,) = named = _named(one)
            if name in asked:
                raise SpecError(
                    f"There are two heads '{name}'; give them as (name, estimator) pairs."
                )
            asked |= named
    words = {one for one in given if isinstance(one, str) and one in (ALL, QUICK)}
    if dense and words:
        asked.setdefault("dense", None)
    elif dense and "dense" not in asked:
        raise SpecError("Options of the dense head are given, but dense is not among the heads.")
    wanted = (every if words else floor) | asked  # the floor is always shown
    # from simple to flexible, however they were named; the user's own last
    order = [*known, *wanted]
    wanted = dict(sorted(wanted.items(), key=lambda item: order.index(item[0])))
    return wanted, wanted if ALL in words or not words else asked


def _name_of(one: Any, known: dict[str, type[heads.Head]]) -> str | None:
    """Return the name of a head of a catalogue, None of anything else."""
    return next((name for name, kind in known.items() if kind is type(one)), None)


def _settings(name: str, head: heads.Head) -> dict[str, Any]:
    """Return the settings of a head of the catalogue that it does not share with all others."""
    params: dict[str, Any] = head.get_params()
    _check(name, head)
    for shared in ("task", "class_weight", "seed"):  # the comparison says them, for all heads
        del params[shared]
    return params


def _check(name: str, head: heads.Head) -> None:
    """Raise SpecError where a setting of a head is wrong."""
    try:
        head.check()
    except SpecError as error:
        raise SpecError(f"Head '{name}' cannot be fitted with these settings: {error}") from error


def _named(one: Any) -> dict[str, Any]:
    """Return {name: estimator} of an estimator or a (name, estimator) pair."""
    if isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str):
        name, estimator = one
    else:
        name, estimator = type(one).__name__.lower(), one
    if isinstance(estimator, type):
        raise SpecError(f"{estimator.__name__} is a class; give one: {estimator.__name__}().")
    if not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        raise SpecError(
            f"A head must be a name, a head of the catalogue, a scikit-learn estimator or a (name, "
            f"estimator) pair; got {shown(one)}."
        )
    if name in heads.CATALOGUE:
        raise SpecError(f"'{name}' is a head of the catalogue; give your estimator another name.")
    if not name or set(name) & set("/\\:,") or name.startswith("."):
        raise SpecError(f"'{name}' is not a valid name for a head; use letters, digits, - and _.")
    return {name: estimator}


def from_factory(text: str) -> list[Any]:
    """Return the heads that `module:factory` makes: one, several, or a dict of name to estimator.

    Raises
    ------
    SpecError
        When there is no such module or function, or it makes no estimator.
    """
    module_name, _, function = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` has it, but the console script has not
    try:
        factory = getattr(importlib.import_module(module_name), function)
    except (Exception, SystemExit) as error:  # whatever is wrong with the user's own module
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise SpecError(f"'{text}' cannot be imported as module:factory: {reason}.") from error
    try:
        made = factory()
    except (Exception, SystemExit) as error:  # and with its function
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise SpecError(f"'{text}' raised {reason}.") from error
    if isinstance(made, dict):
        return [(str(name), estimator) for name, estimator in made.items()]
    if isinstance(made, (list, tuple)):
        return list(made)
    return [made if isinstance(made, heads.Head) else (function, made)]


def _unfit(
    kind: type[heads.Head],
    name: str,
    task: str,
    metric: str,
    calibrate: str | None,
    shared: dict[str, Any],
) -> str:
    """Return why a head cannot take part, or nothing."""
    if task not in kind.tasks:
        return f"cannot do {task}"
    output = kind(**shared).output
    needs = metric in metrics.NEEDS_PROBABILITIES and output == heads.SCORES
    if needs and calibrate is None and kind is not Own:
        return f"{metric} needs probabilities, and its outputs are scores; try --calibrate"
    return ""


def _check_params(name: str, kind: type[heads.Head], settings: Sequence[dict[str, Any]]) -> None:
    known = kind().get_params()
    for params in settings:
        for key in params:
            if key not in known:
                raise SpecError(
                    f"Head '{name}' has no parameter {shown(key)}; it has "
                    f"{', '.join(sorted(known))}."
                )
        _check(name, kind(**params))
