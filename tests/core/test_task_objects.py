"""Tasks: every fact is one that the other rooms can act on."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from featcache.core import tasks
from featcache.core.labels import Columns, from_columns
from featcache.core.tasks import PROBABILITIES, SCORES, TASKS, VALUES, TargetKind
from featcache.data.sources.cells import columns_of

EVERY = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def place(row):
    return f"row {row}"


@EVERY
def test_a_task_is_found_by_its_name_and_has_names_for_its_outputs(task):
    assert TASKS[task.name] is task
    assert all((task.noun, task.nouns, task.answer, task.column))


@EVERY
def test_metrics_that_a_task_names_are_among_its_own(task):
    named = {task.default_metric, task.epoch_metric, *task.shown_metrics}
    assert named <= set(task.metrics)
    assert len(task.shown_metrics) == 2  # one of them is not the one that is optimised
    assert task.weakest_by in task.scores_of_each


def test_columns_and_types_of_arrays_belong_to_one_task_each():
    several = [task for task in TASKS.values() if not task.is_one_class]  # the rest reads labels
    assert len({task.column for task in several}) == len(several)
    types = [name for task in TASKS.values() for name in task.target_types]
    assert len(set(types)) == len(types)


@EVERY
def test_a_task_travels_between_processes(task):
    assert pickle.loads(pickle.dumps(task)) == task


def test_kinds_of_targets_find_their_tasks():
    several = tuple(name for name in TASKS if name not in tasks.ONE_CLASS)
    assert tasks.names_of(*TargetKind) == several
    assert tasks.names_of(TargetKind.NUMBERS) == ("regression",)
    assert [tasks.first_of(kind).name for kind in TargetKind] == list(several)
    assert tasks.DEFAULT_TASK == "classification"


def test_outputs_say_the_largest_class():
    outputs = np.array([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]])
    task = TASKS["classification"]
    assert task.said(outputs, PROBABILITIES).tolist() == [1, 0]
    assert task.close_calls(outputs, PROBABILITIES, 0.15).tolist() == [False, True]


@pytest.mark.parametrize(
    ("output", "outputs"),
    [(PROBABILITIES, [[0.5, 0.1], [0.2, 0.9]]), (SCORES, [[0.0, -0.4], [-0.3, 0.4]])],
)
def test_outputs_say_the_labels_from_the_threshold_on(output, outputs):
    task, outputs = TASKS["multi-label"], np.array(outputs)
    assert task.said(outputs, output).tolist() == [[1, 0], [0, 1]]
    assert task.close_calls(outputs, output, 0.1).tolist() == [True, False]


def test_values_say_themselves_and_hang_on_nothing():
    task, outputs = TASKS["regression"], np.array([[0.5], [0.0]])
    np.testing.assert_array_equal(task.said(outputs, VALUES), outputs)
    assert not task.close_calls(outputs, VALUES, 1.0).any()


@pytest.mark.parametrize(
    ("record", "task", "names"),
    [
        ({"label": "cat"}, "classification", ("cat",)),
        ({"labels": "cat|dog"}, "multi-label", ("cat", "dog")),
        ({"target": "3"}, "regression", ("target",)),
        ({"label": "cat", "target": "3"}, "classification", ("cat",)),
        ({}, "classification", ()),
    ],
)
def test_the_columns_of_a_manifest_say_the_task(record, task, names):
    about = from_columns(1, columns_of([record], None, place))
    assert (about.task, about.output_names) == (task, names)


def test_a_task_of_numbers_is_one_entry_with_its_own_column(monkeypatch):
    stars = replace(TASKS["regression"], name="stars", column="stars", said=lambda x, _: x.round())
    monkeypatch.setitem(TASKS, "stars", stars)
    rows = [{"stars": "4", "weight": "2.5"}, {"stars": "", "weight": "1"}]
    about = from_columns(2, columns_of(rows, None, place))
    assert (about.task, about.output_names) == ("stars", ("stars",))
    assert about.is_known.tolist() == [True, False]
    assert from_columns(2, columns_of(rows, "weight", place)).task == "regression"
    assert from_columns(2, columns_of(rows, "stars", place)).task == "stars"


def test_arrays_without_a_manifest_are_of_the_plain_task():
    about = from_columns(1, Columns(targets=[[1.0, 2.0]], target_names=("a", "b")))
    assert (about.task, about.output_names) == ("regression", ("a", "b"))
    assert about.strata.tolist() == [0]
