"""Figures in a real browser: along which axis, how smooth, on a log scale, found, enlarged, and as files."""

from __future__ import annotations

import csv
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hand_made import metrics, write_lines, write_run
from in_chromium import Opened, expect, figure, needs_chromium, plots, saved

from fastsvs.report import write_report

pytestmark = needs_chromium

LENGTHS = {"response_tokens/original": 10, "response_tokens/synthesis": 5, "response_tokens/variant": 20}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one experiment, the second with twice the time, and a run of another that counts no tokens."""
    root = tmp_path_factory.mktemp("runs")
    folders = [write_run(root / "a"), write_run(root / "b", run__seed=4), write_run(root / "c", selfplay__stage="none")]
    for folder, times in zip(folders, (1, 2, 1), strict=True):
        rows = [metrics(step) for step in range(1, 5)]
        longer = {} if folder.name == "c" else LENGTHS
        write_lines(folder / "metrics.jsonl", [row | longer | {"time/step": 900.0 * times} for row in rows])
    return write_report(folders, root / "report.html", 1000)


def where(opened: Opened, name: str = "entropy") -> str:
    return figure(opened, name).locator(".where").first.inner_text()


@pytest.mark.parametrize(
    ("axis", "places"),
    [
        ("step", "step 4"),
        ("responses", "32 responses"),  # 4 + 2 + 2 a step
        ("tokens", "360 response tokens"),  # 4 * 10 + 2 * 5 + 2 * 20 a step
        ("hours", "2 h 0 min"),  # the slower seed ends last
    ],
)
def test_figures_lie_along_what_the_reader_chooses(
    visit: Callable[..., Opened], report: Path, axis: str, places: str
) -> None:
    opened = visit(report)
    opened.page.locator("#axis").select_option(axis)
    assert where(opened) == places
    names = {"step": "steps", "tokens": "response tokens"}
    assert opened.text("#figure-entropy .plot-title").endswith(f"nats by {names.get(axis, axis)}")


def test_seeds_of_other_speeds_have_their_mean_between_them(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    opened.page.locator("#axis").select_option("hours")
    figure(opened, "entropy")
    # Seeds end at 1 and at 2 hours, their mean at 1.5: quarters of each are the places.
    assert plots(opened, "entropy")[0][2] == len(
        {0.25 * n for n in range(1, 5)} | {0.5, 1, 1.5, 2} | {0.375, 0.75, 1.125}
    )
    assert where(opened, "held-out") == "2 h 0 min"


def test_axes_that_no_run_has_are_not_offered(visit: Callable[..., Opened], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_lines(run / "metrics.jsonl", [{"step": step, "policy/entropy": 1.0 / step} for step in range(1, 4)])
    opened = visit(write_report([run], None, 10))
    assert opened.page.locator("#axis option").all_inner_texts() == ["by steps"]


def test_smoothing_and_log_scale(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    opened.page.locator("#smooth").select_option("5")
    figure(opened, "gradient")
    assert opened.text("#figure-gradient .plot-title") == "grad norm norm by steps, mean of 5 steps"
    assert opened.text("#figure-gradient .reading b") == "2"  # what is read off is the last step's own value
    opened.page.locator("#log").check()
    figure(opened, "gradient")
    assert opened.text("#figure-gradient .plot-title") == "grad norm norm by steps, log scale, mean of 5 steps"
    # Of what lies on top of one another there is none, nor of what is zero somewhere.
    for name in ("responses", "time-split", "solved"):
        figure(opened, name)
        assert "log scale" not in opened.text(f"#figure-{name}")


def test_metrics_are_found_by_their_names(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    shown = "[...document.querySelectorAll('.figure')].filter(e => e.offsetParent).map(e => e.id)"
    everything = opened.run(shown)
    opened.page.locator("#figure-search").fill("grad norm")
    assert opened.run(shown) == ["figure-gradient"]
    opened.page.locator("#figure-search").fill("surprise")
    assert opened.run(shown) == ["figure-rest-policy"]  # under "All other metrics", which opens
    opened.page.locator("#figure-search").fill("no such metric")
    assert opened.run(shown) == []
    opened.page.locator("#figure-search").fill("")
    assert set(opened.run(shown)) >= set(everything)


def test_a_figure_can_be_enlarged_by_keyboard(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    canvas = figure(opened, "entropy").locator(".canvas").first
    small = canvas.bounding_box()
    button = opened.page.locator("#figure-entropy .tools button").first
    button.focus()
    opened.page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    large = canvas.bounding_box()
    assert (large["height"] > 2 * small["height"], large["width"] > 2 * small["width"]) == (True, True)
    drawn = opened.run("document.querySelector('#figure-entropy canvas').getBoundingClientRect().height")
    assert drawn == pytest.approx(large["height"], abs=2)
    opened.page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "false")
    canvas.wait_for()  # it is drawn anew
    assert canvas.bounding_box() == pytest.approx(small)


def test_a_figure_is_saved_as_numbers(visit: Callable[..., Opened], report: Path, tmp_path: Path) -> None:
    opened = visit(report)
    opened.page.locator("#smooth").select_option("5")
    path = saved(opened, "entropy", "CSV", tmp_path)
    rows = list(csv.DictReader(path.open()))
    assert path.name == "entropy.csv"
    assert list(rows[0]) == ["metric", "step", "line", "value"]
    values = {(row["metric"], row["line"], row["step"]): float(row["value"]) for row in rows}
    assert {line for _, line, _ in values} == {"a", "b", "SvS", "RLVR"}
    assert [values["policy/entropy", "SvS", str(step)] for step in range(1, 5)] == [0.875, 0.75, 0.625, 0.5]
    assert [values["policy/entropy", "a", str(step)] for step in range(1, 5)] == [0.875, 0.75, 0.625, 0.5]


def test_names_in_saved_numbers_are_no_formulas(visit: Callable[..., Opened], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_lines(run / "metrics.jsonl", [{"step": 1, '=cmd|"x",1': 1.5}, {"step": 2, '=cmd|"x",1': 2.5}])
    opened = visit(write_report([run], None, 10))
    opened.page.locator("#rest summary").click()
    path = saved(opened, "rest-other", "CSV", tmp_path)
    assert [row["metric"] for row in csv.DictReader(path.open())] == ['\'=cmd|"x",1'] * 2


def test_a_figure_is_saved_as_a_picture(visit: Callable[..., Opened], report: Path, tmp_path: Path) -> None:
    opened = visit(report, device_scale_factor=2)
    path = saved(opened, "variants", "PNG", tmp_path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    box: Any = opened.page.locator("#figure-variants .plots").bounding_box()
    assert (width, height) == pytest.approx((2 * (box["width"] + 32), 2 * (box["height"] + 68)), abs=2)
    assert len(content) > 10_000


def test_lines_of_one_plot_have_marks_of_their_own(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    readings = figure(opened, "variants").locator(".plot").first.locator(".reading").all()
    assert [" ".join(each.inner_text().split()) for each in readings] == [
        "asked 4",
        "extracted 3",
        "valid 2",
        "positive 1",
    ]
    marks = [each.locator("svg").get_attribute("data-dash") if each.locator("svg").count() else "" for each in readings]
    tints = [each.locator("svg, i").evaluate("e => getComputedStyle(e).color") for each in readings]
    assert (len(set(marks)), len(set(tints))) == (4, 4)


def test_every_figure_says_its_unit(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    opened.page.locator("#rest summary").click()
    opened.run("window.dispatchEvent(new Event('beforeprint'))")
    titles = opened.run("[...document.querySelectorAll('.plot-title')].map(e => [e.title, e.lastChild.textContent])")
    assert len(titles) > 25
    assert [title for title, said in titles if said.startswith(" value by")] == ["policy/surprise"]


def test_what_it_wrote_stands_before_the_figures(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    order = [opened.page.locator(name).bounding_box()["y"] for name in ("#result", "#problems", "#learning", "#time")]
    assert order == sorted(order)


def test_a_phone_has_the_whole_way_through_the_page(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report, viewport={"width": 390, "height": 844}, has_touch=True)
    choice = opened.page.locator("#sections")
    names = ["Result", "Problems", "Learning", "Dynamics", "Time", "Plan", "Configuration"]
    assert choice.locator("option").all_inner_texts() == names
    assert not opened.page.locator("nav").is_visible()
    for name, section in (("Time", "#time"), ("Configuration", "#settings"), ("Problems", "#problems")):
        choice.select_option(label=name)
        expect(opened.page.locator(section)).to_be_in_viewport()
        expect(choice.locator("option:checked")).to_have_text(name)
    assert opened.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
