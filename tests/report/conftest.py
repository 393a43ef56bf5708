"""Pages in a real browser, for the tests of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from in_chromium import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open an address and wait until it is drawn; at the end nothing may have been complained of."""
    from in_chromium import open_page

    visits: list[Any] = []

    def go(address: Path | str, **options: Any) -> Any:
        visits.append(open_page(browser, address, **options))
        return visits[-1]

    yield go
    for opened in visits:
        opened.page.context.close()
    assert [trouble for opened in visits for trouble in opened.troubles] == []
