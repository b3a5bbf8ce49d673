"""The report in a real browser: it draws everything, asks the network for nothing, and fits a telephone and a desk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import CHROMIUM, Browser, browser
from support.small_bag import STILL, Busy, answered, written

from ecovla_ros.control import limits
from ecovla_ros.publish.report import from_bag, page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: sudo apt-get install chromium")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    bag = answered(written(folder, list(STILL.events())), folder / "answered", Busy())
    page.write(from_bag.read(bag), folder / "report.html", limits.load("normal"))
    return folder / "report.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as made:
        yield made


@pytest.mark.parametrize("width", [400, 1600])
def test_it_is_drawn_whole_without_a_request(report: Path, chromium: Browser, width: int) -> None:
    chromium.open(report, width)
    assert chromium.requests == [report.resolve().as_uri()] and chromium.errors == []
    charts = chromium.run("document.querySelectorAll('.plotly-graph-div').length")
    assert charts > 15 and chromium.run("document.querySelectorAll('.plotly-graph-div .main-svg').length") >= charts
    assert chromium.run(
        "[...document.querySelectorAll('.plotly-graph-div')].every(d => d.querySelector('path, .bars, .scatterlayer'))"
    )
    assert chromium.run("[...document.images].length") == 2 * from_bag.PICTURES
    assert chromium.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


@pytest.mark.parametrize("width", [400, 1600])
def test_it_is_readable_at_this_width(report: Path, chromium: Browser, width: int) -> None:
    """No sideways scrolling of the page, no chart wider than its place, no letter smaller than 10 px."""
    chromium.open(report, width)
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.run(
        "[...document.querySelectorAll('.plotly-graph-div')].every(d => d.getBoundingClientRect().right "
        "<= innerWidth + 1 && d.getBoundingClientRect().width > 200)"
    )
    small = chromium.run(
        "[...document.querySelectorAll('text, p, td, th, figcaption, li, span')].filter(e => e.textContent.trim() && "
        "!e.closest('.bartext, .bars') && parseFloat(getComputedStyle(e).fontSize) < 10).map(e => e.textContent)"
    )
    assert small == []


def test_the_browser_notices_a_page_that_asks_the_network(tmp_path: Path, chromium: Browser) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://example.invalid/x.png'><script>nothing.there()</script>")
    chromium.open(bad, 400)
    assert "http://example.invalid/x.png" in chromium.requests and chromium.errors
