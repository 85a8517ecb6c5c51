"""What the features themselves show: a map of the images, and pairs that look alike."""

from __future__ import annotations

import numpy as np

from featcache.core.tasks import TargetKind
from featcache.report import findings
from featcache.report.material import Material
from featcache.report.rendering import Values
from featcache.report.sections import chance, picture, told

MAP_POINTS = 5000
N_PAIRS = 12
NEAR = 0.98  # cosine of centred features
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


def near_duplicates(material: Material, places: np.ndarray, X: np.ndarray) -> Values:
    """Return pairs of a training and a held-out image that look alike, exact copies first.

    Copies are looked for among all images, near ones among those whose features are given.
    """
    assert material.features is not None
    digests = [material.features.digests[row].tobytes() for row in material.rows.tolist()]
    first: dict[bytes, int] = {}
    for place in range(material.n_train):
        first.setdefault(digests[place], place)
    pairs = [
        findings.Pair(first[digests[place]], place, 1.0, True)
        for place in range(material.n_train, len(digests))
        if digests[place] in first
    ]
    copied = {pair.test for pair in pairs}
    held_out = material.is_test[places]
    train, test = places[~held_out], places[held_out]
    for a, b, cosine in findings.near_duplicates(X[~held_out], X[held_out], NEAR):
        if int(test[b]) not in copied:
            pairs.append(findings.Pair(int(train[a]), int(test[b]), cosine, False))
    return {
        "n": len(pairs),
        "n_copies": len(copied),
        "near": NEAR,
        "rows": [
            {
                "train": picture(material, pair.train),
                "test": picture(material, pair.test),
                "similarity": f"{pair.similarity:.3f}",
                "is_copy": pair.is_copy,
                "same_label": np.array_equal(material.y[pair.train], material.y[pair.test]),
            }
            for pair in pairs[:N_PAIRS]
        ],
        "looked_at": "" if len(places) == len(digests) else f"{len(places):,} of {len(digests):,}",
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
