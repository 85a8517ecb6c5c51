"""The page of a fine-tuning: its numbers, its words, and a browser's opinion of it."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser

import pytest

from featcache import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<script>alert(1)</script>"


def stage(**changes):
    return {
        "unfrozen": ["conv_2", f"bn_2 {HOSTILE}"],
        "boundary": f"relu_1 {HOSTILE}",
        "validation_loss": [1.5, 1.25, 1.125, 1.375],
        "validation_metric": [0.5, 0.625, 0.75, 0.625],
        "training_loss": [0.9, 0.7, 0.5],
        "seconds": [0.5, 0.25, 0.125],
        "best_epoch": 2,
    } | changes


def about(**changes):
    return {
        "model": "<b>flowers</b>.keras",
        "source": f"/photos/{HOSTILE}",
        "head": f"logreg {HOSTILE}",
        "backbone": f"tiny {HOSTILE}",
        "task": "classification",
        "metric": "accuracy",
        "improved": True,
        "before": {"accuracy": 0.5, "log-loss": 1.5},
        "after": {"accuracy": 0.75, "log-loss": 1.25},
        "n_train": 60,
        "n_validation": 16,
        "n_test": 20,
        "parity": {"n_images": 96, "n_same_class": 96, "largest_difference": 1e-6, "layer": "x"},
        "plan": {"stages": [2], "learning_rate": 1e-3, "patience": None, "refit": True},
        "stages": [stage()],
        "refit": [{"training_loss": [0.8, 0.6], "seconds": [1.0, 0.75]}],
        "command": f"featcache finetune '{HOSTILE}.keras' --unfreeze 2",
        "versions": {"keras": f"3.15 {HOSTILE}"},
    } | changes


class Elements(HTMLParser):
    """Every element of a page, by its start tag."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@pytest.fixture
def written(tmp_path):
    """Write the page of what is changed; return it, its text, and its figures."""

    def write(**changes):
        path = report.write_training_page(tmp_path / "f.html", about(**changes))
        assert path == tmp_path / "f.html"
        page = path.read_text(encoding="utf-8")
        body = page[page.index("<main") : page.index("</main>")]
        data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
        refuse = pytest.fail  # NaN is no JSON, and Python would read it all the same
        figures = json.loads(data[1], parse_constant=refuse)
        return page, " ".join(re.sub("<[^>]+>", " ", body).split()), figures

    return write


def by_name(figure):
    return {one["name"]: (one["x"], one["y"]) for one in figure["data"]}


def test_the_result_says_what_changed_and_how_sure_that_is(written):
    _, text, _ = written()
    assert "Training helped : on 16 validation images accuracy went from 0.500 to 0.750" in text
    # Wilson's intervals of 10 and of 15 of 20
    assert (
        ", and on 20 held-out images, which chose nothing, accuracy was 0.500 [0.299 to 0.701] "
        "and is 0.750 [0.531 to 0.888] ." in text
    )
    assert "Of the same 20 images, 10 were right before and 15 are now" in text
    assert "One of the 16 images is 0.062, so small steps are chance" in text
    assert "trained a second time in the same way, on all 76 training and validation" in text


def test_the_numbers_are_in_tables_and_figures(written):
    _, text, figures = written()
    assert "before 1.5000 0.500 1 0.9000 1.2500 0.625 0.50 2 kept 0.7000 1.1250 0.750 0.25" in text
    assert "log-loss lower is better 1.500 1.250 -0.250" in text
    assert "accuracy 0.500 0.299 to 0.701 0.750 0.531 to 0.888 +0.250" in text
    assert "1 0.9000 0.8000 1.00 2 0.7000 0.6000 0.75" in text
    assert "Training 0.9 s 0.25 s Second run 1.8 s 0.88 s" in text
    assert "images 96" in text
    assert "learning rate 0.001 patience none" in text
    losses = by_name(figures["loss-1"])
    assert losses == {
        "training": ([1, 2, 3], [0.9, 0.7, 0.5]),
        "before": ([0, 3], [1.5, 1.5]),
        "validation": ([0, 1, 2, 3], [1.5, 1.25, 1.125, 1.375]),
        "kept": ([2], [1.125]),
    }
    assert by_name(figures["metric-1"])["kept"] == ([2], [0.75])
    assert by_name(figures["seconds"])["Second run"] == ([4, 5], [1.0, 0.75])
    assert by_name(figures["refit-1"])["second run"] == ([1, 2], [0.8, 0.6])


def test_every_chart_is_drawn_from_a_figure_and_told_in_words(written):
    page, _, figures = written(stages=[stage(), stage(best_epoch=0)], refit=[])
    charts = [one for _, one in Elements(page).found if "data-chart" in one]
    assert {one["data-chart"] for one in charts} == set(figures)
    assert len(charts) == 5
    assert all(one["role"] == "img" and "table" in one["aria-label"] for one in charts)
    assert "1.5000 before training, 1.1250 in epoch 2, which was kept" in charts[0]["aria-label"]
    assert "0.500 before training, and no epoch was kept" in charts[3]["aria-label"]


def test_what_did_not_help_says_so(written):
    _, text, figures = written(
        improved=False,
        after=about()["before"],
        parity=None,
        refit=[],
        command=None,
        stages=[stage(best_epoch=0, unfrozen=[], boundary="the features")],
    )
    assert "Training did not help : on 16 validation images no epoch had a better accuracy" in text
    assert "its accuracy on 20 held-out images is 0.500 [0.299 to 0.701]" in text
    assert "before kept 1.5000" in text
    assert "log-loss lower is better 1.500 1.500 0 " in text
    assert "the head alone was trained, behind the features" in text
    assert by_name(figures["loss-1"])["kept"] == ([0], [1.5])
    assert "second" not in text.lower().replace("seconds", "")


@pytest.mark.parametrize("after", [0.5, 0.25])
def test_a_gain_that_the_held_out_images_do_not_show_is_no_success(written, after):
    _, text, _ = written(after={"accuracy": after, "log-loss": 1.5})
    assert "Training helped on validation images only : on 16" in text
    assert "0.750; but on 20 held-out images" in text


def test_a_lower_loss_at_the_same_metric_is_told_by_the_loss(written):
    _, text, _ = written(stages=[stage(validation_metric=[0.5, 0.5, 0.5, 0.25])])
    assert "accuracy stayed at 0.500 and the loss went from 1.5000 to 1.1250" in text


def test_targets_are_better_the_lower(written):
    scores = {"mae": 2.0, "rmse": 2.5, "r2": 0.25}
    better = {"mae": 1.5, "rmse": 2.0, "r2": 0.5}
    values = {"task": "regression", "metric": "rmse", "before": scores, "after": better}
    _, text, _ = written(**values)
    assert "Training helped : on 16 validation images rmse went from 0.500 to 0.750, and on" in text
    assert "No interval of rmse" in text
    assert "Lower is better; this chose the epoch" in text
    _, text, _ = written(**values | {"before": better, "after": scores})
    assert "helped on validation images only" in text


def test_what_has_no_value_is_a_dash_and_a_gap(written):
    nan = math.nan
    _, text, figures = written(
        after={"accuracy": 0.75, "log-loss": nan},
        stages=[stage(validation_loss=[1.5, math.inf, 1.125, nan])],
    )
    assert "1.500 - -" in text
    assert "3 0.5000 - 0.625" in text
    assert by_name(figures["loss-1"])["validation"][1] == [1.5, None, 1.125, None]
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_the_second_run_and_the_command_may_be_untold(tmp_path):
    values = about()
    del values["refit"], values["command"]
    page = report.write_training_page(tmp_path / "f.html", values).read_text(encoding="utf-8")
    assert 'id="again"' not in page
    assert "<code>" not in page
    assert "trained a second time" in page  # the plan says so


def test_texts_from_outside_stay_texts(written):
    page, text, _ = written()
    assert "alert(1)</script>" not in page
    assert "<b>flowers" not in page
    assert sum(tag == "script" for tag, _ in Elements(page).found) == 3
    # the path, the backbone and head; a layer, the boundary, the command and a version
    assert page.count("&lt;script&gt;alert(1)") == 7
    assert "2 layers of the backbone trained with the head, behind relu_1 &lt;script" in text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_in_a_browser(tmp_path):
    from playwright.sync_api import sync_playwright

    values = about(stages=[stage(), stage()], refit=about()["refit"] * 2)
    path = report.write_training_page(tmp_path / "f.html", values)
    complaints = []

    def ask(request):
        if not request.url.startswith((path.as_uri(), "data:", "blob:")):
            complaints.append(request.url)

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(color_scheme="light", viewport={"width": 375, "height": 800})
        page.set_default_timeout(60_000)  # a machine may be busy
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", ask)
        page.goto(path.as_uri())
        page.wait_for_selector("[data-chart='seconds'] .main-svg")
        assert page.locator("[data-chart] .scatterlayer .trace").count() == 2 * (4 + 3 + 2)
        assert page.locator("[data-chart='seconds'] .bars .point").count() == 3 + 3 + 2 + 2
        assert page.evaluate("document.documentElement.scrollWidth") == 375
        legend = page.locator("[data-chart='seconds'] .legendtext").all_text_contents()
        assert legend[2:] == ["Second run, stage 1", "Second run, stage 2"]

        ink = "document.querySelector('[data-chart=loss-1] .xtick text').style.fill"
        light = page.evaluate(ink)
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"before => {ink} !== before", arg=light)
        layers = page.locator("#stage-1 .names")
        assert not layers.is_visible()
        page.locator("#stage-1 summary", has_text="2 layers of the backbone").click()
        assert layers.locator("li").all_inner_texts() == ["conv_2", f"bn_2 {HOSTILE}"]
        browser.close()
    assert complaints == []
