"""Every head x preprocessing x task, calibrated too, is the same in a process without featcache."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from test_heads import CLASSIFICATION, MULTI_LABEL, QUICK, REGRESSION, data

from featcache import heads
from featcache.core import tasks
from featcache.core.tensorflow import import_keras
from featcache.heads import calibration, preprocessing
from featcache.models import stitching

# so that the models are made once
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("parity")]

TASKS = (CLASSIFICATION, MULTI_LABEL, REGRESSION)
TOLERANCE = 1e-4  # of the scale, which for targets is their spread
# where what comes out jumps: at the last neighbour, and at a vote
STEPPED = ("knn", "rbf-svm")
CHAINS = ("standardise+pca", "l2+standardise", "standardise+l2", "pca+l2")
PREPROCESSING = ("none", "standardise", "l2", "pca", *CHAINS)
SOME = (None, "standardise", "pca+l2")  # with each variant, which comes after; two with each map
# what of a head is no preprocessing but is computed by other layers
VARIANTS = {
    "knn": ({}, {"weights": "uniform", "metric": "euclidean"}, {"class_weight": "balanced"}),
    "dense": ({}, {"hidden": (8,), "batch_norm": True}),
}

PLAIN_KERAS = """
import sys
sys.modules["featcache"] = None  # importing it raises
sys.modules["sklearn"] = None  # Keras imports it for its wrappers, in a third of the time
import json, keras, numpy as np
folder = sys.argv[1]
inputs = np.load(folder + "/inputs.npz")
found = {}
for name in json.load(open(folder + "/names.json")):
    model = keras.models.load_model(folder + "/" + name + ".keras")
    values, outputs = model(inputs[name.split(",")[1]], training=False)
    found[name + ",values"], found[name + ",outputs"] = np.asarray(values), np.asarray(outputs)
np.savez(folder + "/outputs.npz", **found)
"""


def cases():
    """Yield (label, head, task, parameters, calibration) of everything that stitches."""
    for name, kind in heads.CATALOGUE.items():
        for task in kind.tasks if kind.stitches else ():
            has_some = "preprocessing" in kind(task=task).get_params()
            for steps in PREPROCESSING if has_some else (None,):
                variants = VARIANTS.get(name, ({},)) if steps in SOME else ({},)
                for number, variant in enumerate(variants):
                    params = QUICK.get(name, {}) | variant | {"task": task}
                    params |= {} if steps is None else {"preprocessing": steps}
                    calibrates = task == CLASSIFICATION and name != "dummy" and not number
                    calibrates = calibrates and steps in SOME[:2]
                    maps = calibration.KINDS if calibrates else ()
                    for kind_of_map in (None, *maps):
                        label = f"{name},{task},{steps},{number},{kind_of_map}"
                        yield label, name, task, params, kind_of_map


CASES = list(cases())


def layers_of(head):
    keras = import_keras()
    inputs = keras.Input((head.n_features_in_,))
    outputs = head.to_keras_layers(inputs)
    layer = keras.Model(inputs, outputs).get_layer(head.parity_layer)
    return keras.Model(inputs, [layer.output, outputs])


@pytest.fixture(scope="module")
def stitched(tmp_path_factory):
    """Each case: its head, its rows, and what its layers give before and after plain Keras."""
    folder = tmp_path_factory.mktemp("heads")
    rows = {task: data(task, seed=1, n=90, scale=3, shift=2)[0] for task in TASKS}
    np.savez(folder / "inputs.npz", **rows)
    made, fitted = {}, {}
    for label, name, task, params, kind_of_map in CASES:
        key = name, str(params)
        if key not in fitted:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(preprocessing, "N_COMPONENTS", 9)  # fewer than there are features
                some = data(task, n=121, scale=3, shift=2)  # a class more often than the others
                fitted[key] = heads.CATALOGUE[name](**params).fit(*some)
        head = fitted[key]
        if kind_of_map is not None:
            X, y = data(task, seed=2, scale=3, shift=2)
            scored = calibration.fit(kind_of_map, head.outputs(X), y, head.output)
            head = heads.Calibrated(head, scored)
        model = layers_of(head)
        model.save(folder / f"{label}.keras")
        before = [np.asarray(part) for part in model(rows[task], training=False)]
        made[label] = head, rows[task], before, folder / f"{label}.keras"
    (folder / "names.json").write_text(json.dumps(list(made)))
    subprocess.run(
        [sys.executable, "-c", PLAIN_KERAS, folder],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    after = np.load(folder / "outputs.npz")
    return {
        label: (*some, [after[f"{label},values"], after[f"{label},outputs"]])
        for label, some in made.items()
    }


def difference(expected, got, of_targets):
    scale = max(1.0, np.abs(expected).max())
    if of_targets:
        scale = np.maximum(expected.std(axis=0), 0.01 * np.abs(expected).max(axis=0))
    return (np.abs(got - expected) / scale).max()


@pytest.mark.parametrize(("label", "name", "task", "params", "kind_of_map"), CASES)
def test_the_same_before_and_after_a_process_without_featcache(
    stitched, label, name, task, params, kind_of_map
):
    head, X, before, file, after = stitched[label]
    expected = head.parity_values(X), head.outputs(X)
    ties = head.hangs_on_a_tie(X, TOLERANCE)
    assert ties.mean() < 0.1  # an isotonic map has plateaus
    near = ~ties if name in STEPPED else slice(None)
    for values, outputs in (before, after):
        of_targets = task == REGRESSION
        at_output = of_targets and head.parity_layer == head.output
        assert difference(expected[0], values, at_output) <= TOLERANCE
        assert difference(expected[1][near], outputs[near], of_targets) <= TOLERANCE
        if not of_targets:
            said = tasks.TASKS[task].said
            same = said(expected[1], head.output) == said(outputs, head.output)
            assert (same.reshape(len(X), -1).all(axis=1) | ties).all()
    check_stock(json.loads(zipfile.ZipFile(file).read("config.json")))


def check_stock(config):
    """Every part of a model's configuration is Keras's own, and none is a Lambda."""
    if isinstance(config, dict):
        assert config.get("class_name") != "Lambda"
        if "class_name" in config and "module" in config:
            assert config["module"].split(".")[0] in ("keras", "builtins"), config["module"]
            assert config.get("registered_name") in (None, config["class_name"])
        for part in config.values():
            check_stock(part)
    elif isinstance(config, list):
        for part in config:
            check_stock(part)


ROW = np.array([[0.2, 0.8], [0.6, 0.4], [0.9, 0.1]])


def moved(by, rows=ROW):
    return rows + np.array([by, 0.0])


@pytest.mark.parametrize(
    ("task", "output", "expected", "got", "same", "ties", "holds"),
    [
        (CLASSIFICATION, "probabilities", ROW, moved(1e-5), 3, 0, True),
        (CLASSIFICATION, "probabilities", ROW, moved(1e-3), 3, 0, False),
        (CLASSIFICATION, "probabilities", ROW, ROW[:, ::-1], 0, 0, False),
        # two classes nearer to each other than the tolerance: either may be named
        (CLASSIFICATION, "scores", ROW * 0 + [0, 1e-5], ROW * 0 + [1e-5, 0], 0, 3, True),
        # relative to the largest score
        (CLASSIFICATION, "scores", 1000 * ROW, 1000 * ROW + [0.08, 0], 3, 0, True),
        (MULTI_LABEL, "probabilities", ROW, moved(1e-5), 3, 0, True),
        (MULTI_LABEL, "probabilities", ROW, moved(0.4), 2, 0, False),
        (MULTI_LABEL, "probabilities", ROW - [0.4, 0], moved(-2e-5, ROW - [0.4, 0]), 2, 1, True),
        (MULTI_LABEL, "scores", moved(-0.2), moved(-0.2 - 1e-5), 2, 1, True),
        (MULTI_LABEL, "scores", ROW - 0.3, ROW - 0.5, 2, 0, False),
        # relative to the spread of each target, whatever the other's is
        (REGRESSION, "values", ROW * [1e6, 1], ROW * [1e6, 1] + [20, 2e-5], 3, 0, True),
        (REGRESSION, "values", ROW * [1e6, 1], ROW * [1e6, 1] + [0, 1e-3], 0, 0, False),
        # seven digits are all there are
        (REGRESSION, "values", ROW * 0 + 1e6, ROW * 0 + 1e6 + 0.5, 3, 0, True),
        (REGRESSION, "values", ROW * 0, ROW * 0 + 2e-4, 0, 0, False),
    ],
)
def test_what_counts_as_the_same(task, output, expected, got, same, ties, holds):
    parity = stitching.compare(
        np.asarray(expected), np.asarray(got), task=task, output=output, tolerance=TOLERANCE
    )
    assert (parity.n_same_class, parity.n_ties, parity.holds) == (same, ties, holds)
    assert parity.n_images == 3
    assert parity.tolerance == TOLERANCE
    what = {CLASSIFICATION: "class", MULTI_LABEL: "labels", REGRESSION: "values"}[task]
    assert f"same {what} for {same}" in str(parity)


def test_a_value_that_is_no_number_never_holds():
    parity = stitching.compare(
        ROW, ROW * np.nan, task=REGRESSION, output="values", tolerance=TOLERANCE
    )
    assert not parity.holds
