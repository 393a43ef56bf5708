"""Dialogues that teach the tiny model to judge and mend solutions too: `tiny:skills`.

The same computations, stories, split and slips as in `tiny:sft`, in five skills: solving and writing as there;
verification, the right steps and a box with 1 where a response's answer is right, 0 where it is wrong, each as often;
feedback, the right steps up to the first one that slipped, which it names; refinement, the right solution from a
response and its feedback. So small a model cannot judge what it has not worked out in writing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from fastsvs.data.records import Dialogue
from fastsvs.data.tiny import (
    SYNTHESIS_TEMPLATE,
    Computation,
    Split,
    dialogue,
    draw_computation,
    write_problem,
    write_solution,
)
from fastsvs.data.tiny_stories import PEOPLE, STORIES, Story
from fastsvs.seeding import derive_seed

VERIFICATION_TEMPLATE = "{question}\n{response}\nIs it right?"
FEEDBACK_TEMPLATE = "{question}\n{response}\nHow is it?"
REFINEMENT_TEMPLATE = "{question}\n{response}\n{feedback}\nWrite it right."
"""What configs/tiny_verification.txt, tiny_feedback.txt and tiny_refinement.txt hold."""
ALL_RIGHT = "All steps are right."
WRONG_STEPS = ("The first step is wrong.", "The second step is wrong.", "The third step is wrong.")

Skill = Callable[[Random, Computation, Story], Dialogue]


def skill_dialogues(split: Split = "train") -> Iterator[Dialogue]:
    """Dialogues without end, the same at every call."""
    random = Random(derive_seed("tiny", "skills", split))
    skills, weights = zip(*SHARES.items(), strict=True)
    while True:
        skill = random.choices(skills, weights)[0]
        yield skill(random, draw_computation(random, split), random.choice(STORIES))


def solving(random: Random, computation: Computation, story: Story) -> Dialogue:
    return dialogue(_question(random, computation, story), write_solution(computation, story, random))


def writing(random: Random, computation: Computation, story: Story) -> Dialogue:
    other = random.choice([another for another in STORIES if another is not story])
    asked = SYNTHESIS_TEMPLATE.format(response=write_solution(computation, story))
    return dialogue(asked, f"```text\n{_question(random, computation, other)}\n```")


def verification(random: Random, computation: Computation, story: Story) -> Dialogue:
    right = random.random() < 0.5
    asked = VERIFICATION_TEMPLATE.format(
        question=_question(random, computation, story), response=_response(random, computation, story, right)
    )
    return dialogue(asked, "\n".join([*_equations(computation), f"\\boxed{{{int(right)}}}"]))


def feedback(random: Random, computation: Computation, story: Story) -> Dialogue:
    response = _response(random, computation, story, random.random() < 0.5)
    asked = FEEDBACK_TEMPLATE.format(question=_question(random, computation, story), response=response)
    return dialogue(asked, judge_steps(computation, response))


def refinement(random: Random, computation: Computation, story: Story) -> Dialogue:
    response = _response(random, computation, story, random.random() < 0.5)
    asked = REFINEMENT_TEMPLATE.format(
        question=_question(random, computation, story),
        response=response,
        feedback=judge_steps(computation, response),
    )
    return dialogue(asked, write_solution(computation, story))


SHARES: dict[Skill, float] = {solving: 0.2, writing: 0.1, verification: 0.35, feedback: 0.2, refinement: 0.15}
"""How often each skill comes."""


def judge_steps(computation: Computation, response: str) -> str:
    """The feedback that a solution of this task deserves: it ends where the first line is not the computation's."""
    right = _equations(computation)
    for place, (equation, line) in enumerate(zip(right, response.split("\n"), strict=False)):
        if line.split(" ")[0] != equation:
            return "\n".join([*right[: place + 1], WRONG_STEPS[place]])
    return "\n".join([*right, ALL_RIGHT])


def _equations(computation: Computation) -> list[str]:
    values = [computation.start, *computation.values()]
    steps = zip(values, computation.steps, values[1:], strict=False)
    return [f"{before}{operation}{operand}={after}" for before, (operation, operand), after in steps]


def _response(random: Random, computation: Computation, story: Story, right: bool) -> str:
    """A solution whose answer is right, or one whose slips make it wrong."""
    if right:
        return write_solution(computation, story)
    while True:
        response = write_solution(computation, story, random)
        if not response.endswith(f"\\boxed{{{computation.answer}}}"):
            return response


def _question(random: Random, computation: Computation, story: Story) -> str:
    return write_problem(computation, story, random.choice(list(PEOPLE)))
