"""docs/plan.md says what the plan says now; `python -m bench.plan.page` writes it anew."""

from __future__ import annotations

import pytest
from PIL import Image

from bench.plan.figure import PARTS, digest
from bench.plan.page import MARKED, PAGE, PICTURES, document, panels
from bench.plan.shipped import shipped
from fastsvs.plan import GIB, total


def test_the_page_is_as_the_plan_says() -> None:
    page = PAGE.read_text()
    assert len(MARKED.findall(page)) == 5
    assert document(page) == page


@pytest.mark.parametrize("ending", [".png", "-dark.png"])
@pytest.mark.parametrize("picture", PICTURES)
def test_pictures_show_what_the_plan_says(picture: str, ending: str) -> None:
    with Image.open(PAGE.parent / PICTURES[picture].replace(".png", ending)) as image:
        assert image.info["Description"] == digest(panels(picture)), "stale: python -m bench.plan.page"


def test_bars_are_as_long_as_their_lines() -> None:
    plan = shipped("qwen2.5_32b_svs_colocated").plan()
    found = {bar.label: sum(length for _, _, length in bar.pieces) for bar in panels("memory")[3].bars}
    moments = {moment: total(lines) / GIB for moment, lines in plan.memory.moments.items()}
    assert found["stage 0, update"] == pytest.approx(moments["update"])
    assert found["stage 0, rollout"] == pytest.approx(moments["rollout"])
    assert {part for panel in panels("memory") for bar in panel.bars for part, _, _ in bar.pieces} == set(PARTS)
    spans = [bar for panel in panels("time") for bar in panel.bars]
    assert max(start + length for _, start, length in spans[-1].pieces) == pytest.approx(plan.time.step)
