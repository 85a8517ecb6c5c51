"""The benchmarks run, on quick networks and a few images; what they find is not judged here."""

from __future__ import annotations

import argparse
import functools
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from featcache.core.tensorflow import import_keras
from featcache.networks.engines import openvino

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import coverage as of_intervals
import defects
import export_families
import extract as bench
import finetune
import gpu
import head_costs
import page
import pasted
import photos as made
import rewriting
import scaling

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return made.make(tmp_path_factory.mktemp("bench") / "photos", 24)


def test_photographs_are_as_said_and_the_same_every_time(root, tmp_path):
    again = made.make(tmp_path / "again", 8)
    for path in sorted(again.rglob("*.jpg")):
        assert path.read_bytes() == (root / path.relative_to(again)).read_bytes()
    sizes = [path.stat().st_size for path in root.rglob("*.jpg")]
    assert len(sizes) == 24
    assert 40_000 < np.mean(sizes) < 60_000
    with Image.open(next(root.rglob("*.jpg"))) as image:
        assert image.size == (500, 375)


def test_pasted_drawings_lie_in_their_image_and_are_the_same_every_time(tmp_path):
    one, other = (pasted.make(tmp_path / name, 20) for name in ("one", "other"))
    assert one.read_text() == other.read_text()
    for path in sorted(one.parent.rglob("*.jpg")):
        again = other.parent / path.relative_to(one.parent)
        assert path.read_bytes() == again.read_bytes()
    lines = [json.loads(line) for line in one.read_text().splitlines()]
    assert [line["split"] for line in lines] == ["train"] * 14 + ["val"] * 2 + ["test"] * 4
    for line in lines:
        with Image.open(one.parent / line["path"]) as image:
            for x, y, width, height in (box["box"] for box in line["boxes"]):
                assert 0 <= x < x + width <= image.width
                assert 0 <= y < y + height <= image.height
                longer = max(width, height) / min(image.size)
                assert 0.14 < longer < 0.61


def test_one_backbone_every_way(root, tmp_path, two_backbones):
    result = bench.one_backbone(root, tmp_path, two_backbones[0], 24, 1, None)
    reduced = {bench.BFLOAT16, bench.BACKBONE16} if openvino.can_compute("bfloat16") else set()
    assert set(result["rates"]) == reduced | {
        bench.TUTORIAL,
        bench.UNTUNED,
        bench.TENSORFLOW,
        bench.FLOAT32,
        bench.DECODE,
        bench.BACKBONE,
        bench.PREDICT,
    }
    assert all(rate > 0 for rate in result["rates"].values())
    assert result["over_tutorial"][bench.TUTORIAL] == 1
    limit = 1 / (1 / result["rates"][bench.DECODE] + 1 / result["rates"][bench.BACKBONE])
    assert result["limit"][bench.FLOAT32] == pytest.approx(limit)
    json.dumps(result)
    several = {"backbones": [], "machine": page.machine(), "what": "", "several": None}
    text = bench.text_of(several | {"backbones": [result]})
    assert "| small-5 " in text
    assert "share of the limit" in text


def test_several_backbones_in_one_pass(root, tmp_path, two_backbones, monkeypatch):
    monkeypatch.setattr(bench, "SEVERAL", tuple(two_backbones))
    result = bench.several_backbones(root, tmp_path, 24, 1)
    assert result["ratio"] > 0
    assert not list(tmp_path.glob("*.parts/part-*"))


def test_what_a_gpu_is_measured_by_runs_on_a_cpu(root, tmp_path, two_backbones, monkeypatch):
    monkeypatch.setattr(gpu, "RESIDENT_S", 0.0)
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    options = argparse.Namespace(
        images=24, batch_size=8, device="cpu", runtime="tensorflow", torch=None
    )
    options.runs = ((two_backbones[0], "float32"),)
    rates = gpu.measured(root, tmp_path, options)
    assert set(rates) == {"any", f"{two_backbones[0]} float32"}
    assert {"extract", "decode", "straight", "resident", "tutorial", "predict"} <= set(
        rates[f"{two_backbones[0]} float32"]
    )
    assert all(rate > 0 for some in rates.values() for rate in some.values())
    result = {"rates": {"mobilenet-v2 float32": rates[f"{two_backbones[0]} float32"]}}
    result |= {"machine": "", "what": "", "large": 9, "second process": {"second process": 3.0}}
    result["no gpu decoder"] = gpu.why_no_gpu_decodes("cpu")
    text = gpu.text_of(result)
    assert "over the tutorial" in text
    assert "| 1.00 " in text
    assert "`--decoder gpu` over the default decoder: not measured, as the network runs" in text
    result["no gpu decoder"] = None
    result["rates"]["mobilenet-v2 float32"] |= {"extract": 2.0, "extract, decoder gpu": 3.0}
    assert "default decoder: 1.50 for mobilenet-v2 float32." in gpu.text_of(result)


def test_scaling(tmp_path):
    (row,) = scaling.measured(tmp_path, [6], is_small=True, n_again=1)
    assert row["images"] == 6
    assert row["ms_an_image"] > 0
    assert "beyond the first" in scaling.text_of([row, row | {"images": 9}])
    scaling.make_images(tmp_path / "photos", 6, 9, None)
    assert len(list((tmp_path / "photos").rglob("*.jpg"))) == 9


def test_a_comment_changes_the_file_and_not_the_pixels():
    data = scaling.small_images(0)
    other = scaling.with_comment(data, 7)
    assert other != data
    before, after = (np.asarray(Image.open(io.BytesIO(one))) for one in (data, other))
    np.testing.assert_array_equal(before, after)


def test_a_result_takes_the_place_of_the_one_before(tmp_path, monkeypatch):
    page_file = tmp_path / "performance.md"
    page_file.write_text("# A\n<!-- x -->\nold\n<!-- end of x -->\n\nafter\n")
    monkeypatch.setattr(page, "PAGE", page_file)
    for text in ("one", "two"):
        page.put("x", text)
    expected = "# A\n<!-- x -->\n\ntwo\n\n<!-- end of x -->\n\nafter\n"
    assert page_file.read_text() == expected


def test_the_page_has_a_place_for_each_benchmark():
    text = (REPOSITORY / "docs" / "performance.md").read_text(encoding="utf-8")
    for section in ("extract", "scaling", "gpu", "gpu on cpus"):
        assert text.count(f"<!-- {section} -->") == text.count(f"<!-- end of {section} -->") == 1


def test_a_table():
    assert page.table(("a", "bb"), [("ccc", "d")]) == ("| a   | bb |\n|-----|----|\n| ccc | d  |")
    assert Path(page.PAGE).name == "performance.md"


def test_fine_tuning_both_ways(two_backbones):
    found = finetune.run((two_backbones[0], "last block", "first", 1.0), 20, 2, 1e-5, 1)
    assert found["ratio"] > 0
    assert found["unfrozen"] == 0  # the quick network has one layer with weights, at the boundary
    assert found["loss_difference"] < 1e-3
    assert found["prediction_difference"] < 1e-3
    json.dumps(found)


@pytest.mark.parametrize("name", ["centroid", "logreg"])
def test_what_a_head_costs(name):
    assert head_costs.measured(name, 90, 6, 3) > 0


@pytest.mark.parametrize("kind", [of_intervals.ALONE, of_intervals.COPIES, of_intervals.GROUPS])
def test_coverage_of_intervals(kind):
    cell = of_intervals.Cell(0.9, 80, 2, kind, 4)
    accuracy, loss = of_intervals.coverage(cell, ("accuracy", "log-loss"))
    assert accuracy["truth"] == pytest.approx(0.9, abs=0.05)
    assert accuracy["by folds"] in {0, 0.25, 0.5, 0.75, 1}
    assert 0 < accuracy["width held out"] < accuracy["width by folds"] * 1.2 < 2.4
    assert loss["truth"] > 0
    assert 0 <= of_intervals.told_apart(cell) <= 1
    assert of_intervals.at_chance(cell) > 0


def test_a_class_of_fewer_units_than_folds_has_no_coverage():
    assert of_intervals.coverage(of_intervals.Cell(0.9, 60, 5, of_intervals.GROUPS, 2)) == []


@pytest.fixture
def small_convnext(monkeypatch):
    """keras.applications' ConvNeXt with few layers, under the name of one with many."""
    from keras.src.applications.convnext import ConvNeXt

    sizes = {"depths": [1, 1, 1, 1], "projection_dims": [8, 12, 16, 20]}
    small = functools.partial(ConvNeXt, **sizes, name="convnext_tiny")
    monkeypatch.setattr(import_keras().applications, "ConvNeXtTiny", small)


@pytest.mark.parametrize("name", ["convnext-tiny", "convnextv2"])
def test_a_family_in_every_format(name, small_convnext):
    for module in ("onnx", "tf2onnx", "onnxruntime", "ai_edge_litert", "openvino", "safetensors"):
        pytest.importorskip(module)
    found = export_families.one_family(name, 32, 2)
    for format in export_families.FORMATS:
        assert found[format]["difference"] < 1e-5, found
        assert export_families.cell(found[format]).endswith(" s")
    assert export_families.cell({"error": "x" * 99}) == "x" * 60


def test_before_and_after_rewriting(small_convnext):
    (before, after), difference = rewriting.measured(32, 2, 2)
    assert len(before) == len(after) == 2
    assert difference < 1e-5


@pytest.mark.parametrize("kind", ["scratch", "stain", "pasted"])
def test_made_defects_are_where_their_masks_are(kind):
    texture = np.random.default_rng(0).integers(60, 190, (512, 512)).astype(np.uint8)
    crops = [defects.good(texture, np.random.default_rng(1)) for _ in range(2)]
    np.testing.assert_array_equal(*crops)
    made, mask = defects.defective(texture, kind, np.random.default_rng(1))
    changed = made != crops[0]
    assert (mask > 0).mean() < 0.2
    assert changed[mask > 0].mean() > 0.9
    assert changed[mask == 0].mean() < 0.2  # what is soft reaches a little further
