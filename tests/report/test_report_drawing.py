"""Drawings of figures in a real browser: marks of their axes, pixels of their lines, texts of their pictures."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from hand_made import write_lines, write_run
from in_chromium import Opened, figure, needs_chromium, saved

from fastsvs.report import write_report

pytestmark = needs_chromium

WRITTEN = """() => {
    const { prototype } = CanvasRenderingContext2D, { fillText } = prototype, found = {};
    prototype.fillText = function (text, ...rest) {
        if (this.textAlign === 'right') (found[this.canvas.closest('.plot').dataset.name] ??= []).push(text);
        fillText.call(this, text, ...rest);
    };
    document.querySelector('#theme').click();
    return new Promise(resolve => setTimeout(() => { prototype.fillText = fillText; resolve(found); }, 400));
}"""


def marks(opened: Opened, section: str) -> dict[str, list[str]]:
    """Return what stands along the y axes of a section's plots, by their names."""
    opened.page.locator(f"{section} canvas").first.scroll_into_view_if_needed()
    found: dict[str, list[str]] = opened.run(f"({WRITTEN})()")
    return found


def rows_of(opened: Opened, name: str, *color: int) -> list[int]:
    """Return the row of each pixel of a figure that has this colour, red, green and blue."""
    figure(opened, name)
    found: list[int] = opened.run(
        f"""(() => {{
            const canvas = document.querySelector('#figure-{name} canvas');
            const {{ width, data }} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            const same = at => {list(color)}.every((value, index) => data[at + index] === value);
            const rows = [];
            for (let at = 0; at < data.length; at += 4) if (same(at)) rows.push(Math.floor(at / 4 / width));
            return rows;
        }})()"""
    )
    return found


def test_what_does_not_change_is_a_level_line(visit: Callable[..., Opened], tmp_path: Path) -> None:
    """A running mean adds no rounding errors."""
    run = write_run(tmp_path / "run")
    rows = [{"step": step, "policy/grad_norm": 2e-4} for step in range(600)]
    write_lines(run / "metrics.jsonl", rows)
    opened = visit(write_report([run], None, 10), color_scheme="light")
    assert 0 < len(set(rows_of(opened, "gradient", 13, 115, 119))) <= 4  # --arm-0


def test_every_axis_has_marks_to_measure_by(visit: Callable[..., Opened], tmp_path: Path) -> None:
    """One mark alone is no scale, and seconds are marked where their words are short."""
    run = write_run(tmp_path / "run")
    tops = (1.1e-13, 0.151, 0.19, 0.26, 0.3, 0.39, 0.49, 0.7, 0.99, 1.3, 1.9, 2.2, 3.4, 4.9, 6.5, 7.8, 9.9, 1234.5)
    seconds = (0.012, 4.0, 75.0, 240.0, 310.0, 3000.0, 9000.0)
    rows = [
        {"step": step}
        | {f"own/{top}": top * (1 - step / 20) for top in tops}
        | {f"own/{most}_seconds": most * (1 - step / 20) for most in seconds}
        for step in range(10)
    ]
    write_lines(run / "metrics.jsonl", rows)
    opened = visit(write_report([run], None, 10), viewport={"width": 1280, "height": 4000})
    opened.page.locator("#rest summary").click()
    found = {name: texts for name, texts in marks(opened, "#rest").items() if name.startswith("own/")}
    assert len(found) == len(tops) + len(seconds)
    assert {name: texts for name, texts in found.items() if len(texts) < 2} == {}
    written = [text for name, texts in found.items() if name.endswith("_seconds") for text in texts]
    assert [
        text for text in written if not re.fullmatch(r"[\d.]+ (ms|s|min|h)|\d+ h [1-5]0 min|\d+ min [1-5]0 s", text)
    ] == []
    assert {"4 min", "2 h"} <= set(written)


def test_a_log_scale_is_marked_at_round_values(visit: Callable[..., Opened], tmp_path: Path) -> None:
    """Near a power of ten, between two of them, and over many."""
    run = write_run(tmp_path / "run")
    ends = ((0.0857, 0.19), (121.2, 4000.0), (2.1, 2.9), (1e-9, 1e4))
    rows = [{"step": step} | {f"own/{low}": low + (high - low) * step / 9 for low, high in ends} for step in range(10)]
    write_lines(run / "metrics.jsonl", rows)
    opened = visit(write_report([run], None, 10))
    opened.page.locator("#log").check()
    opened.page.locator("#rest summary").click()
    found = marks(opened, "#rest")
    assert [found[f"own/{low}"] for low, _ in ends] == [
        ["0.1", "0.2"],
        ["200", "500", "1,000", "2,000"],
        ["2", "3"],
        ["1e−9", "1e−6", "0.001", "1", "1,000"],
    ]


EXPORTED = """() => {
    const { prototype } = CanvasRenderingContext2D, { fillText } = prototype;
    window.exported = [];
    prototype.fillText = function (text, left, base) {
        if (!this.canvas.isConnected) exported.push([text, left, base, this.measureText(text).width]);
        fillText.call(this, text, left, base);
    };
}"""


def test_nothing_lies_over_another_in_a_saved_picture(visit: Callable[..., Opened], tmp_path: Path) -> None:
    """Titles that go over several lines on the page do so in its picture."""
    run = write_run(tmp_path / "run")
    names = ("throughput/response_tokens_per_second", "throughput/trained_tokens_per_second")
    write_lines(run / "metrics.jsonl", [{"step": step, **dict.fromkeys(names, 1.0 + step)} for step in range(600)])
    opened = visit(write_report([run], None, 10))
    figure(opened, "throughput")
    opened.run(f"({EXPORTED})()")
    saved(opened, "throughput", "PNG", tmp_path)
    texts = opened.run("exported")
    assert " ".join(text for text, *_ in texts).startswith("Throughput response tokens per second tokens/s by steps,")
    for index, (text, left, base, width) in enumerate(texts):
        assert all(
            abs(level - base) > 5 or start + wide <= left + 1 or left + width <= start + 1
            for _, start, level, wide in texts[:index]
        ), text


def test_parts_of_a_stack_have_areas_and_no_lines(visit: Callable[..., Opened], tmp_path: Path) -> None:
    """Lines of a pixel would cover the areas of a long run: its highest part would seem to be the largest."""
    run = write_run(tmp_path / "run")
    updates = [9.0 * (step % 9 == 0) for step in range(400)]
    rows = [
        {"step": step, "time/rollout": 0.01, "time/update": seconds, "time/step": seconds + 0.02}
        for step, seconds in enumerate(updates)
    ]
    write_lines(run / "metrics.jsonl", rows)
    opened = visit(write_report([run], None, 10), color_scheme="light")
    assert rows_of(opened, "time-split", 91, 127, 138) == []  # --part-6, of the rest
