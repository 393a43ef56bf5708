"""docs/demo.png shows the newest figures of the demo; `python -m bench.demo` draws it anew."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from whole_runs import ROOT

from bench.demo.__main__ import digest


@pytest.mark.parametrize("name", ["demo.png", "demo-dark.png"])
def test_the_picture_shows_the_newest_figures(name: str) -> None:
    newest = max(
        (ROOT / "bench" / "results").glob("demo-*.json"), key=lambda path: json.loads(path.read_text())["date"]
    )
    rows = json.loads(newest.read_text())["rows"]
    with Image.open(ROOT / "docs" / name) as image:
        assert image.info["Description"] == digest(rows), "stale: python -m bench.demo draws it anew"


def test_another_figure_is_another_digest() -> None:
    row = {"case": "mean", "provider": "SvS", "metric": "pass@1 after", "value": 0.5, "unit": "share"}
    assert digest([row]) != digest([{**row, "value": 0.501}])
    assert digest([row]) == digest([row, {**row, "unit": "s"}])
