"""The simulation of whole steps against what can be said of them without it."""

from __future__ import annotations

import pytest

from bench.overlap.plans import PHASED, PLANS, Plan
from bench.overlap.simulation import LEFT_OUT, simulate
from fastsvs.plan import simulation
from fastsvs.plan.simulation import Curve
from fastsvs.plan.workload import Lengths, Workload

CURVE = Curve((1, 64), (0.5, 8.0))
WORKLOADS = Workload(prompts=24, samples=4, lengths=Lengths(20, 10, 200, 0.5), underperforming=0.5).steps(4 + LEFT_OUT)
MEASURED = WORKLOADS[1:4]
UPDATE = 0.1


def played(plan: Plan, update: float = UPDATE) -> simulation.Outcome:
    return simulate(WORKLOADS, CURVE, servers=2, max_sequences=16, update=update, plan=plan)


@pytest.mark.parametrize("schedule", ["phased", "streaming"])
def test_one_after_the_other_a_step_takes_its_rollout_and_its_update(schedule) -> None:
    alone = simulation.simulate(MEASURED, CURVE, 2, 16, schedule)
    outcome = played(Plan(schedule, schedule=schedule))
    assert outcome.tokens == alone.tokens
    assert outcome.seconds == pytest.approx(alone.seconds + UPDATE * alone.tokens, rel=0.01)  # ties end in any order


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_every_plan_does_the_same_work_in_no_less_time_than_either_half_of_it(plan: Plan) -> None:
    outcome, phased = played(plan), played(PHASED)
    assert outcome.tokens == phased.tokens
    assert outcome.seconds <= phased.seconds * (1 + 1e-9)
    assert outcome.seconds >= UPDATE * outcome.tokens * (1 - 1e-9)


def test_beside_one_another_a_step_takes_as_long_as_its_slower_half() -> None:
    assert played(Plan("", staleness=1), update=2.0).seconds == pytest.approx(2.0 * played(PHASED).tokens, rel=0.01)
    full = 2 * CURVE.rate(16)
    in_turn, beside = (played(Plan("", staleness=staleness), update=1e-6).rate for staleness in (0, 2))
    assert in_turn < 0.98 * full
    assert beside == pytest.approx(full, rel=0.01)  # the next steps fill what a step's last answers leave


def test_more_waves_wait_less() -> None:
    seconds = [played(Plan("", waves=waves)).seconds for waves in (1, 3, 12)]
    assert seconds == sorted(seconds, reverse=True)
