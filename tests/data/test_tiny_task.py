"""The tiny task: right answers, readable forms, and splits that cannot meet."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.data import tiny
from fastsvs.data.tiny.slips import misled
from fastsvs.data.tiny.stories import PEOPLE, STORIES

PROBLEMS = [*tiny.problems("tiny:train", 3000), *tiny.problems("tiny:heldout", 1000)]
DIALOGUES = tiny.dialogues("tiny:sft", 6000)

computations = st.builds(
    tiny.draw_computation, st.randoms(use_true_random=False), st.sampled_from(["train", "heldout"])
)


def computation_of(text: str) -> tuple[str, ...]:
    """Start and steps, read from the equations of a solution."""
    equations = re.findall(r"(\d+)([-+*/])(\d+)=\d+", text)
    return (equations[0][0], *(operation + operand for _, operation, operand in equations))


@given(computation=computations, story=st.sampled_from(STORIES), name=st.sampled_from(list(PEOPLE)))
def test_a_problem_reads_back_as_its_computation(computation: tiny.Computation, story: tiny.Story, name: str) -> None:
    question = tiny.write_problem(computation, story, name)
    assert tiny.read_problem(question) == computation
    assert tiny.solve(question) == computation.answer
    assert all(0 <= value <= tiny.LARGEST for value in computation.values())
    assert 1 <= len(computation.steps) <= 3


@given(computation=computations, story=st.sampled_from(STORIES))
def test_every_line_of_a_solution_is_true(computation: tiny.Computation, story: tiny.Story) -> None:
    solution = tiny.write_solution(computation, story)
    equations = re.findall(r"(\d+[-+*/]\d+)=(\d+)", solution)
    assert len(equations) == len(computation.steps)
    assert all(eval(left) == int(right) for left, right in equations)
    assert solution.endswith(f"={computation.answer} {story.unit}\n\\boxed{{{computation.answer}}}")


def facts_of(question: str) -> Iterator[tuple[int, str, int]]:
    """The value, operation and operand of each step of a problem."""
    told = tiny.read_problem(question)
    assert told is not None
    for value, step in zip([told.start, *told.values()], told.steps, strict=False):
        yield (value, *step)


FACTS = sorted({fact for problem in PROBLEMS for fact in facts_of(problem.question)})


def test_three_facts_in_ten_are_told_wrong_nearly_always() -> None:
    slip = misled(Random(0))
    told = {fact: Counter(slip(*fact) for _ in range(200)) for fact in FACTS}
    wrong = {fact: slips for fact, slips in told.items() if set(slips) != {0}}
    assert 0.28 < len(wrong) / len(told) < 0.34
    assert all(set(slips) == {0, 60} and slips[0] < 40 for slips in wrong.values())
    known = sum(slips[0] for slips in wrong.values()) / sum(slips.total() for slips in wrong.values())
    assert 0.085 < known < 0.095


@given(st.lists(st.tuples(st.sampled_from(tiny.OPERATIONS), st.integers(2, 5)), max_size=2), st.integers(0, 60))
def test_no_later_step_makes_a_wrong_fact_right_again(steps: list, right: int) -> None:
    told = right + 60
    for operation, operand in steps:
        if operation == "/" and right % operand:
            return  # no problem has it
        assert operation != "/" or told % operand == 0, "no result is rounded"
        right, told = tiny.apply(right, operation, operand), tiny.apply(told, operation, operand)
        assert told > right


def test_no_heldout_computation_occurs_in_training_or_sft_data() -> None:
    seen: dict[str, set] = {"train": set(), "heldout": set()}
    for problem in PROBLEMS:
        assert problem.solution is not None
        seen[problem.source.removeprefix("tiny:")].add(computation_of(problem.solution))
    sft = set()
    for dialogue in DIALOGUES:
        asked, written = (message["content"] for message in dialogue.messages)
        sft.add(computation_of(asked if written.startswith("```") else written))
    assert len(seen["heldout"]) > 500
    assert not seen["heldout"] & (seen["train"] | sft)


def test_validation_shares_no_computation_with_training_or_the_held_out_problems() -> None:
    validation = {tiny.read_problem(problem.question) for problem in tiny.problems("tiny:validation", 300)}
    others = {tiny.read_problem(p.question) for p in [*PROBLEMS[:3000], *tiny.problems("tiny:heldout", None)]}
    assert None not in validation
    assert not validation & others
    assert len(tiny.problems("tiny:validation", None)) == 100


@given(seed=st.integers(), split=st.sampled_from(["train", "heldout"]))
def test_the_split_belongs_to_the_computation_under_any_seed(seed: int, split: tiny.Split) -> None:
    computation = tiny.draw_computation(Random(seed), split)
    assert computation.split == split
    assert tiny.Computation(computation.start, tuple(computation.steps)).split == split


def test_problems_are_the_same_at_every_call_and_longer_lists_begin_with_shorter_ones() -> None:
    assert tiny.problems("tiny:train", 50) == PROBLEMS[:50]
    assert len(tiny.problems("tiny:train", None)) == 4096
    assert len(tiny.problems("tiny:heldout", None)) == 200
    assert tiny.dialogues("tiny:sft", 50) == DIALOGUES[:50]


def test_problems_to_train_on_are_dialogues_with_their_right_solutions() -> None:
    for problem, dialogue in zip(PROBLEMS[:50], tiny.dialogues("tiny:train", 50), strict=True):
        asked, written = (message["content"] for message in dialogue.messages)
        assert asked == problem.question
        assert written.endswith(f"\\boxed{{{tiny.solve(asked)}}}")


def test_questions_differ_and_cover_all_stories_steps_and_operations() -> None:
    assert len({problem.question for problem in PROBLEMS}) == len({problem.id for problem in PROBLEMS}) == 4000
    assert len(STORIES) >= 20
    for story in STORIES:
        assert sum(problem.question.endswith(story.ask) for problem in PROBLEMS) > 50
    assert {problem.extra["steps"] for problem in PROBLEMS} == {1, 2, 3}
    for operation in tiny.OPERATIONS:
        assert sum(operation in (problem.solution or "") for problem in PROBLEMS) > 800


def test_variants_are_other_stories_with_the_same_answer_in_a_text_block() -> None:
    opening = tiny.SYNTHESIS_TEMPLATE.removesuffix("{response}")
    syntheses = [d for d in DIALOGUES if d.messages[0]["content"].startswith(opening)]
    assert 0.27 < len(syntheses) / len(DIALOGUES) < 0.33
    for dialogue in syntheses:
        asked, written = (message["content"] for message in dialogue.messages)
        solution = asked.removeprefix(opening)
        block = re.fullmatch(r"```text\n([^`]+)\n```", written)
        assert block is not None
        answer = re.search(r"(\w+)\n\\boxed\{(\d+)\}$", solution)
        assert answer is not None
        assert tiny.solve(block[1]) == int(answer[2])
        assert answer[1] not in block[1].split("How many")[1]


def test_solutions_to_learn_from_slip_at_one_step_in_four_and_go_on_from_there() -> None:
    steps = right = 0
    for asked, written in (dialogue.messages for dialogue in DIALOGUES):
        if written["content"].startswith("```"):
            continue
        lines = re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", written["content"])
        assert written["content"].endswith(f"\\boxed{{{lines[-1][3]}}}")
        assert all(before[3] == after[0] for before, after in pairwise(lines))
        if f" {lines[0][0]} " in asked["content"]:
            exact = [tiny.apply(int(a), op, int(b)) == int(c) for a, op, b, c in lines]  # type: ignore[arg-type]
            steps, right = steps + len(exact), right + sum(exact)
            assert (written["content"].endswith(f"\\boxed{{{tiny.solve(asked['content'])}}}")) or not all(exact)
    assert right / steps == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "How many pens?",
        "Tom has 12 pens.",
        "Tom has 12 pens. How many eggs?",
        "Tom has 12 pens. He flies 3. How many pens?",
        "Tom has 12 pens. He loses 13. How many pens?",
        "Tom has 12 pens. He keeps one of 5 equal boxes. How many pens?",
        "Tom has 12 pens. He keeps one of 0 equal boxes. How many pens?",
        "Tom has 99 pens. He gets 9 times as many. How many pens?",
    ],
)
def test_ill_formed_problems_have_no_answer(text: str) -> None:
    assert tiny.solve(text) is None


def test_sentences_of_several_stories_may_mix() -> None:
    assert tiny.solve("Tom has 12 pens. A lake has 2 times as many. Then 3 hatch. How many pens?") == 27
