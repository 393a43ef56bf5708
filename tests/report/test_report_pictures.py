"""The pictures of the report in docs/ show what it looks like now; `make pictures` draws them anew."""

from __future__ import annotations

import runpy

import pytest
from PIL import Image
from whole_runs import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "pictures.py"))


@pytest.mark.parametrize("ending", SCRIPT["THEMES"].values())
@pytest.mark.parametrize("name", SCRIPT["PICTURES"])
def test_a_picture_is_of_the_report_as_it_is(name: str, ending: str) -> None:
    with Image.open(ROOT / "docs" / f"{name}{ending}") as image:
        assert image.info["Description"] == SCRIPT["digest"](), "stale: make pictures"


def test_every_picture_of_the_report_is_drawn_by_the_command() -> None:
    drawn = {f"{name}{ending}" for name in SCRIPT["PICTURES"] for ending in SCRIPT["THEMES"].values()}
    assert {path.name for path in (ROOT / "docs").glob("report*.png")} == drawn
