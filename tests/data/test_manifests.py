from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import CLASSES

from featcache.core.errors import SourceError, SpecError
from featcache.data import openers


def ids_of(photos: Path) -> list[str]:
    return sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.*"))


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write a manifest in the format of its ending; rows may lack columns."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, names, delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        columns = {name: [row.get(name) for row in rows] for name in names}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


FORMATS = ("csv", "tsv", "jsonl", "ndjson", "parquet")


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_what_the_folder_gives(photos, ending):
    ids = ids_of(photos)
    rows = [{"path": id_, "label": id_.split("/")[0], "width": 7} for id_ in reversed(ids)]
    source = openers.open_source(write(photos / f"list.{ending}", rows))
    folder = openers.open_source(photos)
    assert source.ids == folder.ids
    assert source.class_names == CLASSES
    np.testing.assert_array_equal(source.labels, folder.labels)
    assert [source.get(row) for row in range(21)] == [folder.get(row) for row in range(21)]
    assert source.annotations.task == "classification"
    assert (source.splits, source.annotations.groups) == (None, None)
    assert source.name == "list"


@pytest.mark.parametrize("ending", FORMATS)
def test_splits_groups_and_empty_cells(photos, ending):
    rows = [
        {"path": id_, "label": None if number == 4 else "x", "split": name, "group": group}
        for number, (id_, name, group) in enumerate(
            zip(
                ids_of(photos),
                ["Train", "validation", "TEST"] * 7,
                ["g", None, "h"] * 7,
                strict=True,
            )
        )
    ]
    about = openers.open_source(write(photos / f"list.{ending}", rows)).annotations
    assert about.splits == ("train", "val", "test") * 7
    assert about.groups == ("g", "", "h") * 7
    assert about.labels.tolist() == [-1 if number == 4 else 0 for number in range(21)]


@pytest.mark.parametrize("ending", FORMATS)
def test_several_labels(photos, ending):
    ids = ids_of(photos)[:4]
    given = ["red|round", "round", "|", None]
    if ending == "jsonl":
        given = [["red", "round"], ["round"], [], None]
    rows = [{"path": id_, "labels": cell} for id_, cell in zip(ids, given, strict=True)]
    about = openers.open_source(write(photos / f"list.{ending}", rows)).annotations
    assert about.task == "multi-label"
    assert about.class_names == ("red", "round")
    # no label at all is known to be none; an empty cell is not known
    assert about.labels.tolist() == [[1, 1], [0, 1], [0, 0], [-1, -1]]
    assert about.is_known.tolist() == [True, True, True, False]


@pytest.mark.parametrize("ending", FORMATS)
def test_targets(photos, ending):
    rows = [
        {"path": id_, "target": None if number == 2 else number / 4, "b": number, "label": "x"}
        for number, id_ in enumerate(ids_of(photos)[:5])
    ]
    manifest = write(photos / f"list.{ending}", rows)
    both = openers.open_source(manifest).annotations
    assert both.task == "classification"
    assert both.targets[:, 0].tolist()[:2] == [0, 0.25]
    about = openers.open_source(manifest, target="b, target").annotations
    assert about.task == "regression"
    assert about.target_names == ("b", "target")
    np.testing.assert_array_equal(about.y[3], [3, 0.75])
    assert about.is_known.tolist() == [True, True, False, True, True]


def test_numbers_as_labels_are_in_the_order_of_numbers(photos):
    rows = [{"path": id_, "label": number} for number, id_ in enumerate(ids_of(photos))]
    source = openers.open_source(write(photos / "list.csv", rows))
    assert source.class_names == tuple(map(str, range(21)))


def test_paths_are_relative_to_the_root(photos, tmp_path):
    manifest = write(tmp_path / "list.csv", [{"path": ids_of(photos)[0]}])
    with pytest.raises(SourceError, match="does not exist"):
        openers.open_source(manifest, root=tmp_path / "nowhere")
    source = openers.open_source(manifest, root=photos)
    assert source.ids == tuple(ids_of(photos)[:1])
    again = openers.reopen({"source": source.origin, "source_options": source.options})
    assert again.paths == source.paths


def test_absolute_paths_and_dots_are_the_same_id(photos):
    one = ids_of(photos)[0]
    for path in (str(photos / one), f"./pear/../{one}"):
        assert openers.open_source(write(photos / "list.csv", [{"path": path}])).ids == (one,)


def test_spreadsheets_that_write_semicolons_and_a_mark(photos):
    text = f"\ufeffpath;label\r\n{ids_of(photos)[0]};rot\r\n"
    (photos / "list.csv").write_text(text, encoding="utf-8", newline="")
    assert openers.open_source(photos / "list.csv").class_names == ("rot",)


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/passwd", "a/../../b.jpg"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_ids_do_not_escape_the_root(photos, path, ending):
    rows = [{"path": ids_of(photos)[0]}, {"path": path}]
    with pytest.raises(SourceError, match=r"in line \d of 'list.*lies outside .*--root"):
        openers.open_source(write(photos / f"list.{ending}", rows))


def test_a_path_twice_names_both_lines(photos):
    one, two, *_ = ids_of(photos)
    rows = [{"path": one}, {"path": two}, {"path": f"./{one}"}]
    with pytest.raises(SourceError, match=r"line 2 of 'list.csv' and line 4 of 'list.csv'"):
        openers.open_source(write(photos / "list.csv", rows))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "has no column 'path'"),
        ("a.csv", "file,label\nx,y\n", "has no column 'path'; its columns are: file, label"),
        ("a.csv", "path,label\n", "lists no images"),
        ("a.csv", "path,label\nx.jpg\n", "Line 2 of 'a.csv' has 1 cell, the header has 2"),
        ("a.csv", "path,path\nx,y\n", "has the column 'path' twice"),
        ("a.csv", "path,label\n,y\n", "no path in line 2"),
        (
            "a.csv",
            "path\nx.jpg\n",
            r"No image of manifest .*a\.csv' exists; the first .*x\.jpg.*--root",
        ),
        ("a.csv", 'path\n"x', "Line 2 of 'a.csv'"),
        ("a.csv", b"path\n\xff\xfe\n", "no UTF-8 text"),
        ("a.csv", "path,split\nx.jpg,dev\n", "split in line 2 of 'a.csv' must be .*got 'dev'"),
        ("a.csv", "path,split\nx.jpg,\n", "got ''"),
        ("a.csv", "path,target\nx.jpg,old\n", "'target' in line 2 of 'a.csv' must be a number"),
        ("a.csv", "path,target\nx.jpg,inf\n", "infinite"),
        ("a.jsonl", f'{{"path": "x.jpg", "target": 1{"0" * 400}}}', "must be a number; got 1000"),
        ("a.jsonl", "[" * 100_000, "Line 1 of 'a.jsonl' is no JSON"),
        ("a.jsonl", '{"path": ["x.jpg"]}', "'path' in line 1 .* must be one value"),
        ("a.jsonl", '{"path": "x.jpg", "label": ["a"]}', "got .*'a'.*a column 'labels'"),
        ("a.jsonl", '{"path": "x.jpg", "labels": {"a": 1}}', "'labels' in .* must be one value"),
        ("a.jsonl", '{"path": "x.jpg", "labels": [["a"]]}', "must be one value"),
        ("a.jsonl", '{"path": "x.jpg", "group": {"id": 1}}', "'group' in line 1"),
        ("a.csv", "path,label,labels\nx.jpg,a,b\n", "give one"),
        ("a.jsonl", "[1]\n", "Line 1 of 'a.jsonl' is no JSON object"),
        ("a.jsonl", '{"path": "x.jpg"}\n{"path"\n', "Line 2 of 'a.jsonl' is no JSON"),
        ("a.jsonl", '{"file": "x.jpg"}\n', "no path in line 1"),
        ("a.jsonl", '{"path": "\\ud800.jpg"}\n', "is no path"),
        ("a.jsonl", '{"path": "\\u0000.jpg"}\n', "zero byte"),
        ("a.parquet", "no", "is no Parquet file"),
        ("a.json", "{}", "is no annotation file of COCO"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SourceError, match=message) as caught:
        openers.open_source(path)
    assert "\n" not in str(caught.value)


def test_names_in_lists_are_read_as_in_cells(photos):
    lists = [["a", None, " "], [1, 1.0, "1"], None, []]
    rows = [{"path": id_, "labels": one} for id_, one in zip(ids_of(photos), lists, strict=False)]
    about = openers.open_source(write(photos / "list.jsonl", rows)).annotations
    assert about.class_names == ("1", "a")
    assert about.labels.tolist() == [[0, 1], [1, 0], [-1, -1], [0, 0]]


def test_classes_that_look_alike_are_told(photos):
    rows = [{"path": id_, "label": n} for id_, n in zip(ids_of(photos), ["a", "A"], strict=False)]
    source = openers.open_source(write(photos / "list.csv", rows))
    assert source.remarks[-1].startswith("Classes that differ in case or spaces alone")
    assert source.class_names == ("A", "a")


def test_text_that_parquet_has_as_bytes(photos):
    table = pyarrow.table({"path": [ids_of(photos)[0].encode()], "label": ["ä".encode()]})
    pyarrow.parquet.write_table(table, photos / "list.parquet")
    assert openers.open_source(photos / "list.parquet").class_names == ("ä",)


def test_a_target_column_that_is_not_there(photos):
    manifest = write(photos / "list.csv", [{"path": ids_of(photos)[0], "age": 3}])
    with pytest.raises(SourceError, match="The target 'age' is there twice"):
        openers.open_source(manifest, target="age,age")
    with pytest.raises(SourceError, match=r"no target column 'agee'; there are age, path"):
        openers.open_source(manifest, target="agee")
    with pytest.raises(SpecError, match="must name one column"):
        openers.open_source(manifest, target=" ,")


def test_options_of_manifests_are_refused_elsewhere(photos):
    with pytest.raises(SpecError, match="root and target are options of manifests"):
        openers.open_source("example:digits", target="age")
    with pytest.raises(SpecError, match="root is an option of manifests"):
        openers.open_source(photos, root=photos)
    with pytest.raises(SpecError, match="target is an option of manifests"):
        openers.open_source(photos, target="age")


def test_text_that_files_cannot_hold_is_escaped(photos, extract):
    rows = [
        {"path": id_, "label": label, "group": "a\0b"}
        for id_, label in zip(ids_of(photos), ["\ud800x", "y"] * 11, strict=False)
    ]
    features = extract(write(photos / "list.jsonl", rows)).features
    assert features.class_names == ("\\ud800x", "y")
    assert features.groups == ("a\\0b",) * 21


def test_files_that_are_missing_are_failures(photos, extract):
    one = ids_of(photos)[0]
    manifest = write(photos / "list.csv", [{"path": one}, {"path": "no/such.jpg"}])
    done = extract(manifest)
    assert done.features.ids == (one,)
    assert [failure.id for failure in done.features.failures] == ["no/such.jpg"]
    assert "No such file" in done.features.failures[0].reason


@pytest.mark.parametrize("ending", FORMATS)
def test_extraction_keeps_what_the_manifest_says(photos, extract, ending):
    rows = [
        {"path": id_, "labels": "a|b" if n % 2 else "a", "split": "test" if n > 17 else "train"}
        | {"group": f"g{n // 3}", "target": n / 2}
        for n, id_ in enumerate(ids_of(photos))
    ]
    rows[3]["target"] = None
    manifest = write(photos / f"list.{ending}", rows)
    done = extract(manifest)
    features = done.features
    assert features.task == "multi-label"
    X, y = features.arrays("test")
    np.testing.assert_array_equal(X, features.X[18:])
    np.testing.assert_array_equal(y, features.labels[18:])
    assert y.tolist() == [[1, 0], [1, 1], [1, 0]]
    assert features.groups[:4] == ("g0", "g0", "g0", "g1")
    assert np.isnan(features.targets[3, 0])
    assert extract(manifest).hit
    aged = extract(manifest, target="target")
    assert (aged.n_computed, aged.hit) == (0, False)
    assert aged.features.arrays("test")[1].tolist() == [[9.0], [9.5], [10.0]]
    assert len(aged.features.arrays("train")[1]) == 17
    rows[0]["group"] = "other"
    write(manifest, rows)
    changed = extract(manifest, target="target")
    assert (changed.n_computed, changed.hit) == (0, False)
    assert changed.features.groups[0] == "other"


def test_labels_of_a_link_to_a_manifest_are_beside_the_link(photos, tmp_path):
    real = write(tmp_path / "list.csv", [{"path": ids_of(photos)[0]}])
    (photos / "link.csv").symlink_to(real)
    assert Path(openers.open_source(photos / "link.csv").paths[0]).exists()
