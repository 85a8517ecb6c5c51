"""Which heads a quick comparison has time for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from featcache import heads
from featcache.core.tasks import TASKS
from featcache.heads import costs

_ROWS = 10_000  # up to so many to learn from it takes a minute at most
_MINUTES = 5  # with many more


def at_most_s(n_rows: int) -> float:
    """Return how long the quick set takes at most, on two cores that do nothing else.

    Of several feature files it is the time for each.
    """
    return 60 * min(max(n_rows / _ROWS, 1), _MINUTES)


def no_time_for(
    names: Sequence[str], asked: Collection[str], task: str, size: tuple[int, int, int]
) -> dict[str, str]:
    """Return why heads are left out that nobody asked for by name.

    From simple to flexible they are taken as long as there is time; one is always taken.

    Parameters
    ----------
    names : in the catalogue, in its order, or of the user's own.
    size : rows to fit to, views counted; features; outputs.
    """
    each = {name: costs.seconds(name, TASKS[task].kind, *size) for name in names}
    limit, total = at_most_s(size[0]), 0.0
    slow: dict[str, float | None] = {}
    for name, cost in each.items():
        if name in asked:
            continue
        if cost is None or total + cost > limit:
            slow[name] = cost
        else:
            total += cost
    known = {name: cost for name, cost in slow.items() if cost is not None}
    if known and not set(names) - set(slow) - {heads.FLOOR}:
        del slow[min(known, key=known.__getitem__)]
    return {name: _reason(cost, limit) for name, cost in slow.items()}


def _reason(cost: float | None, limit: float) -> str:
    if cost is None:
        return "never in the quick set"
    return f"takes about {_shown(cost)} on two cores, and the quick set {_shown(limit)} at most"


def _shown(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
