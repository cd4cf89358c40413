"""The page in a real browser: nothing loaded, nothing cut off, readable by everyone."""

import shutil
from functools import cache
from itertools import pairwise

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from src.report.page import render
from tests.report import fake_tree

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    params = fake_tree.params()
    fake_tree.write_tree(root, params)
    path = root / "index.html"
    path.write_text(render(params, root), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser on PATH: install one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visit(browser, file):
    """Open the page; each kind of visit once for all tests, none of which changes it."""

    @cache
    def visit(scheme="light", width=1280):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        page = context.new_page()
        page.complaints, page.requests = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("dialog", lambda dialog: page.complaints.append(dialog.message))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(file.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        return page

    return visit


def test_asks_nothing_of_a_network_and_complains_of_nothing(visit, file):
    page = visit()
    asked = [url for url in page.requests if not url.startswith("data:")]
    assert asked == [file.as_uri()]
    assert page.complaints == []


def test_every_picture_shows(visit):
    widths = visit().evaluate("[...document.images].map(i => i.naturalWidth)")
    galleries, words, examples = 3 * 8 * 3, 2 * 2 * fake_tree.WORDS, 12 + 8 + 10
    assert len(widths) == galleries + words + examples + 2 * len(fake_tree.DOUBTS)
    assert min(widths) > 0


def test_the_style_is_applied(visit):
    body = "getComputedStyle(document.body).backgroundColor"
    assert visit("light").evaluate(body) == "rgb(253, 252, 250)"
    assert visit("dark").evaluate(body) == "rgb(21, 23, 26)"


@pytest.mark.parametrize("width", [320, 360, 768, 1024, 1280])
def test_no_page_is_wider_than_its_screen(visit, width):
    page = visit(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_phone_shows_the_gain_without_scrolling(visit):
    page = visit(width=360)
    right = "Math.max(...[...document.querySelectorAll('.metrics .num')].map("
    assert page.evaluate(right + "e => e.getBoundingClientRect().right))") <= 360


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_axe_finds_nothing(visit, scheme, width):
    found = Axe().run(visit(scheme, width)).response["violations"]
    assert [(v["id"], v["impact"], v["nodes"][0]["html"][:200]) for v in found] == []


def test_headings_are_in_order(visit):
    script = "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => +h.tagName[1])"
    levels = visit().evaluate(script)
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_every_link_of_the_contents_leads_somewhere(visit):
    script = "[...document.querySelectorAll('a')].map(a => !!document.querySelector(a.hash))"
    assert all(visit().evaluate(script))


def test_every_table_has_a_caption_and_scoped_headers(visit):
    page = visit()
    assert page.evaluate("[...document.querySelectorAll('table')].every(t => t.caption)")
    assert page.evaluate("[...document.querySelectorAll('th')].every(t => t.scope)")
