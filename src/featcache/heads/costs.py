"""What it costs to compare a head, by rows, features and outputs: for the quick set.

A formula is the time of a whole comparison by five folds: of ten fits of the head's grid without
two folds, scored on both, and of six of one setting without one. `benchmarks/head_costs.py`
measures it as CPU time (`time.process_time`) of one thread, each head alone, here on 500 to 10,000
rows of 320, 1,280 and 2,048 features in 10 to 1,000 classes, and of 10 to 100 labels. The factors
are least squares of 118 such measurements, with powers where a solver iterates. Half of them are
within a tenth of the formula, and nine in ten, all that take seconds among them, within 1.6 times.
The machine was busy with other work, which makes CPU time longer: two cores that do nothing else
take 0.4 times as much (a comparison of 89 by these formulas took them 31.7 s, see performance.md).

A head that is not in the table is never in the quick set.
"""

from __future__ import annotations

from collections.abc import Callable

from featcache.core.tasks import TargetKind
from featcache.heads.moments import are_few

Formula = Callable[[float, float, float], float]  # of thousands of rows, features and outputs
_TWO_CORES = 0.4
_SCORED = 1.0  # for outputs, thousands of rows times thousands: all metrics, in one process
_INNER_ROWS = 0.6  # part of the rows that an inner fit learns from


def _moments(
    few: float, cubic: float, sums: float, solved: float, applied: float, scored: float
) -> Formula:
    """Return the cost of a head that is solved from moments, or in the span of few rows."""

    def cost(n: float, d: float, k: float) -> float:
        if are_few(round(1000 * _INNER_ROWS * n), round(1000 * d)):
            return 0.3 + few * n * n * d + (solved + applied) * n * d * k + scored * n * k
        fitted = cubic * d**3 + sums * n * d * d + solved * d * d * k
        return 0.3 + fitted + applied * n * d * k + scored * n * k

    return cost


def _power(factor: float, n_power: float, d_power: float, k_power: float) -> Formula:
    return lambda n, d, k: factor * n**n_power * d**d_power * (1000 * k) ** k_power


_COSTS: dict[str, Formula] = {
    "dummy": lambda n, d, k: 0.0,
    "centroid": _moments(4.5, 0.57, 0.09, 0.0, 0.84, 0.17),
    "ridge": _moments(3.7, 2.6, 0.16, 4.9, 2.2, 0.56),
    "lda": _moments(3.9, 2.6, 0.19, 21.0, 0.0, 1.6),
    "logreg": _power(1.56, 0.83, 0.66, 0.47),
    "linear-svm": _power(1.4, 1.22, 1.27, 0.94),
    "knn": lambda n, d, k: 0.6 + 0.18 * n * n * d + 0.08 * n * n + 2.4 * n * k,
}
_OF_LABELS: dict[str, Formula] = {  # one after the other
    "logreg": _power(1.55, 0.71, 0.73, 1.05),
    "linear-svm": _power(2.2, 1.23, 1.08, 0.96),
}


def cpu_s(
    name: str, kind: TargetKind, n_rows: int, n_features: int, n_outputs: int
) -> float | None:
    """Return the CPU time of a comparison of a head by its formula; None where there is none.

    Parameters
    ----------
    name : in the catalogue.
    kind : of what is learnt.
    n_rows : rows to learn from, views counted.
    """
    formulas = _COSTS | _OF_LABELS if kind is TargetKind.LABELS else _COSTS
    if name not in formulas:
        return None
    return formulas[name](n_rows / 1000, n_features / 1000, n_outputs / 1000)


def seconds(
    name: str, kind: TargetKind, n_rows: int, n_features: int, n_outputs: int
) -> float | None:
    """Return how long a comparison of a head takes on two cores, about; None: it is never quick.

    Arguments are those of `cpu_s`.
    """
    cost = cpu_s(name, kind, n_rows, n_features, n_outputs)
    return None if cost is None else _TWO_CORES * (cost + _SCORED * n_rows * n_outputs / 1e6)
