"""The picture of a run is drawn from its rows, also when a run has hardly begun or never played."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from fastsvs.telemetry import draw_curves

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
def test_draws_a_picture(tmp_path: Path, rows: list[dict], evaluations: dict) -> None:
    draw_curves(tmp_path / "curves.png", "title", rows, evaluations)
    pixels = imread(tmp_path / "curves.png")
    assert pixels.shape[0] > 400
    assert pixels.shape[1] > 800
    assert np.ptp(pixels) > 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
