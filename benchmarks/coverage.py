"""How often the printed 95 % intervals hold, and how often equal heads are told apart.

    python benchmarks/coverage.py [--draws 400] [--quick] [--jobs 2] [--write]

Goals, in every cell of true accuracy x rows x classes x kind: the interval by cross-validation and
the held-out one contain the true score in 0.93 to 0.99 of draws, and are at most 1.4 times as wide
as Wilson's for so many independent rows; of two equal heads one is called behind in at most 5 % of
draws; with permuted labels a head is found at chance in 95 %.

A draw is made-up data: each class a normal distribution of 40 dimensions, apart by what gives the
cell's accuracy with so many rows. The true score is that of the head that ships, on 20,000 fresh
rows. Rows come alone; or three in ten twice, as copies; or in groups of four that have most of
their noise in common. Held-out rows and folds are those that `fit-heads` takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import page
from threadpoolctl import threadpool_limits

from featcache import heads
from featcache.core.errors import HeadError
from featcache.core.labels import Annotations
from featcache.core.tasks import PROBABILITIES
from featcache.data import splits
from featcache.scoring import differences, intervals, jackknife, metrics
from featcache.selection import preference

TASK = "classification"
D, CV, FRESH = 40, 5, 20_000
IN_COMMON = 0.7  # of a group's noise
ALONE, COPIES, GROUPS = "alone", "copies", "groups"
ACCURACIES = (0.3, 0.5, 0.8, 0.95, 0.99, 0.999)
ROWS = (60, 200, 600, 2000)
CLASSES = (2, 5, 20)
OTHERS = ("balanced-accuracy", "macro-f1", "log-loss", "roc-auc")


@dataclass(frozen=True)
class Cell:
    """What draws have in common."""

    accuracy: float
    n_rows: int
    n_classes: int
    kind: str
    n_draws: int

    @property
    def seed(self) -> int:
        return zlib.crc32(repr(self).encode())


@dataclass(frozen=True)
class Data:
    """Rows of one draw."""

    X: np.ndarray
    about: Annotations
    digests: np.ndarray


def population(rng: np.random.Generator, n_classes: int) -> np.ndarray:
    """Return (n_classes, D) directions in which the classes lie."""
    means = rng.standard_normal((n_classes, D))
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def drawn(rng: np.random.Generator, cell: Cell, means: np.ndarray) -> Data:
    """Return the rows of one draw, so many as the cell says, copies beside them."""
    a_group = 4 if cell.kind == GROUPS else 1
    n_units = cell.n_rows // a_group
    unit = np.repeat(np.arange(n_units), a_group)
    labels = (np.arange(n_units) % cell.n_classes)[unit]
    shared = IN_COMMON if cell.kind == GROUPS else 0.0
    noise = np.sqrt(shared) * rng.standard_normal((n_units, D))[unit]
    X = means[labels] + noise + np.sqrt(1 - shared) * rng.standard_normal((len(unit), D))
    digests = rng.integers(0, 256, (len(unit), 16), np.uint8)
    rows = np.arange(len(unit))
    if cell.kind == COPIES:
        rows = np.concatenate([rows, np.flatnonzero(rng.random(len(rows)) < 0.3)])
    groups = tuple(f"g{one}" for one in unit[rows]) if cell.kind == GROUPS else None
    names = tuple(f"c{one}" for one in range(cell.n_classes))
    return Data(X[rows], Annotations(labels[rows], names, groups=groups), digests[rows])


def fresh(rng: np.random.Generator, means: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(n) % len(means)
    return means[y] + rng.standard_normal((n, D)), y


def head() -> heads.Head:
    return heads.CATALOGUE["lda"]()


def apart(rng: np.random.Generator, cell: Cell, directions: np.ndarray) -> np.ndarray:
    """Return means at such distances that a head of so many rows has about the cell's accuracy."""
    low, high = 0.0, 40.0
    for _ in range(14):
        middle = (low + high) / 2
        found = []
        for _ in range(3):
            data = drawn(rng, cell, middle * directions)
            X, y = fresh(rng, middle * directions, 4000)
            fitted = head().fit(data.X, data.about.labels)
            found.append(np.mean(fitted.outputs(X).argmax(axis=1) == y))
        low, high = (middle, high) if np.mean(found) < cell.accuracy else (low, middle)
    return (low + high) / 2 * directions


def one_draw(
    rng: np.random.Generator,
    cell: Cell,
    means: np.ndarray,
    new: tuple[np.ndarray, np.ndarray],
    names: tuple[str, ...],
) -> list[tuple[float, ...]]:
    """Return for each metric: truth, then low and high by folds and held out, then the widths of
    both over Wilson's."""
    data = drawn(rng, cell, means)
    seed = int(rng.integers(2**31))
    parts = splits.parts(data.about, data.digests, seed)
    train, test = (np.flatnonzero(parts[one]) for one in ("train", "test"))
    units = splits.units(data.digests, data.about.groups)
    X, y = data.X[train], data.about.labels[train]
    outputs, of_rows = np.zeros((len(y), cell.n_classes)), np.zeros(len(y), int)
    made = splits.folds(data.about.take(train), data.digests[train], CV, seed)
    for number, (learnt, tested) in enumerate(made):
        outputs[tested] = head().fit(X[learnt], y[learnt]).outputs(X[tested])
        of_rows[tested] = number
    without_two = pairs_of_folds(X, y, of_rows, cell.n_classes)
    ships = head().fit(X, y)
    X_new, y_new = new
    said, held, y_held = ships.outputs(X_new), ships.outputs(data.X[test]), data.about.labels[test]
    found = []
    for name in names:

        def score(y: np.ndarray, outputs: np.ndarray, name: str = name) -> float:
            return metrics.score_one(name, TASK, y, outputs, PROBABILITIES)

        of_each = np.array([score(y[of_rows == k], outputs[of_rows == k]) for k in range(CV)])
        left_out = jackknife.replicates(name, TASK, y, [(outputs, PROBABILITIES)], units[train])
        fewer = float(np.mean([score(y[rows], said) for rows, said in without_two]))
        by_folds = intervals.of_folds(
            name, TASK, y, outputs, units[train], of_each, left_out, CV, fewer
        )
        by_held = intervals.of_outputs(name, TASK, y_held, held, PROBABILITIES, units[test])
        widths = []
        for (low, high), value, rows in (
            (by_folds, of_each.mean(), train),
            (by_held, score(y_held, held), test),
        ):
            least, most = intervals.wilson(min(value, 1.0), len(np.unique(units[rows])))
            widths.append((high - low) / (most - least))
        found.append((score(y_new, said), *by_folds, *by_held, *widths))
    return found


def pairs_of_folds(
    X: np.ndarray, y: np.ndarray, of_rows: np.ndarray, n_classes: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (rows of a fold, outputs there of a head without it and another fold), for each two
    that leave every class something to learn from."""
    found = []
    for pair in combinations(range(CV), 2):
        learnt = ~np.isin(of_rows, pair)
        if len(np.unique(y[learnt])) == n_classes:
            fitted = head().fit(X[learnt], y[learnt])
            found += [
                (rows, fitted.outputs(X[rows]))
                for rows in (np.flatnonzero(of_rows == fold) for fold in pair)
            ]
    return found


def coverage(cell: Cell, names: tuple[str, ...] = ("accuracy",)) -> list[dict[str, float | str]]:
    """Return the coverage of both intervals in a cell, by metric; nothing where it cannot be."""
    rng = np.random.default_rng(cell.seed)
    means = apart(rng, cell, population(rng, cell.n_classes))
    try:
        new = fresh(rng, means, FRESH)
        found = np.array([one_draw(rng, cell, means, new, names) for _ in range(cell.n_draws)])
    except HeadError:  # a class has fewer units than folds
        return []
    rows = []
    for name, some in zip(names, found.transpose(1, 2, 0), strict=True):
        truth, low, high, held_low, held_high, width, held_width = some
        rows.append(
            {
                "metric": name,
                "truth": float(truth.mean()),
                "by folds": float(np.mean((low <= truth) & (truth <= high))),
                "held out": float(np.mean((held_low <= truth) & (truth <= held_high))),
                "width by folds": float(width.mean()),
                "width held out": float(held_width.mean()),
            }
        )
    return rows


def cells(n_draws: int, is_quick: bool) -> list[Cell]:
    """Return the cells that can be: classes told apart by chance alone are no more accurate."""
    return [
        Cell(accuracy, n_rows, n_classes, kind, n_draws)
        for kind in (ALONE, COPIES, GROUPS)
        for n_classes in (CLASSES[:2] if is_quick else CLASSES)
        for n_rows in (ROWS[:2] if is_quick else ROWS)
        for accuracy in (ACCURACIES[2:5] if is_quick else ACCURACIES)
        if accuracy > 1.5 / n_classes or accuracy >= 0.8
    ]


def out_of_fold(
    rng: np.random.Generator, data: Data, columns: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of heads that each see some columns: (CV, n) accuracies of folds, (groups, n) what
    `jackknife.without_groups` gives, and the units."""
    y, units = data.about.labels, splits.units(data.digests, data.about.groups)
    made = splits.folds(data.about, data.digests, CV, int(rng.integers(2**31)))
    right, of_each = np.zeros((len(y), len(columns))), np.zeros((CV, len(columns)))
    for number, (learnt, tested) in enumerate(made):
        for one, mine in enumerate(columns):
            fitted = head().fit(data.X[np.ix_(learnt, mine)], y[learnt])
            said = fitted.outputs(data.X[np.ix_(tested, mine)]).argmax(axis=1)
            right[tested, one] = said == y[tested]
        of_each[number] = right[tested].mean(axis=0)
    left_out = [
        jackknife.without_groups(lambda rows, one=one: float(one[rows].mean()), units)
        for one in right.T
    ]
    return of_each, np.stack(left_out, axis=1), units


def alike(cell: Cell, n: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return means and columns of `n` heads that are equally good: each has columns of its own, in
    which classes lie alike."""
    rng = np.random.default_rng(cell.seed)
    directions = np.tile(population(rng, cell.n_classes)[:, : D // n], n)
    return apart(rng, cell, directions), np.split(np.arange(D), n)


def told_apart(cell: Cell) -> float:
    """Return how often one of two equal heads is called behind."""
    (means, columns), rng = alike(cell, 2), np.random.default_rng(cell.seed)
    n_behind = 0
    for _ in range(cell.n_draws):
        of_each, left_out, units = out_of_fold(rng, drawn(rng, cell, means), columns)
        found = differences.difference(
            of_each[:, 0] - of_each[:, 1], *left_out.T, len(np.unique(units)), CV
        )
        n_behind += found.p_value < differences.BEHIND
    return n_behind / cell.n_draws


def owed_to_luck(cell: Cell) -> tuple[float, float]:
    """Return by how much the best of eight equal heads scores above its true accuracy, mean over
    draws, and what of it is put down to luck."""
    (means, columns), rng = alike(cell, 8), np.random.default_rng(cell.seed)
    real, found = [], []
    X_new, y_new = fresh(rng, means, FRESH)
    for _ in range(cell.n_draws):
        data = drawn(rng, cell, means)
        of_each, left_out, _ = out_of_fold(rng, data, columns)
        contest = preference.contest(of_each.mean(axis=0), left_out, np.arange(len(columns)))
        mine = columns[contest.best]
        ships = head().fit(data.X[:, mine], data.about.labels)
        true = np.mean(ships.outputs(X_new[:, mine]).argmax(axis=1) == y_new)
        real.append(contest.scores[contest.best] - true)
        found.append(preference.luck(contest, contest.best, preference.BEST, cell.seed))
    return float(np.mean(real)), float(np.mean(found))


def at_chance(cell: Cell) -> float:
    """Return how often the interval by folds holds what chance gives, where labels say nothing."""
    rng = np.random.default_rng(cell.seed)
    nothing = np.zeros((cell.n_classes, D))
    new = fresh(rng, nothing, FRESH)
    found = [one_draw(rng, cell, nothing, new, ("accuracy",))[0] for _ in range(cell.n_draws)]
    return float(np.mean([low <= 1 / cell.n_classes <= high for _, low, high, *_ in found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="some cells in the middle alone")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help="put it into docs/performance.md")
    options = parser.parse_args()
    every = cells(options.draws, options.quick)
    with ProcessPoolExecutor(options.jobs, initializer=threadpool_limits, initargs=(1,)) as pool:
        of_cells, possible = [], []
        for cell, rows in zip(every, pool.map(coverage, every), strict=True):
            of_cells += [{**vars(cell), **row} for row in rows]
            possible += [cell] if rows else []
            print(f"{cell}: {rows}", file=sys.stderr)
        some = [cell for cell in possible if cell.n_rows <= ROWS[1] and cell.kind == ALONE]
        others = []
        for cell, rows in zip(some, pool.map(coverage, some, [OTHERS] * len(some)), strict=True):
            others += [{**vars(cell), **row} for row in rows]
            print(f"{cell}: {rows}", file=sys.stderr)
        equal = [one for one in possible if one.n_rows <= ROWS[1] and one.n_classes <= CLASSES[1]]
        alarms = list(pool.map(told_apart, equal))
        chance = [cell for cell in equal if cell.accuracy == ACCURACIES[2]]
        at = list(pool.map(at_chance, chance))
        owed = list(pool.map(owed_to_luck, equal))
    result = {
        "machine": page.machine(),
        "draws": options.draws,
        "accuracy": of_cells,
        "others": others,
        "told apart": [
            {**vars(cell), "behind": share} for cell, share in zip(equal, alarms, strict=True)
        ],
        "luck": [
            {**vars(cell), "real": real, "found": found}
            for cell, (real, found) in zip(equal, owed, strict=True)
        ],
        "at chance": [
            {**vars(cell), "at chance": share} for cell, share in zip(chance, at, strict=True)
        ],
    }
    print(json.dumps(result) if options.json else text_of(result))
    if options.write:
        page.put("coverage", text_of(result))


def text_of(result: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    of_cells: dict[tuple[str, str, str], dict[float, str]] = {}
    for one in result["accuracy"]:
        key = (one["kind"], str(one["n_classes"]), str(one["n_rows"]))
        of_cells.setdefault(key, {})[one["accuracy"]] = (
            f"{one['by folds']:.3f} {one['held out']:.3f} ({one['width by folds']:.2f})"
        )
    cells = [
        (*key, *(some.get(accuracy, "") for accuracy in ACCURACIES))
        for key, some in of_cells.items()
    ]
    others = [
        (
            *(str(one[name]) for name in ("n_classes", "n_rows", "accuracy", "metric")),
            *(f"{one[name]:.3f}" for name in ("truth", "by folds", "held out")),
        )
        for one in result["others"]
    ]
    chance = {_key(one): f"{one['at chance']:.3f}" for one in result["at chance"]}
    equal = [
        (*_key(one), f"{one['behind']:.3f}", f"{luck['real']:.3f}", f"{luck['found']:.3f}")
        for one, luck in zip(result["told apart"], result["luck"], strict=True)
    ]
    about = ("kind", "classes", "rows")
    return "\n\n".join(
        [
            result["machine"],
            f"{result['draws']} draws a cell. By accuracy: how often the interval by folds and the "
            f"held-out one hold the true score, and in brackets the width of the first over "
            f"Wilson's for as many independent rows.",
            page.table((*about, *map(str, ACCURACIES)), cells),
            "Other metrics, rows that come alone:",
            page.table(
                (*about[1:], "accuracy", "metric", "true score", "by folds", "held out"), others
            ),
            "Of two equal heads one is called behind; and of eight equal heads the best scores so "
            "much above what it is worth, and so much of it is put down to luck:",
            page.table((*about, "accuracy", "behind", "too good by", "luck"), equal),
            "Labels without meaning: the interval holds what chance gives.",
            page.table((*about, "share of draws"), [(*k[:3], v) for k, v in chance.items()]),
        ]
    )


def _key(one: dict[str, Any]) -> tuple[str, str, str, str]:
    return one["kind"], str(one["n_classes"]), str(one["n_rows"]), str(one["accuracy"])


if __name__ == "__main__":
    main()
