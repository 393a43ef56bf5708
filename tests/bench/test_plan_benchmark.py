"""The committed pairs of planned and measured figures: a change of the plan may not move it away from them."""

from __future__ import annotations

import pytest

from bench.plan.__main__ import CPU_METRIC, PLANNED, STEP_METRIC
from bench.plan.cases import CASES
from bench.plan.page import RESULTS, pairs
from bench.plan.planned import GPU_CASES, on_gpu, planned
from bench.plan.published import points
from bench.plan.steps import STEP_CASES, planned_step
from bench.report import read
from fastsvs.plan import CHECK_SECONDS

LIMITS = {
    CPU_METRIC: 0.15,
    STEP_METRIC: 0.15,
    "processor time": 0.3,
    "update": 0.1,
    "peak memory": 0.03,
    "peak memory, reserved": 0.08,
}
"""Share by which a plan may differ from what was measured, by metric. What others have published has no limit."""


def planned_now() -> dict[tuple[str, str], float]:
    """What is planned of each case, by case and metric."""
    on_gpus = {(name, metric): v for name in GPU_CASES for (metric, _), v in on_gpu(name).items()}
    return {
        **{(name, CPU_METRIC): planned(case) for name, case in CASES.items()},
        **{(name, STEP_METRIC): planned_step(case) for name, case in STEP_CASES.items()},
        ("check of an answer", "processor time"): CHECK_SECONDS,
        **on_gpus,
        **{(point.case, point.metric): point.plan() for point in points()},
    }


@pytest.fixture(scope="module")
def now() -> dict[tuple[str, str], float]:
    return planned_now()


PAIRS = [(case, metric, value, before) for case, _, metric, _, value, before, _ in pairs(read(RESULTS))]


@pytest.mark.parametrize(("case", "metric", "value", "before"), PAIRS, ids=[f"{pair[0]}: {pair[1]}" for pair in PAIRS])
def test_plans_are_no_further_from_measurements_than_when_they_were_published(
    now: dict[tuple[str, str], float], case: str, metric: str, value: float, before: float
) -> None:
    error = abs(now[case, metric] / value - 1)
    assert error <= LIMITS.get(metric, float("inf"))
    assert error <= abs(before / value - 1) + 0.001


def test_every_case_is_published(now: dict[tuple[str, str], float]) -> None:
    rows = read(RESULTS)
    assert {(row.case, row.metric) for row in rows if row.provider == PLANNED} == now.keys()
    published = {(row.case, row.provider, row.metric, row.value) for row in rows}
    assert {(point.case, point.provider, point.metric, point.value) for point in points()} <= published
