"""How the text of every section looks in a real browser: none faint, none over another, none out of reach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hand_made import write_evaluation, write_lines, write_run, write_tokens
from in_chromium import Opened, expect, needs_chromium

from fastsvs.files import write_json
from fastsvs.report import write_report

pytestmark = needs_chromium

LOOKS = (Path(__file__).parent / "looks.js").read_text()
GOOD: dict[str, list[str]] = {"faint": [], "over": [], "wide": []}
NAME = "a_name_of_an_evaluation_that_is_long_step00012000"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "svs")
    write_tokens(folder)
    return write_report([folder], None, 1000)


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two evaluations with many figures, long names and paths, and no room for the responses of one problem."""
    root = tmp_path_factory.mktemp("evaluations")
    folders = [write_evaluation(root / name, heldout=["c" * 64, "w" * 64]) for name in ("base", NAME)]
    share = {"mean": 0.505, "low": 0.405, "high": 0.605}
    for folder in folders:
        figures = {f"{kind}@{2**power}": share for kind in ("pass", "maj") for power in range(7)}
        write_json(folder / "heldout.json", figures | {"problems": 2})
        write_json(folder / "model.json", {"path": f"/mnt/storage/{NAME}/{NAME}/checkpoints/step_00012000", "step": 0})
    return write_report(folders, root / "report.html", 64)


def looks(opened: Opened) -> dict[str, Any]:
    """Draw all figures of the page, and return what is wrong with its text."""
    for figure in opened.page.locator(".figure:visible").all():
        figure.scroll_into_view_if_needed()
    opened.run("window.scrollTo({ top: 0, behavior: 'instant' })")
    found: dict[str, Any] = opened.run(LOOKS)
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_text_of_a_run(visit: Callable[..., Opened], run: Path, width: int, theme: str) -> None:
    opened = visit(run, viewport={"width": width, "height": 900}, color_scheme=theme)
    assert looks(opened) == GOOD
    opened.page.locator("#list .row", has_text="synthesis").first.click()
    expect(opened.page.locator(".family")).to_be_visible()
    found = opened.run(LOOKS)
    assert (found if width > 736 else found | {"over": []}) == GOOD  # on a phone it lies over the page


@pytest.mark.parametrize("width", [1440, 820, 390])
def test_text_of_evaluations(visit: Callable[..., Opened], evaluations: Path, width: int) -> None:
    opened = visit(evaluations, viewport={"width": width, "height": 900})
    assert looks(opened) == GOOD
    opened.page.locator("#answer-list .row").last.click()
    expect(opened.page.locator("#answer .answered").first).to_be_visible()
    assert "no room for the responses" in opened.text("#answer")
    found = opened.run(LOOKS)
    assert (found if width > 736 else found | {"over": []}) == GOOD  # on a phone it lies over the page
    opened.run(f"location.hash = '#answer=heldout%2F{NAME}{NAME}'")
    expect(opened.page.locator("#answer .missing")).to_be_visible()
    assert opened.run(LOOKS)["wide"] == []


def test_many_figures_of_evaluations_have_a_table_for_each_kind(
    visit: Callable[..., Opened], evaluations: Path
) -> None:
    opened = visit(evaluations)
    captions = [" ".join(each.split()) for each in opened.page.locator("#evaluated caption").all_inner_texts()]
    assert captions == [f"{kind}@k of the evaluations, with 95% intervals over problems." for kind in ("pass", "maj")]
    assert opened.page.locator("#evaluated tbody tr").count() == 4


def test_what_is_zero_takes_no_room(visit: Callable[..., Opened], tmp_path: Path) -> None:
    """A figure of nothing but zeros is a line of words, and has nothing to enlarge or to save."""
    run = write_run(tmp_path / "run")
    names = [f"{name}/{kind}" for name in ("truncated", "unverified") for kind in ("original", "variant")]
    write_lines(run / "metrics.jsonl", [{"step": step, **dict.fromkeys(names, 0)} for step in range(1, 5)])
    opened = visit(write_report([run], None, 10))
    shown = opened.page.locator("#figure-troubles")
    shown.scroll_into_view_if_needed()
    assert opened.text("#figure-troubles .note") == (
        "Zero throughout: truncated: original, truncated: variant, unverified: original and unverified: variant."
    )
    assert not shown.locator(".tools").is_visible()
    note, whole = (each.bounding_box() for each in (shown.locator(".note"), shown))
    assert note["y"] - whole["y"] < 150


def test_the_head_says_no_more_than_its_table(visit: Callable[..., Opened], tmp_path: Path) -> None:
    """Runs that were not evaluated have no intervals; one that has ended will not be evaluated."""
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", selfplay__stage="none")]
    for evaluation in (tmp_path / "b" / "evaluations").iterdir():
        evaluation.unlink()
    opened = visit(write_report(folders, tmp_path / "both.html", 10))
    assert opened.text("h1") == "Held-out pass@1: SvS from 30.0% to 45.0% and RLVR not evaluated"
    assert opened.text("#headline caption") == "Before training → after, with 95% intervals over problems."
    assert visit(write_report(folders[1:], tmp_path / "one.html", 10)).page.locator("#headline caption").count() == 0
