"""The line of a training step."""

from __future__ import annotations

from fastsvs.telemetry import training_facts

ROW = {"samples/original": 64, "kept_samples/original": 32, "time/step": 1.0}


def test_a_step_with_a_budget_says_what_it_stopped_and_took() -> None:
    budgeted = ROW | {"budget/stopped": 12, "budget/contexts": 3}
    assert "stopped 12 variants, took 3 further contexts" in training_facts(budgeted)
    assert "stopped" not in training_facts(ROW)


def test_a_step_that_refills_says_what_came_of_it() -> None:
    refilled = ROW | {"refill/asked": 9, "refill/informative": 4, "refill/given_up": 1}
    assert "refilled 4 with 9, gave up 1" in training_facts(refilled)
    assert "refilled" not in training_facts(ROW)


def test_only_kinds_that_exist_are_shown() -> None:
    assert training_facts(ROW).endswith("learned 32 original")
    assert "own" not in training_facts(ROW)
    family = ROW | {"samples/variant": 8, "kept_samples/variant": 0, "solve_rate/variant": 1.0}
    assert "own 100%  learned 32 original, 0 variant" in training_facts(family)
    assert "learned nothing" in training_facts(family | {"kept_samples/original": 0})
