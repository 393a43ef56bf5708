"""AZR: every case of the proposer's and the solver's reward, and the intrinsic terms against hand-made programs."""

from fractions import Fraction
from math import log2

import pytest
from azr_world import DOUBLE, TRIPLE, make_azr, solved_by
from hypothesis import given
from hypothesis import strategies as st
from selfplay_world import answered

from fastsvs.config import AzrConfig, IntrinsicConfig
from fastsvs.selfplay import Group
from fastsvs.selfplay.azr.exercises import Buffer, Exercise
from fastsvs.selfplay.azr.judge import NO_ANSWER
from fastsvs.selfplay.azr.measures import (
    complexity,
    cyclomatic,
    edit_distance,
    halstead_volume,
    intrinsic_reward,
    nodes,
    rarity,
    types,
)
from fastsvs.selfplay.azr.rewards import LEARNABILITY, proposal_reward, solving_rewards
from fastsvs.verify import Verdict


def answers(right: int, of: int = 4) -> Group:
    [task, *_] = make_azr(solve_from_buffer=1, samples_from_buffer=of, tasks=("deduction",)).begin(0, [])[-1:]
    return solved_by(task, right)


def reward(solves: Group | None, bonus: float = 0.0, **azr) -> float:
    return proposal_reward(solves, lambda: bonus, AzrConfig(**azr))


def test_the_proposer_earns_what_the_paper_says() -> None:
    assert reward(None) == -1.0
    assert [reward(answers(right)) for right in range(5)] == [-0.5, 0.75, 0.5, 0.25, -0.5]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("symmetric", [0, 0.5, 1, 0.5, 0]),
        ("lilo", [0, 3 / 16, 1 / 4, 3 / 16, 0]),
        ("band", [0, 1, 1, 0, 0]),
        ("solvable", [0, 1, 1, 1, 1]),
    ],
)
def test_other_rules_of_the_proposers_reward(rule: str, expected: list[float]) -> None:
    assert [reward(answers(right), proposer_reward=rule) for right in range(5)] == expected
    assert reward(None, proposer_reward=rule) == -1.0


def test_both_ends_of_the_band_count() -> None:
    rule = {"proposer_reward": "band", "band": (0.25, 0.75)}
    assert [reward(answers(right), **rule) for right in range(5)] == [0, 1, 1, 1, 0]


@given(st.integers(1, 64), st.data())
def test_every_rule_but_the_last_dislikes_both_extremes(samples: int, data: st.DataObject) -> None:
    rate = Fraction(data.draw(st.integers(0, samples)), samples)
    config = AzrConfig()
    for name in ("one_minus", "symmetric", "lilo", "band"):
        worth = LEARNABILITY[name](rate, config)
        assert (worth > 0) == (0 < rate < 1 and (name != "band" or 0.125 <= rate <= 0.625))
        assert worth <= 1


def test_an_intrinsic_bonus_needs_a_problem_that_teaches() -> None:
    assert reward(answers(1), bonus=0.2) == pytest.approx(0.95)
    assert reward(answers(0), bonus=0.2) == -0.5
    assert reward(answers(4), bonus=0.2) == -0.5
    assert reward(None, bonus=0.2) == -1.0


def test_answers_nobody_could_check_leave_the_solve_rate_alone() -> None:
    task = answers(0).task
    group = answered(task, list("abcd"), [Verdict.CORRECT, Verdict.UNVERIFIED, Verdict.WRONG, Verdict.UNVERIFIED])
    assert reward(group) == 0.5
    assert solving_rewards(group) == (1.0, -0.5, -0.5, -0.5)
    assert reward(answered(task, ["a"], [Verdict.UNVERIFIED])) == -0.5


def test_the_solver_earns_for_form_and_for_being_right() -> None:
    task = answers(0).task
    assert solving_rewards(solved_by(task, 1, notes={3: NO_ANSWER})) == (1.0, -0.5, -0.5, -1.0)
    assert solving_rewards(solved_by(task, 2)) == (1.0, 1.0, -0.5, -0.5)


BRANCHY = """
def f(x, y):
    if x > 0 and y > 0 or x == y:
        return [i for i in range(x) if i % 2]
    for j in range(3):
        while y:
            y -= 1 if y > 0 else -1
    return x
"""


def test_complexity_counts_nodes_or_branches() -> None:
    assert nodes("def f(x): return x") == 4  # the function, its argument, the return, the name
    assert nodes("def f(x): return 2 * x") == 7
    assert cyclomatic("def f(x): return x") == 1
    assert cyclomatic(BRANCHY) == 1 + 1 + 2 + 2 + 1 + 1 + 1  # if, and/or, comprehension with if, for, while, ifexp
    assert complexity(BRANCHY, IntrinsicConfig(complexity_measure="cyclomatic")) == 9
    assert complexity(DOUBLE.program, IntrinsicConfig()) == 7


def test_edit_distance_is_to_the_nearest_reference() -> None:
    assert edit_distance(DOUBLE.program, [DOUBLE.program, BRANCHY]) == 0
    assert edit_distance(DOUBLE.program, [TRIPLE.program]) == 1 / 7  # a constant
    assert edit_distance(DOUBLE.program, [TRIPLE.program, BRANCHY]) == 1 / 7
    assert edit_distance(DOUBLE.program, []) == 1
    assert edit_distance("def f(x): return x", [DOUBLE.program]) == 3 / 7
    assert edit_distance("def f(x): return  (x)", ["def f(x):\n    return x"]) == 0


programs = st.lists(st.sampled_from(["x += 1", "x = [x]", "x = -x", "if x: x = 2"]), max_size=5).map(
    lambda lines: "def f(x):\n    " + "\n    ".join([*lines, "return x"])
)


@given(programs, programs)
def test_edit_distance_is_symmetric_and_between_0_and_1(one: str, other: str) -> None:
    distance = edit_distance(one, [other])
    assert distance == edit_distance(other, [one])
    assert 0 <= distance <= 1
    assert edit_distance(one, [one]) == 0


def test_halstead_volume() -> None:
    # def f, return, * and the operands x (argument and name are one), 2: length 7 with BinOp, 6 different ones
    assert nodes(DOUBLE.program) == 7
    assert halstead_volume(DOUBLE.program) == pytest.approx(7 * log2(6))


def test_types_of_inputs_and_outputs() -> None:
    assert types("1, 'a', [2], -3.5") == ("int", "str", "List", "float")
    assert types("(1, 2)") == ("Tuple",)
    assert rarity(("int",), [("int",), ("str",), ("int",), ("int",)]) == 0.25
    assert rarity(("int",), []) == 1


def test_terms_are_capped_and_summed_and_off_by_default() -> None:
    buffer = Buffer(10, [DOUBLE, TRIPLE, Exercise("def f(x): return x", ("'a'",), ("'a'",))])
    references = [TRIPLE.program]
    assert intrinsic_reward(DOUBLE, references, buffer, AzrConfig()) == 0
    terms = {
        "complexity": {"coefficient": 0.01, "max": 0.5},  # 0.07
        "edit_distance": {"coefficient": 1, "max": 0.1},  # 1/7, capped
        "halstead": {"coefficient": 0.001, "max": 1},
        "input_types": {"coefficient": 0.3, "max": 1},  # 1/3 of it
        "output_types": {"coefficient": 0.6, "max": 0.05},
    }
    expected = 0.07 + 0.1 + 0.001 * 7 * log2(6) + 0.1 + 0.05
    assert intrinsic_reward(DOUBLE, references, buffer, AzrConfig(intrinsic=terms)) == pytest.approx(expected)


def test_measures_survive_strange_programs() -> None:
    deep = "def f(x): return " + "-" * 3000 + "1"
    for program in (
        deep,
        f"def f(x): return 0x{'f' * 5000}",
        "def f(x): return (",
        "async def f(x):\n  async for y in x: pass",
    ):
        assert nodes(program) >= 0
        assert 0 <= edit_distance(program, [program]) <= 1
        assert halstead_volume(program) >= 0
