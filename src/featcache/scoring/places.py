"""How well scores of places say where anomalies are.

Source: Bergmann, Fauser, Sattlegger and Steger 2020, "Uninformed students: student-teacher anomaly
detection with discriminative latent embeddings", for the overlap of regions.
"""

from __future__ import annotations

import numpy as np

from featcache.scoring.metrics import area_under_roc

MOST_FALSE = 0.3  # of good pixels, up to which the overlap is integrated
_STEPS = 300


def scores_of_places(maps: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """Return `pixel-roc-auc` and `aupro`; NaN where there is no anomalous or no good pixel.

    AUPRO is the area under the mean share of each region of anomalous pixels (of eight neighbours)
    that lies above a threshold, over the share of good pixels that do, up to 0.3, divided by 0.3.

    Parameters
    ----------
    maps : (n, height, width) scores, larger where there is an anomaly.
    masks : (n, height, width) bool.
    """
    from scipy import ndimage

    good = np.sort(maps[~masks])
    if not len(good) or not masks.any():
        return {"pixel-roc-auc": float("nan"), "aupro": float("nan")}
    false = np.linspace(0, MOST_FALSE, _STEPS + 1)
    # the lowest thresholds that no more than this share of good pixels lie above
    thresholds = good[
        len(good) - 1 - np.floor(false * len(good)).astype(int).clip(0, len(good) - 1)
    ]
    found = []
    for scores, mask in zip(maps, masks, strict=True):
        regions, n_regions = ndimage.label(mask, np.ones((3, 3), int))
        for number in range(1, n_regions + 1):
            region = np.sort(scores[regions == number])
            found.append(1 - np.searchsorted(region, thresholds, side="right") / len(region))
    return {
        "pixel-roc-auc": area_under_roc(masks.ravel(), maps.ravel()),
        "aupro": float(np.trapezoid(np.mean(found, axis=0), false) / MOST_FALSE),
    }
