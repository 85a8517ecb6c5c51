"""What the features themselves show: a map of the images, and pairs that look alike."""

from __future__ import annotations

import numpy as np

from featcache.core.tasks import TargetKind
from featcache.report import findings
from featcache.report.material import Material
from featcache.report.rendering import Values
from featcache.report.sections import chance, picture, told
from featcache.scoring.near_duplicates import NEAR, NEARER, RANK, near_duplicates

MAP_POINTS = 5000
N_PAIRS = 12
TSNE_COMPONENTS = 50


def points_of(
    material: Material, places: np.ndarray, X: np.ndarray, tsne: bool
) -> tuple[Values, np.ndarray]:
    """Return the map's points as columns, and their places among all images.

    Parameters
    ----------
    places : (n,) of images.
    X : (n, d) float32, their features.
    tsne : t-SNE of the first 50 principal components, instead of the first two themselves.
    """
    seed, kind = material.board.seed, material.task.kind
    some = findings.sample(material.strata(places), MAP_POINTS, seed)
    places, X = places[some], X[some]
    if tsne and len(X) > 4:
        flat = _tsne(findings.principal_components(X, TSNE_COMPONENTS, seed), seed)
    else:
        flat = findings.principal_components(X, 2, seed)
    if flat.shape[1] < 2:
        flat = np.concatenate([flat, np.zeros((len(flat), 2 - flat.shape[1]))], axis=1)
    listed = places.tolist()
    made: Values = {
        "classes": list(material.board.class_names),
        "x": [round(float(value), 4) for value in flat[:, 0]],
        "y": [round(float(value), 4) for value in flat[:, 1]],
        "row": material.rows[places].tolist(),
        "id": [material.name(place) for place in listed],
        "held_out": material.is_test[places].astype(int).tolist(),
    }
    if kind is TargetKind.CLASS:
        made["given"] = material.y[places].tolist()
        made["predicted"] = material.predicted[places].tolist()
        made["p"] = [chance(material, place) for place in listed]
    else:
        made["given"] = [told(material, material.y[place]) for place in listed]
        made["predicted"] = [told(material, material.predicted[place]) for place in listed]
    if kind is TargetKind.NUMBERS:
        made["value"] = [round(float(value), 6) for value in material.y[places, 0]]
        error = np.abs(material.outputs[places, 0] - material.y[places, 0])
        made["error"] = [round(float(value), 6) for value in error]
    else:
        made["right"] = material.is_right[places].astype(int).tolist()
        if kind is TargetKind.LABELS:
            made["labels"] = [np.flatnonzero(material.y[place]).tolist() for place in listed]
    return made, places


def pairs_of(material: Material) -> Values:
    """Return pairs of a training and a held-out image that look alike, exact copies first."""
    assert material.features is not None
    rows, n_train = material.rows, material.n_train
    digests = [material.features.digests[row].tobytes() for row in rows.tolist()]
    first: dict[bytes, int] = {}
    for place in range(n_train):
        first.setdefault(digests[place], place)
    held_out = range(n_train, len(rows))
    copies = [(first[digests[place]], place, 1.0) for place in held_out if digests[place] in first]
    others = np.array([place for place in held_out if digests[place] not in first], np.int64)
    found = near_duplicates(material.read_vectors, rows[:n_train], rows[others])
    place_of = {row: place for place, row in enumerate(rows.tolist())}
    pairs = copies + [
        (place_of[pair.train], place_of[pair.test], pair.cosine) for pair in found.pairs
    ]
    n_compared = len(copies) + found.n_compared
    return {
        "n": len(pairs),
        "n_copies": len(copies),
        "near": NEAR,
        "nearer": round(1 / NEARER),
        "rank": RANK,
        "rows": [
            {
                "train": picture(material, train),
                "test": picture(material, test),
                "similarity": f"{cosine:.3f}",
                "is_copy": number < len(copies),
                "same_label": np.array_equal(material.y[train], material.y[test]),
            }
            for number, (train, test, cosine) in enumerate(pairs[:N_PAIRS])
        ],
        "compared": "" if n_compared == len(held_out) else f"{n_compared:,} of {len(held_out):,}",
    }


def _tsne(X: np.ndarray, seed: int) -> np.ndarray:
    if X.shape[1] < 2 or not X.std(axis=0).max() > 0:  # nothing to lay out in two dimensions
        return X
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(X) - 1) / 3)
    # its threads wait for each other at every step: on a busy machine one is far quicker than two
    with threadpool_limits(1):
        made = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(X)
    return np.asarray(made)
