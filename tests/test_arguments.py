"""Whatever is given from Python by mistake, the error is one of ours, says what was expected, and
is one line: never what NumPy, scikit-learn or Python make of it.
"""

from __future__ import annotations

import functools
import re

import bad_values
import numpy as np
import pytest
from bad_values import D, N

import featcache as fc
from featcache import heads
from featcache.core.errors import FeatcacheError
from featcache.core.running import EVERY
from featcache.scoring import leaderboard

Y = np.arange(N) % 3
X = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32) + Y[:, None]
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 3)).astype(np.uint8)
SPEC = {"backbone": "a", "weights": "", "image_size": (8, 8), "preprocessing": "tf"}
SKLEARN = [name for name in heads.CATALOGUE if name != "dense"]

# what of `bad_values` is no mistake for an argument
PATHS = {"directory", "text"}
FLAGS, WHOLE, POSITIVE = {"true"}, {"int"}, {"int", "float"}
LABELS = {"texts", "texts with None", "huge"}
GROUPS = {"ragged", "ragged objects", "nan", "one nan", "objects with nan", "texts with nan"} | {
    *("texts with None", "mixed", "texts", "datetime", "structured", "huge")
}


def fit(pair=(X, Y), names=("centroid",), **options):
    return fc.fit_heads(pair, names, **({"cv": 3, "jobs": 1, "report": False} | options))


def option(name):
    return lambda value: fit(**{name: value})


def source(name, **also):
    return lambda value: fc.open_source(IMAGES, **also, **{name: value})


def extraction(name):
    return lambda value: fc.extract(IMAGES, "no such backbone", **{name: value})


def embedded(name):
    return lambda value: fc.Embedder("mobilenet-v2", **{name: value}).fit(IMAGES)


def tuned(name):
    return lambda value: fc.finetune("no.keras", out="out.keras", **{name: value})


def spec(name):
    return lambda value: fc.ExtractionSpec(**(SPEC | {name: value}))


@functools.cache
def fitted(name):
    return heads.CATALOGUE[name]().fit(X, Y)


def of_head(name, method):
    return lambda value: getattr(fitted(name), method)(value)


def param(name, key):
    return lambda value: heads.CATALOGUE[name](**{key: value}).fit(X, Y)


CALLS = {  # what is called with a bad value, and the values that are good for it
    "fit_heads(X)": (lambda value: fit((value, Y)), set()),
    "fit_heads(y)": (lambda value: fit((X, value)), {"texts"}),
    "fit_heads(regression)": (lambda value: fit((X, value), ["ridge"], task="regression"), set()),
    "fit_heads(labels)": (lambda value: fit((X, value), ["ridge"], task="multi-label"), set()),
    "fit_heads(features)": (fit, set()),
    "fit_heads([features])": (lambda value: fit([value]), set()),
    "fit_heads(three)": (lambda value: fit((X, Y, value)), set()),
    "fit_heads(names)": (lambda value: fit(names=value), {"None"}),
    "fit_heads([names])": (lambda value: fit(names=[value]), set()),
    "fit_heads(cv)": (option("cv"), WHOLE),
    "fit_heads(repeats)": (option("repeats"), WHOLE),
    "fit_heads(seed)": (option("seed"), WHOLE),
    "fit_heads(jobs)": (option("jobs"), WHOLE),
    "fit_heads(groups)": (option("groups"), {"None"} | GROUPS),
    "fit_heads(folder)": (option("folder"), {"None", *PATHS}),
    **{f"fit_heads({name})": (option(name), FLAGS) for name in ("learning_curve", "overwrite")},
    **{f"fit_heads({name})": (option(name), FLAGS) for name in ("report", "show_progress")},
    **{
        f"fit_heads({name})": (option(name), {"None"})
        for name in ("metric", "class_weight", "calibrate", "dense", "task")
    },
    **{f"fit_heads({name})": (option(name), set()) for name in ("prefer", "backend")},
    **{
        f"{name}.fit(X)": (lambda v, n=name: heads.CATALOGUE[n]().fit(v, Y), ()) for name in SKLEARN
    },
    **{
        f"{name}.fit(y)": (lambda v, n=name: heads.CATALOGUE[n]().fit(X, v), ()) for name in SKLEARN
    },
    "dense.fit(X)": (lambda value: heads.CATALOGUE["dense"]().fit(value, Y), set()),
    "dense.fit(y)": (lambda value: heads.CATALOGUE["dense"]().fit(X, value), set()),
    "ridge.fit(groups)": (
        lambda value: heads.CATALOGUE["ridge"]().fit(X, Y, value),
        {"None"} | GROUPS,
    ),
    **{f"{name}.predict": (of_head(name, "predict"), set()) for name in SKLEARN},
    **{
        f"{name}.decision_function": (of_head(name, "decision_function"), set())
        for name in ("lda", "logreg", "linear-svm", "rbf-svm", "knn")
    },
    "logreg.predict_proba": (of_head("logreg", "predict_proba"), set()),
    "unfitted.predict": (lambda value: heads.CATALOGUE["ridge"]().predict(value), set()),
    **{
        f"{name}({key})": (param(name, key), POSITIVE)
        for name, key in (
            *(("ridge", "alpha"), ("logreg", "C"), ("linear-svm", "C")),
            *(("rbf-svm", "C"), ("rbf-svm", "gamma")),
        )
    },
    "lda(shrinkage)": (param("lda", "shrinkage"), set()),
    "knn(k)": (param("knn", "k"), WHOLE),
    "random-forest(n_estimators)": (param("random-forest", "n_estimators"), WHOLE),
    "random-forest(min_samples_leaf)": (param("random-forest", "min_samples_leaf"), WHOLE),
    "random-forest(max_features)": (param("random-forest", "max_features"), set()),
    "logreg(preprocessing)": (param("logreg", "preprocessing"), set()),
    "logreg(class_weight)": (param("logreg", "class_weight"), {"None"}),
    "logreg(task)": (param("logreg", "task"), set()),
    "logreg(seed)": (param("logreg", "seed"), WHOLE),
    **{
        f"dense({key})": (param("dense", key), good)
        for key, good in (
            *(("hidden", {"tuple", "empty"}), ("learning_rate", POSITIVE), ("dropout", ())),
            *(("epochs", WHOLE), ("batch_norm", FLAGS), ("validation_fraction", ())),
        )
    },
    "open_source": (fc.open_source, set()),
    "open_source(labels)": (source("labels"), {"None"} | LABELS),
    "open_source(targets)": (source("targets"), {"None", "nan", "nan matrix", "one nan"}),
    "open_source(splits)": (source("splits"), {"None"}),
    "open_source(groups)": (source("groups"), {"None"} | GROUPS),
    "open_source(ids)": (source("ids"), {"None", "datetime", "one nan"}),
    "open_source(name)": (source("name"), {"None", "text"}),
    "open_source(class_names)": (
        source("class_names", labels=Y),
        {"None", "texts", "empty", "no rows"},
    ),
    "open_source(target_names)": (source("target_names", targets=X[:, 0]), {"None"}),
    "open_source(class_names alone)": (source("class_names"), {"None"}),
    "open_source(target_names alone)": (source("target_names"), {"None"}),
    "open_source(root)": (source("root"), {"None"}),
    "open_source(target)": (source("target"), {"None"}),
    "extract_all(backbones)": (lambda value: fc.extract_all(IMAGES, value), {"None"}),
    "extract_all(layers)": (lambda v: fc.extract_all(IMAGES, ["no such"], layers=v), set()),
    **{f"extract({name})": (extraction(name), set()) for name in EVERY},
    "Embedder.fit": (lambda v: fc.Embedder("mobilenet-v2").fit(v), {"ragged objects", "texts"}),
    "Embedder.transform": (lambda value: fc.Embedder("no such").transform(value), set()),
    "Embedder(backbone)": (lambda value: fc.Embedder(value).fit(IMAGES), {"None"}),
    "Embedder(cache_dir)": (lambda v: fc.Embedder("mobilenet-v2", v).fit(IMAGES), PATHS),
    **{
        f"Embedder({name})": (embedded(name), good)
        for name, good in (
            *(("weights", PATHS), ("image_size", {"None", "int"}), ("batch_size", {"None", "int"})),
            *(
                ("layer", {"None", "text", "zero byte"}),
                ("decode_scale", FLAGS),
                ("pooling", {"None"}),
            ),
        )
    },
    **{f"ExtractionSpec({name})": (spec(name), set()) for name in ("image_size", "pooling")},
    **{f"ExtractionSpec({name})": (spec(name), set()) for name in ("background", "augment")},
    "ExtractionSpec(backbone)": (spec("backbone"), {"text", "zero byte"}),
    "ExtractionSpec(format_version)": (spec("format_version"), WHOLE),
    "ExtractionSpec.from_dict": (fc.ExtractionSpec.from_dict, set()),
    "Source.limit": (lambda value: fc.open_source(IMAGES).limit(value), WHOLE),
    "Source.take": (
        lambda value: fc.open_source(IMAGES).take(value),
        {"int", "tuple", "empty", "no rows", "no columns"},
    ),
    "Source.get": (lambda value: fc.open_source(IMAGES).get(value), WHOLE),
    "Features": (fc.Features, set()),
    "load": (fc.load, set()),
    "evaluate": (fc.evaluate, set()),
    "export": (lambda value: fc.export(value, "onnx"), set()),
    "export(format)": (lambda value: fc.export("no.keras", value), set()),
    "export(min_agreement)": (lambda v: fc.export("no", "saved-model", min_agreement=v), ()),
    "finetune": (lambda value: fc.finetune(value, out="out.keras"), set()),
    "finetune(out)": (lambda value: fc.finetune("no.keras", out=value), set()),
    **{
        f"finetune({name})": (tuned(name), set())
        for name in (
            *("unfreeze", "unfreeze_from", "stages", "learning_rate", "lr_decay", "schedule"),
            *("warmup", "epochs", "patience", "dropout", "views", "augment", "end_to_end", "seed"),
        )
    },
    "stitch": (fc.stitch, set()),
    "leaderboard.load": (leaderboard.load, set()),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_given_by_mistake(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad_values.check(*CALLS[name], tmp_path)


def test_options_of_finetune_that_are_wrong_are_named():
    with pytest.raises(
        FeatcacheError, match=r"^learning_rate must lie between 0 and 1; got an array"
    ):
        fc.finetune("no.keras", out="out.keras", learning_rate=np.ones(3))


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (X, None, "y must be classes, 0 and 1 with a column per label, or numeric targets"),
        ([[1.0], [2.0, 3.0]], Y, "X must be numbers in (n_samples, n_features)"),
        (X, [[1.0], [2.0, 3.0]], "Its rows differ in length."),
        (bad_values.sparse.csr_matrix(X), Y, "Convert it with .toarray()."),
        ((row for row in X), Y, "Put what it gives into a list."),
        (X, np.where(Y, Y, np.nan), "y must be finite numbers below 1e+15, which row 0 has not."),
        (
            X,
            [*"ab" * 17, "a", None],
            "and does not of 1, first of row 35 (None). Leave those rows out.",
        ),
        (X, [*"ab" * 17, "a", np.nan], "first of row 35 (nan)"),
        (X[:, :0], Y, "got an array (36, 0) of float64."),
        (X, Y[1:], "X has 36 rows and y has 35"),
        (np.where(X > 2, np.nan, X), Y, "X must be finite numbers below 1e+15"),
    ],
)
def test_what_is_said_of_arrays(X, y, message):
    with pytest.raises(FeatcacheError, match=re.escape(message)):
        fc.fit_heads((X, y))


def test_what_was_meant_is_taken(tmp_path):
    """Lists, columns of objects and NumPy's own numbers and texts are no mistakes."""
    names = np.array(["ant", "bee", "cow"], object)[Y]
    board = fit(
        (X.tolist(), names.tolist()),
        cv=np.int64(3),
        seed=np.uint8(0),
        learning_curve=np.bool_(False),
        folder=tmp_path / "a.heads",
        show_progress=False,
    )
    assert board.class_names == ("ant", "bee", "cow")
    labels = fc.open_source(IMAGES, labels=[None, *names[1:]], groups=[None, *"ab" * 17, "a"])
    assert labels.labels[0] == -1
    assert labels.annotations.groups[0] == ""  # none, not one that is called None
