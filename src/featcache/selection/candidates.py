"""Which heads are compared, with which settings, and which are left out and why."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone

from featcache import heads
from featcache.core.errors import SpecError, one_line
from featcache.core.tasks import TASKS, TargetKind
from featcache.heads.base import SklearnHead
from featcache.heads.custom import Own
from featcache.scoring import metrics

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
    n_rows: int,
    metric: str,
    class_weight: str | None,
    calibrate: str | None,
    seed: int,
    dense: dict[str, Any] | None,
) -> tuple[list[Candidate], dict[str, str]]:
    """Return the heads to compare, and for each that is left out the reason.

    Parameters
    ----------
    names : None or "quick" for the heads that are quick with so many rows, "all", or a list of
        names, heads of the catalogue with settings of their own (instead of its grid; several of
        one kind are all tried), scikit-learn estimators, (name, estimator) pairs and
        "module:factory" texts.
    n_rows : rows to fit to, views counted.

    Raises
    ------
    SpecError
        When a name or a parameter is wrong, or no head is left.
    """
    wanted = _wanted(names, dense)
    left_out: dict[str, str] = {}
    if names is None or names == QUICK:
        for name in list(wanted):
            limit = heads.CATALOGUE[name].quick_rows
            asked_for = name == "dense" and dense
            if limit is not None and n_rows > limit and not asked_for:
                del wanted[name]
                if limit:
                    left_out[name] = f"quick up to {limit:,} rows to learn from, here {n_rows:,}"
    chosen = []
    shared = {"task": task, "class_weight": class_weight, "seed": seed}
    for name, given in wanted.items():
        kind = heads.CATALOGUE.get(name, Own)
        reason = _unfit(kind, name, task, metric, calibrate, shared)
        if reason:
            left_out[name] = reason
            continue
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


def _wanted(names: str | Sequence[Any] | None, dense: dict[str, Any] | None) -> dict[str, Any]:
    """Return name -> estimator of the user's own; or, of the catalogue, settings or None."""
    if names is None or names in (ALL, QUICK):
        return dict.fromkeys(heads.CATALOGUE)
    wanted: dict[str, Any] = {heads.FLOOR: None}  # the floor is always shown
    is_one = isinstance(names, str) or not isinstance(names, Sequence)
    given: list[Any] = []
    for one in [names] if is_one else names:
        given += from_factory(one) if isinstance(one, str) and ":" in one else [one]
    for one in given:
        if isinstance(one, str) and one == ALL:
            wanted = dict.fromkeys(heads.CATALOGUE) | wanted
        elif isinstance(one, str) and one == QUICK:
            raise SpecError("quick cannot be mixed with other heads; name those you want, or all.")
        elif isinstance(one, str):
            heads.check_names([one])
            wanted.setdefault(one, None)
        elif (name := _name_of(one)) is not None:
            params = _settings(name, one)
            wanted[name] = [*(wanted.get(name) or ()), params]
        else:
            (name,) = named = _named(one)
            if name in wanted:
                raise SpecError(
                    f"There are two heads '{name}'; give them as (name, estimator) pairs."
                )
            wanted |= named
    # from simple to flexible, however they were named; the user's own last
    order = [*heads.CATALOGUE, *wanted]
    wanted = dict(sorted(wanted.items(), key=lambda item: order.index(item[0])))
    if dense and "dense" not in wanted:
        raise SpecError("Options of the dense head are given, but dense is not among the heads.")
    return wanted


def _name_of(one: Any) -> str | None:
    """Return the name of a head of the catalogue, None of anything else."""
    return next((name for name, kind in heads.CATALOGUE.items() if kind is type(one)), None)


def _settings(name: str, head: heads.Head) -> dict[str, Any]:
    """Return the settings of a head of the catalogue that it does not share with all others."""
    params: dict[str, Any] = head.get_params()
    head.check()
    if isinstance(head, SklearnHead):
        _try(name, head)
    for shared in ("task", "class_weight", "seed"):  # the comparison says them, for all heads
        del params[shared]
    return params


def _try(name: str, head: heads.Head) -> None:
    """Raise SpecError where scikit-learn rejects the settings of a head."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    given = {
        TargetKind.CLASS: y,
        TargetKind.LABELS: y[:, None],
        TargetKind.NUMBERS: y[:, None] * 1.0,
    }
    try:
        clone(head).fit(rng.normal(size=(60, 4)), given[TASKS[head.task].kind])
    except Exception as error:  # of kinds of its own
        reason = one_line(error, 300)
        raise SpecError(f"Head '{name}' cannot be fitted with these settings: {reason}") from error


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
            f"estimator) pair; got {one!r}."
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
    return [(function, made) if _name_of(made) is None else made]


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
                    f"Head '{name}' has no parameter '{key}'; it has {', '.join(sorted(known))}."
                )
        kind(**params).check()
