"""The simulation of rollout servers against a plain one that walks step by step."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from whole_runs import ROOT

from bench.report import read
from bench.rollout import deterministic, simulated_cluster
from bench.rollout.__main__ import (
    ASSUMED_COSTS,
    MEASURED_COSTS,
    on_real_server,
    on_simulated_cluster,
    on_simulated_server,
)
from bench.rollout.real import Played
from bench.rollout.simulated_cluster import CASES
from fastsvs.plan import SCHEDULES, Curve, Lengths, Outcome, SimulatedEngine, Workload, simulate
from fastsvs.rollout import Request, SamplingParams, drain

FLAT = Curve((1, 64), (0.5, 0.5))
SLOPE = Curve((1, 64), (0.5, 32.0))
SMALL = Workload(prompts=10, samples=4, lengths=Lengths(20, 10, 200, 0.5), underperforming=0.5)


def requests(lengths: list[int]) -> list[Request]:
    return [Request(str(i), (1,), 1, SamplingParams(max_tokens=n), 0) for i, n in enumerate(lengths)]


def ends(lengths: list[int], curve: Curve, max_sequences: int) -> dict[str, float]:
    """When each request ends on one server."""
    engine = SimulatedEngine(Workload(1, 1, Lengths(1, 10, 200, 0.0)), curve, 1, max_sequences)
    engine.submit(requests(lengths))
    return {key: engine.now for key, _ in drain(engine)}


def walk(lengths: list[int], curve: Curve, max_sequences: int) -> dict[str, float]:
    """The same, one decode step at a time."""
    waiting, running, now, ended = list(enumerate(lengths)), {}, 0.0, {}
    while waiting or running:
        while waiting and len(running) < max_sequences:
            key, length = waiting.pop(0)
            running[str(key)] = length
        now += curve.step(len(running))
        running = {key: left - 1 for key, left in running.items()}
        ended |= {key: now for key, left in running.items() if not left}
        running = {key: left for key, left in running.items() if left}
    return ended


@pytest.mark.parametrize("curve", [FLAT, SLOPE])
@pytest.mark.parametrize("max_sequences", [1, 3, 64])
def test_events_happen_when_step_by_step_decoding_says(curve: Curve, max_sequences: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 30).tolist()
    expected = walk(lengths, curve, max_sequences)
    assert ends(lengths, curve, max_sequences) == pytest.approx(expected)


def test_what_comes_later_slows_down_what_runs() -> None:
    engine = SimulatedEngine(Workload(1, 1, Lengths(1, 10, 200, 0.0)), Curve((1, 2), (1.0, 2.0)), 1, 8)
    first, second, third = requests([10, 4, 6])
    engine.submit([first, second])
    assert [key for key, _ in engine.poll(0)] == ["1"]
    assert engine.now == 4 * 2
    engine.submit([third])
    assert dict(drain(engine)).keys() == {"0", "2"}
    assert engine.now == 4 * 2 + 6 * 2


def test_both_schedules_do_the_same_work_and_no_server_does_more_than_it_can() -> None:
    steps = SMALL.steps(3)
    streaming, phased = (simulate(steps, SLOPE, 2, 8, schedule) for schedule in ("streaming", "phased"))
    assert streaming.tokens == phased.tokens > 10_000
    assert streaming.seconds < phased.seconds
    assert streaming.rate <= 2 * SLOPE.rate(8)


def test_lengths_have_the_tail_that_they_are_said_to_have() -> None:
    lengths = Lengths(median=1000, p99_over_median=10, limit=10**9, within_group=0.5)
    tasks = Workload(2000, 1, lengths).tasks()
    drawn = [lengths.of(task, sample, 0) for task in tasks for sample in range(4)]
    assert np.percentile(drawn, 50) == pytest.approx(1000, rel=0.1)
    assert np.percentile(drawn, 99) == pytest.approx(10_000, rel=0.25)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_larger_batches_are_slower_a_step_and_faster_a_token(case) -> None:
    points = case.curve.sequences
    assert all(
        case.curve.step(a) < case.curve.step(b) and case.curve.rate(a) < case.curve.rate(b) for a, b in pairwise(points)
    )


RESULTS = ROOT / "bench" / "results"


def test_no_published_row_is_both_measured_and_simulated() -> None:
    [simulated], [measured] = RESULTS.glob("rollout-simulated-*.json"), RESULTS.glob("rollout-amd-*.json")
    assert {row.provider for row in read(simulated)} == {ASSUMED_COSTS, MEASURED_COSTS}
    assert {row.provider for row in read(measured)} == {"vLLM"}
    assert all(row.case.startswith("simulated") for row in read(simulated) if row.provider == ASSUMED_COSTS)


def test_published_rows_of_the_simulated_cluster_are_what_the_simulation_gives(monkeypatch) -> None:
    monkeypatch.setattr(simulated_cluster, "CASES", CASES[:1])
    [published] = RESULTS.glob("rollout-simulated-*.json")
    rows = list(on_simulated_cluster())
    assert tuple(rows) == read(published)[: len(rows)]


def test_a_server_that_does_what_its_simulation_says_has_the_same_figures() -> None:
    curve = Curve((1, 32), (1.0, 1.0))
    simulated = {row.metric: row.value for row in on_simulated_server(curve)}
    played = {}
    for schedule in SCHEDULES:
        steps, tokens = (simulated[f"{schedule}: {what}"] for what in ("decode steps", "response tokens"))
        played[schedule] = [Played(Outcome(steps, tokens), steps)]  # a decode step takes a second
    measured = {row.metric: row.value for row in on_real_server(curve, played)}
    assert {metric: measured[metric] for metric in simulated} == pytest.approx(simulated)


def test_the_cost_of_determinism_comes_with_its_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name, value in {"PROMPTS": 2, "SAMPLES": 4, "RESPONSE_TOKENS": 24}.items():
        monkeypatch.setattr(deterministic, name, value)
    rows = {(row.provider, row.metric): row.value for row in deterministic.measure(1)}
    differences = {provider: value for (provider, metric), value in rows.items() if metric.startswith("largest")}
    assert differences["deterministic"] == 0 < differences["usual"] < 1e-4
    assert all(
        value > 0 for (_, metric), value in rows.items() if "per processor second" in metric or "share" in metric
    )
