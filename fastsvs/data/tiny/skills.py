"""Dialogues that teach the tiny model to judge and mend solutions too: `tiny:skills`.

The same computations, stories, split and slips as in `tiny:sft`, in five skills: solving and writing as there;
verification, a box with 1 where a response's answer is right and 0 where it is wrong, each as often; feedback, which
names the first step that slipped; refinement, the right solution from a response and its feedback. Before it judges,
the assistant works every step out and puts the response's result beside its own: so small a model cannot compare what
it has not written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from random import Random

from fastsvs.data.records import Dialogue
from fastsvs.data.tiny.computation import Computation, Split, draw_computation
from fastsvs.data.tiny.slips import careless
from fastsvs.data.tiny.stories import PEOPLE, STORIES, Story
from fastsvs.data.tiny.wording import dialogue, write_problem, write_solution
from fastsvs.seeding import derive_seed

SYNTHESIS_TEMPLATE = "Write a new problem with this solution:\n{response}"
VERIFICATION_TEMPLATE = "{question}\n{response}\nIs it right?"
FEEDBACK_TEMPLATE = "{question}\n{response}\nHow is it?"
REFINEMENT_TEMPLATE = "{question}\n{response}\n{feedback}\nWrite it right."
"""Contents of configs/tiny_refinement.txt; tiny_verification.txt and tiny_feedback.txt hold the two templates above."""
ALL_RIGHT = "All steps are right."
WRONG_STEPS = ("The first step is wrong.", "The second step is wrong.", "The third step is wrong.")

Skill = Callable[[Random, Computation, Story], Dialogue]


def skill_dialogues(split: Split = "train") -> Iterator[Dialogue]:
    """Yield dialogues without end, the same at every call."""
    random = Random(derive_seed("tiny", "skills", split))
    skills, weights = zip(*SHARES.items(), strict=True)
    while True:
        skill = random.choices(skills, weights)[0]
        yield skill(random, draw_computation(random, split), random.choice(STORIES))


def solving(random: Random, computation: Computation, story: Story) -> Dialogue:
    return dialogue(_question(random, computation, story), write_solution(computation, story, careless(random)))


def writing(random: Random, computation: Computation, story: Story) -> Dialogue:
    other = random.choice([another for another in STORIES if another is not story])
    asked = SYNTHESIS_TEMPLATE.format(response=write_solution(computation, story))
    return dialogue(asked, f"```text\n{_question(random, computation, other)}\n```")


def verification(random: Random, computation: Computation, story: Story) -> Dialogue:
    right = random.random() < 0.5
    response = _response(random, computation, story, right)
    asked = VERIFICATION_TEMPLATE.format(question=_question(random, computation, story), response=response)
    return dialogue(asked, "\n".join([*_checks(computation, response), f"\\boxed{{{int(right)}}}"]))


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
"""Share of each skill among the dialogues."""


def judge_steps(computation: Computation, response: str) -> str:
    """Write the feedback that a solution of this task deserves; it ends at the first result that is not the
    computation's."""
    results = _results(response)
    for place, value in enumerate(computation.values()):
        if results[place] != value:
            return "\n".join([*_checks(computation, response)[: place + 1], WRONG_STEPS[place]])
    return "\n".join([*_checks(computation, response), ALL_RIGHT])


def _checks(computation: Computation, response: str) -> list[str]:
    """Return a line per step: the step as it should be, and the result that the response gave."""
    values = [computation.start, *computation.values()]
    steps = zip(values, computation.steps, values[1:], _results(response), strict=False)
    return [f"{before}{operation}{operand}={after} and {said}" for before, (operation, operand), after, said in steps]


def _results(response: str) -> list[int]:
    return [int(result) for result in re.findall(r"=(\d+)", response)]


def _response(random: Random, computation: Computation, story: Story, right: bool) -> str:
    """Write a solution whose answer is right, or one whose slips make it wrong."""
    if right:
        return write_solution(computation, story)
    while True:
        response = write_solution(computation, story, careless(random))
        if not response.endswith(f"\\boxed{{{computation.answer}}}"):
            return response


def _question(random: Random, computation: Computation, story: Story) -> str:
    return write_problem(computation, story, random.choice(list(PEOPLE)))
