"""From which score on an image is an anomaly: split conformal prediction on good images.

Sources: Vovk, Gammerman and Shafer 2005, "Algorithmic learning in a random world"; Bates, Candès,
Lei, Romano and Sesia 2023, "Testing for outliers with conformal p-values".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from featcache.core.text import counted

_MARGIN = 1e-4  # of the value, so that rounding makes no anomaly of the image that set it


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what it promises of good images like those it was set by."""

    value: float
    asked: float  # the rate of false alarms that was asked for
    n_good: int  # images that set it; the head had not seen them
    n_above: int  # of them, counted from the highest down to the one that set it

    @classmethod
    def of(cls, scores: np.ndarray, asked: float) -> Threshold:
        """Return the lowest threshold that keeps a rate of false alarms.

        Where there are too few images for that rate it is their largest score.

        Parameters
        ----------
        scores : (n,) of good images that the head has not seen; one or more.
        asked : above 0, below 1.
        """
        n = len(scores)
        n_above = max(1, math.floor(asked * (n + 1)))  # the value itself is one of them
        value = float(np.sort(scores)[n - n_above])
        value += _MARGIN * abs(value)
        return cls(value, asked, n, n_above)

    @property
    def promised(self) -> float:
        """The rate of false alarms that is kept on average over such sets of images."""
        return self.n_above / (self.n_good + 1)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the rate of this very threshold lies with 95 % confidence.

        Of exchangeable scores without ties it is distributed as Beta(n_above, n + 1 - n_above).
        """
        from scipy import stats

        rate = stats.beta(self.n_above, self.n_good + 1 - self.n_above)
        return float(rate.ppf(0.025)), float(rate.ppf(0.975))

    def __str__(self) -> str:
        low, high = self.interval
        kept = (
            f"at most {self.promised:.1%} of good images like these are called anomalies on "
            f"average; this threshold's own rate lies between {low:.1%} and {high:.1%}"
        )
        few = ""
        if self.promised > self.asked:
            wanted = math.ceil(1 / self.asked) - 1
            few = f" ({self.asked:.1%} was asked for, which takes {wanted} held-out good images)"
        return f"set by {counted(self.n_good, 'held-out good image')}: {kept}{few}"
