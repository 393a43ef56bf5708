"""The picture of a run is drawn from its rows, also when a run has hardly begun or never played."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from fastsvs.stored_run import RunLayout
from fastsvs.telemetry import draw_curves
from fastsvs.telemetry.themes import LIGHT, legend_above

STEP = {"solve_rate/original": 0.4, "policy/entropy": 0.3, "kept_samples/original": 64}
PLAY = {"solve_rate/variant": 0.5, "kept_samples/synthesis": 16, "kept_samples/variant": 128}
EVALUATION = {"pass@1": {"mean": 0.4, "low": 0.35, "high": 0.45}, "pass@8": {"mean": 0.8, "low": 0.7, "high": 0.9}}


@pytest.mark.parametrize(
    ("rows", "evaluations"),
    [
        ([], {}),
        ([{"step": 1, **STEP}], {0: EVALUATION}),
        ([{"step": 1, **STEP}, {"step": 2, **STEP, **PLAY}, {"step": 3}], {0: EVALUATION, 3: EVALUATION}),
    ],
)
def test_draws_a_picture_for_light_and_dark_pages(tmp_path: Path, rows: list[dict], evaluations: dict) -> None:
    light, dark = draw_curves(tmp_path / "curves.png", "title", rows, evaluations)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves-dark.png", "curves.png"]
    assert [light, dark] == [RunLayout(tmp_path).curves, RunLayout(tmp_path).curves_dark]
    papers = []
    for path in (light, dark):
        pixels = imread(path)
        assert pixels.shape[0] > 400
        assert pixels.shape[1] > 800
        assert np.ptp(pixels) > 0.5
        papers.append(float(pixels[0, 0, :3].mean()))
    assert papers[0] > 0.9
    assert papers[1] < 0.2


def test_a_legend_covers_no_data() -> None:
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.set_title("title")
    for index in range(4):
        axes.plot([0, 1], [1, 1], label=f"line {index}")
    legend_above(axes, LIGHT)
    figure.canvas.draw()
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1
    assert axes.title.get_window_extent().y0 >= legend.get_window_extent().y1 - 1
