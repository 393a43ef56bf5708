"""`python docs/pictures.py`: draw the report's pictures in docs/, light and dark, from the six runs of the demo.

`python -m bench.demo` leaves these runs in runs/, and draws docs/demo.png itself. This needs playwright and Chromium.
Each picture holds the digest of what draws it, so that a test can say when it is stale.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fastsvs.report import write_report

DOCS = Path(__file__).parent
REPORT = DOCS.parent / "fastsvs" / "report"
METHODS, SEEDS = ("svs", "rlvr"), (0, 1, 2)
SIZE = {"width": 1280, "height": 860}
THEMES = {"light": ".png", "dark": "-dark.png"}
"""Ends of the pictures' names."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the demo's runs (%(default)s)")
    options = parser.parse_args()
    runs = [options.runs / f"tiny_{method}_seed{seed}" for method in METHODS for seed in SEEDS]
    if missing := [str(run) for run in runs if not (run / "summary.json").is_file()]:
        raise SystemExit(f"make {', '.join(missing)} first: python -m bench.demo --out bench/results --figure demo.png")
    with TemporaryDirectory() as folder:
        pages = {
            "all": write_report(runs, Path(folder) / "all.html", 10_000),
            "one": write_report(runs[:1], Path(folder) / "one.html", 10_000),
        }
        with chromium() as browser:
            for theme, ending in THEMES.items():
                for name, (page, act) in PICTURES.items():
                    write(DOCS / f"{name}{ending}", taken(browser, pages[page], theme, act))


def head(page: Any) -> None:
    """Leave the page at its head."""


def problems(page: Any) -> None:
    """Open a problem that the policy wrote and was rewarded for, in its family."""
    page.get_by_role("button", name="variant", exact=True).click()
    page.locator("#reward").select_option("positive")
    page.locator("#list .row").nth(1).click()
    page.locator(".family").wait_for()
    page.evaluate("document.querySelector('#family').scrollTop = 0")
    to(page, "#problems")


def tokens(page: Any) -> None:
    """Open a problem whose tokens were kept, with a correct and a wrong response coloured by log-prob, and point at a
    token."""
    page.locator("#logged").check()
    page.locator("#outcome").select_option("mixed")
    page.locator("#list .row", has_text="original").first.click()
    page.locator(".family").wait_for()
    for verdict in ("correct", "wrong"):
        page.locator(f"#family .strip .{verdict}").first.click()
    page.locator("#family .token-choice select").first.select_option("logprob")
    to(page, "#problems")
    page.locator("#family .question").first.evaluate("question => question.scrollIntoView({ block: 'start' })")
    page.locator("#family .tokens i").nth(5).hover()


def answers(page: Any) -> None:
    """Open a held-out problem that came to be solved, with one of its responses."""
    page.get_by_role("button", name="newly solved").click()
    page.locator("#answer-list .row").first.click()
    page.locator("#answer .answered").first.wait_for()
    page.locator("#answer .strip .correct").first.click()
    to(page, "#answers-browser form")


def figures(page: Any) -> None:
    """Go to the figures, along the hours that each run took."""
    page.locator("#axis").select_option("hours")
    to(page, "#figures")


PICTURES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "report": ("all", head),
    "report_problems": ("one", problems),
    "report_tokens": ("one", tokens),
    "report_answers": ("one", answers),
    "report_figures": ("all", figures),
}
"""Page of each picture, and what is done before it is taken."""


def to(page: Any, place: str) -> None:
    """Go to a part of the page, which grows while its figures are drawn."""
    for _ in range(3):
        page.evaluate(f"document.querySelector('{place}').scrollIntoView({{ behavior: 'instant' }})")
        page.wait_for_timeout(400)


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = os.environ.get("FASTSVS_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


def taken(browser: Any, report: Path, theme: str, act: Callable[[Any], None]) -> bytes:
    """Return the window's contents as PNG."""
    page = browser.new_page(viewport=SIZE, color_scheme=theme)
    page.goto(report.absolute().as_uri())
    page.wait_for_selector("html[data-ready]", timeout=120_000)
    act(page)
    png: bytes = page.screenshot()
    page.close()
    return png


def write(path: Path, png: bytes) -> None:
    """Write a picture in the 256 colours that cover its own best, with the digest of what drew it as description."""
    about = PngInfo()
    about.add_text("Description", digest())
    Image.open(io.BytesIO(png)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        path, optimize=True, pnginfo=about
    )


def digest() -> str:
    """Return the digest of the report's code and of this file."""
    files = [path for path in REPORT.rglob("*") if path.suffix in (".py", ".html", ".js", ".css")]
    found = hashlib.sha256()
    for path in sorted([*files, Path(__file__)]):
        found.update(f"{path.relative_to(DOCS.parent).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    main()
