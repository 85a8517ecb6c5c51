"""The page of a comparison in a browser; skipped where there is no `chromium` on the PATH."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_boards import BOLD, CURVE, HOSTILE, make_manifest, make_photo_board

from featcache import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the PATH: the page is not tried in a browser"
)


@pytest.fixture(scope="module")
def written(tiny_backbone, tmp_path_factory) -> Path:
    """The page about images whose classes have hostile names."""
    from featcache import extraction

    folder = tmp_path_factory.mktemp("browser")
    options = {"weights": str(tiny_backbone), "cache_dir": folder / "cache", "batch_size": 4}
    manifest = make_manifest(folder / "images")
    features = extraction.run(manifest, **options, show_progress=False).features
    given = {"calibrated": True, "learning_curve": CURVE}
    return report.write_report(make_photo_board(folder / "heads", features, **given))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, written) -> Iterator[Any]:
    """Opens the page; afterwards nothing went wrong in it and nothing was asked of the network."""
    complaints, contexts = [], []

    def open_page(**options: Any) -> Any:
        settings = {"viewport": {"width": 1280, "height": 900}, "accept_downloads": True}
        context = browser.new_context(**(settings | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)  # a machine may be busy
        page.on(
            "console",
            lambda message: (
                complaints.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((written.as_uri(), "data:", "blob:"))
                else complaints.append(request.url)
            ),
        )
        page.goto(written.as_uri())
        page.wait_for_selector("#points .scatterlayer .point")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def heads(page: Any) -> list[str]:
    return page.locator("#heads tbody tr:not([hidden]) th").all_inner_texts()


def test_the_map_by_mouse_by_keyboard_and_its_filters(opened):
    page = opened()
    # a picture is shown for a point
    point = page.locator("#points .scatterlayer .point").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    page.wait_for_selector("#card img")
    alt = page.locator("#card img").get_attribute("alt")
    assert alt == page.locator("#card .name").inner_text()
    assert alt.endswith(".png")
    assert page.locator("#card img").evaluate("image => image.complete && image.naturalWidth > 20")
    page.mouse.move(0, 0)
    page.locator("#points").focus()
    seen = set()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
        seen.add(page.locator("#card .name").inner_text())
    assert len(seen) > 2
    page.locator("#only").select_option(label="plain")
    assert page.locator("#shown").inner_text() == "12 images"
    assert page.locator("#points .scatterlayer .point").count() == 12
    button = page.get_by_role("button", name="right or wrong")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"
    page.locator("#only").select_option(label="all")
    assert page.locator("#points .legendtext").all_text_contents() == ["right", "wrong"]
    button.focus()
    page.keyboard.press("Shift+Tab")
    assert page.locator(":focus").inner_text() == "by class"


def test_tables_sort_by_keyboard_and_filter(opened):
    page = opened()
    assert heads(page) == ["logreg", "linear-svm", "dummy"]
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the results"
    page.locator("#filter").focus()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.locator(":focus").inner_text() == "fit":
            break
    header = page.locator("#heads th", has_text="fit")
    outline = page.locator(":focus").evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert heads(page) == ["dummy", "linear-svm", "logreg"]
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    page.locator("#heads button", has_text="head").first.click()
    assert heads(page) == ["dummy", "linear-svm", "logreg"]
    assert header.get_attribute("aria-sort") == "none"
    # what is unknown comes last, whichever way
    page.locator("#heads button", has_text=re.compile("^p$")).click()
    page.locator("#heads button", has_text=re.compile("^p$")).click()
    assert heads(page) == ["dummy", "linear-svm", "logreg"]
    page.locator("#filter").fill("SVM")
    assert heads(page) == ["linear-svm"]
    assert page.locator("#filtered").inner_text() == "1 of 3 heads"


def test_hostile_names_stay_text_and_a_cell_shows_its_images(opened):
    page = opened()
    assert page.locator("#only option").all_inner_texts()[1:] == sorted([HOSTILE, BOLD, "plain"])
    labels = page.locator("#confusion .ytick text").all_text_contents()
    assert HOSTILE[:20] in "".join(labels)
    assert any(text.startswith("<b>bold</b> & ") for text in labels)
    assert HOSTILE in page.locator("#points .legendtext").all_text_contents()
    assert BOLD in page.locator("#points .legendtext").all_text_contents()
    page.locator("#confusion").scroll_into_view_if_needed()
    page.locator("#confusion").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#cell").inner_text().startswith("<")
    assert "taken for" in page.locator("#cell").inner_text()
    box = page.locator("#confusion .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 6, box["y"] + box["height"] / 6, steps=3)
    page.wait_for_selector("#confusion .hoverlayer .hovertext")
    hover = page.locator("#confusion .hoverlayer .hovertext").text_content()
    assert hover.startswith("<b>bold</b> & ")
    assert page.evaluate("document.querySelectorAll('script').length") == 4
    # a cell of the confusion matrix shows its images
    box = page.locator("#confusion .nsewdrag").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 6, box["y"] + box["height"] / 6)
    page.wait_for_selector("#cell-pictures img")
    n = page.locator("#cell-pictures img").count()
    assert f"taken for what it is: {n} of " in page.locator("#cell").inner_text()


def test_dark_mode_and_paper(opened):
    page = opened(color_scheme="light")

    def shades() -> tuple[str, str]:
        return page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " document.querySelector('#confusion .ytick text').style.fill]"
        )

    light = shades()
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "before => document.querySelector('#confusion .ytick text').style.fill !== before",
        arg=light[1],
    )
    dark = shades()
    assert (light[0], dark[0]) == ("rgb(255, 255, 255)", "rgb(20, 24, 30)")
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_function(
        "before => document.querySelector('#confusion .ytick text').style.fill !== before",
        arg=dark[1],
    )
    assert shades()[0] == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()


def test_nothing_is_wider_than_a_small_screen_pictures_have_text_and_suspects_are_saved(
    opened, tmp_path
):
    page = opened(viewport={"width": 375, "height": 800})
    for width in (375, 768):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_function("width => document.documentElement.scrollWidth === width", arg=width)
        wider = page.evaluate("""() => [...document.querySelectorAll('main *')]
            .filter((e) => !e.closest('.scroll, svg, .hidden, [hidden]'))
            .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
            .map((e) => e.outerHTML.slice(0, 80))""")
        assert wider == []
    assert page.locator("img").count() > 5
    assert page.locator("img:not([alt]), img[alt=''], img:not([src])").count() == 0
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the list as CSV").click()
    path = tmp_path / "list.csv"
    download.value.save_as(path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == page.locator("#suspects .name").all_inner_texts()
    assert (rows[0]["given"], rows[0]["suggested"]) == (BOLD, HOSTILE)
