"""A page in a real browser, and what went wrong in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("FASTSVS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install one, or name it in FASTSVS_CHROMIUM")
expect = playwright.expect


@dataclass
class Opened:
    """A page, and what went wrong in it."""

    page: Any
    troubles: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return " ".join(self.page.locator(selector).first.inner_text().split())

    def run(self, expression: str) -> Any:
        return self.page.evaluate(expression)


@contextmanager
def chromium() -> Iterator[Any]:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def open_page(browser: Any, address: Path | str, **options: Any) -> Opened:
    """Open an address in a context of its own, and wait until it is drawn."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    opened = Opened(context.new_page())
    opened.page.on("console", lambda message: opened.troubles.append(f"{message.type}: {message.text}"))
    opened.page.on("pageerror", lambda error: opened.troubles.append(str(error)))
    opened.page.on("request", lambda request: opened.requests.append(request.url))
    opened.page.goto(address.absolute().as_uri() if isinstance(address, Path) else address)
    opened.page.wait_for_selector("html[data-ready]")
    return opened


def figure(opened: Opened, name: str) -> Any:
    found = opened.page.locator(f"#figure-{name}")
    found.scroll_into_view_if_needed()
    found.locator("canvas").first.wait_for()
    return found


def plots(opened: Opened, name: str) -> list[tuple[str, int, int]]:
    """(metric, series, steps) of each plot of a figure."""
    figure(opened, name)
    return [
        (each["name"], int(each["series"]), int(each["points"]))
        for each in opened.run(f"[...document.querySelectorAll('#figure-{name} .plot')].map(e => ({{...e.dataset}}))")
    ]


def saved(opened: Opened, name: str, button: str, folder: Path) -> Path:
    """Press a button of a figure that gives a file, and return where the file lies now."""
    figure(opened, name)
    with opened.page.expect_download() as download:
        opened.page.locator(f"#figure-{name}").get_by_role("button", name=button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path
