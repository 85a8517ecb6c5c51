"""The page of a fine-tuning: its numbers, its words, and a browser's opinion of it."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from featcache import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def about(**changes):
    stage = {
        "unfrozen": ["conv_2", "bn_2"],
        "boundary": "relu_1",
        "validation_loss": [1.5, 1.25, 1.125, 1.375],
        "validation_metric": [0.5, 0.625, 0.75, 0.625],
        "training_loss": [0.9, 0.7, 0.5],
        "seconds": [0.5, 0.25, 0.25],
        "best_epoch": 2,
    }
    values = {
        "model": "<b>flowers</b>.keras",
        "source": "/photos/<script>alert(1)</script>",
        "head": "logreg",
        "backbone": "tiny",
        "task": "classification",
        "metric": "accuracy",
        "improved": True,
        "before": {"accuracy": 0.5, "log-loss": 1.5},
        "after": {"accuracy": 0.75, "log-loss": float("nan")},
        "n_train": 60,
        "n_validation": 16,
        "n_test": 20,
        "parity": {"n_images": 96, "largest_difference": 1e-6},
        "plan": {"stages": [2], "learning_rate": 1e-3, "patience": None, "refit": True},
        "versions": {"keras": "3.15"},
        "stages": [stage],
    }
    return values | changes


def text_of(page):
    body = page[page.index("<main") : page.index("</main>")]
    return " ".join(re.sub("<[^>]+>", " ", body).split())


def test_the_numbers_are_in_tables_and_figures(tmp_path):
    page = report.write_training(tmp_path / "f.html", about()).read_text(encoding="utf-8")
    text = text_of(page)
    assert "accuracy was 0.500 and is 0.750" in text
    assert "before 1.5000 0.500" in text
    assert "2 kept 0.7000 1.1250 0.750 0.25" in text
    assert "2 layers of the backbone trained with the head, behind relu_1" in text
    assert "with 20 images one image is 0.050" in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    figures = json.loads(data[1])
    training, level, validation, kept = figures["loss-1"]["data"]
    assert training["y"] == [0.9, 0.7, 0.5]
    assert level["y"] == [1.5, 1.5]
    assert validation["y"] == [1.5, 1.25, 1.125, 1.375]
    assert (kept["x"], kept["y"]) == ([2], [1.125])
    assert "NaN" not in data[1]


def test_what_did_not_help_says_so(tmp_path):
    values = about(improved=False, after={"accuracy": 0.5, "log-loss": 1.5}, parity=None)
    values["stages"][0]["best_epoch"] = 0
    page = report.write_training(tmp_path / "f.html", values).read_text(encoding="utf-8")
    assert "did not help" in text_of(page)
    assert "before kept 1.5000" in text_of(page)


def test_texts_from_outside_stay_texts(tmp_path):
    page = report.write_training(tmp_path / "f.html", about()).read_text(encoding="utf-8")
    assert "<b>flowers" not in page
    assert "alert(1)</script>" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(tmp_path, scheme):
    from playwright.sync_api import sync_playwright

    values = about()
    values["stages"] = values["stages"] * 2
    path = report.write_training(tmp_path / "f.html", values)
    complaints, asked = [], []
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(color_scheme=scheme, viewport={"width": 375, "height": 800})
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: asked.append(r.url) if r.url.startswith("http") else None)
        page.goto(path.as_uri())
        page.wait_for_selector("#stage-2 [data-chart='metric-2'] .main-svg")
        assert page.locator("[data-chart] .scatterlayer .trace").count() == 2 * (4 + 3)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        browser.close()
    assert complaints == []
    assert asked == []
