"""The skills of the tiny task: labels, feedback and corrections are what the arithmetic says."""

import re
from collections.abc import Iterable
from itertools import islice

import pytest

from fastsvs.data import tiny
from fastsvs.data.records import Dialogue
from fastsvs.data.tiny.skills import (
    ALL_RIGHT,
    FEEDBACK_TEMPLATE,
    REFINEMENT_TEMPLATE,
    VERIFICATION_TEMPLATE,
    WRONG_STEPS,
    skill_dialogues,
)

DIALOGUES = [
    tuple(message["content"] for message in dialogue.messages) for dialogue in tiny.dialogues("tiny:skills", 6000)
]
TEMPLATES = {"verification": VERIFICATION_TEMPLATE, "feedback": FEEDBACK_TEMPLATE, "refinement": REFINEMENT_TEMPLATE}


def of(skill: str) -> list[tuple[dict[str, str], str]]:
    """(what stood in the places of the template, what the assistant said)."""
    pattern = re.escape(TEMPLATES[skill]).replace(r"\{question\}", "(?P<question>[^\n]+)")
    pattern = pattern.replace(r"\{response\}", "(?P<response>(?s:.+?boxed{\\d+}))").replace(
        r"\{feedback\}", "(?P<feedback>(?s:.+))"
    )
    matches = [(re.fullmatch(pattern, asked), written) for asked, written in DIALOGUES]
    return [(match.groupdict(), written) for match, written in matches if match]


def first_wrong_line(question: str, response: str) -> int | None:
    """Place of the first equation that is false or does not continue the one before; from 0."""
    before = None
    for place, (left, operation, right, result) in enumerate(re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", response)):
        if eval(f"{left}{operation}{right}") != int(result):
            return place
        assert before in (None, left)
        before = result
    assert tiny.solve(question) == int(before or -1)
    return None


def check(lines: list[str], response: str) -> int:
    """That each line is a true equation with the response's result beside it; the last result."""
    results = re.findall(r"=(\d+)", response)
    for line, result in zip(lines, results, strict=False):
        equation, said = line.split(" and ")
        left, right = equation.split("=")
        assert eval(left) == int(right)
        assert said == result
    return int(right)


def test_verification_says_whether_the_answer_is_right_each_as_often() -> None:
    examples = of("verification")
    for places, said in examples:
        right = places["response"].endswith(f"\\boxed{{{tiny.solve(places['question'])}}}")
        *lines, box = said.split("\n")
        assert box == f"\\boxed{{{int(right)}}}"
        assert check(lines, places["response"]) == tiny.solve(places["question"])
    share = sum(said.endswith("\\boxed{1}") for _, said in examples) / len(examples)
    assert share == pytest.approx(0.5, abs=0.05)


def test_feedback_names_the_first_wrong_step() -> None:
    for places, said in of("feedback"):
        wrong = first_wrong_line(places["question"], places["response"])
        *lines, verdict = said.split("\n")
        assert verdict == (ALL_RIGHT if wrong is None else WRONG_STEPS[wrong])
        check(lines, places["response"])
        assert wrong is None or len(lines) == wrong + 1
    assert {said.split("\n")[-1] for _, said in of("feedback")} == {ALL_RIGHT, *WRONG_STEPS}


def test_a_refinement_is_right_whatever_stood_there() -> None:
    for places, said in of("refinement"):
        assert said.endswith(f"\\boxed{{{tiny.solve(places['question'])}}}")
        assert (said == places["response"]) == places["feedback"].endswith(ALL_RIGHT)


def test_the_skills_come_as_often_as_they_should_and_the_rest_solves_or_writes() -> None:
    counts = [len(of(skill)) / len(DIALOGUES) for skill in TEMPLATES]
    assert counts == pytest.approx([0.35, 0.2, 0.15], abs=0.03)
    writing = sum(written.startswith("```text") for _, written in DIALOGUES) / len(DIALOGUES)
    assert writing == pytest.approx(0.1, abs=0.02)


def test_the_splits_do_not_meet() -> None:
    def computations(dialogues: Iterable[Dialogue]) -> set[tuple[str, ...]]:
        texts = ["\n".join(message["content"] for message in dialogue.messages) for dialogue in dialogues]
        found = [re.findall(r"(\d+)([-+*/]\d+)=", text.split("\\boxed")[0]) for text in texts]
        return {(equations[0][0], *(step for _, step in equations)) for equations in found}

    held_out = computations(islice(skill_dialogues("heldout"), 1000))
    assert len(held_out) > 300
    assert not held_out & computations(islice(skill_dialogues(), 6000))


@pytest.mark.parametrize("skill", TEMPLATES)
def test_the_template_files_hold_what_the_model_learned(skill: str, pytestconfig: pytest.Config) -> None:
    assert (pytestconfig.rootpath / "configs" / f"tiny_{skill}.txt").read_text() == TEMPLATES[skill]
