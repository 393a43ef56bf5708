"""The sentences of the tiny task: a computation as a word problem and as a solution, and back again."""

from __future__ import annotations

import re
from functools import cache

from fastsvs.data.records import Dialogue
from fastsvs.data.tiny.computation import LARGEST, OPERATIONS, Computation, Operation, Step, apply
from fastsvs.data.tiny.slips import Slip, exact
from fastsvs.data.tiny.stories import PEOPLE, STORIES, Story


def write_problem(computation: Computation, story: Story, name: str) -> str:
    """Write the computation as a word problem."""
    sentences = [story.start.format(n=computation.start, name=name)]
    for operation, operand in computation.steps:
        sentences.append(_sentence(story, operation).format(n=operand, they=PEOPLE[name]))
    return " ".join([*sentences, story.ask])


def write_solution(computation: Computation, story: Story, slip: Slip = exact) -> str:
    """Write one line per step, the unit at the last, then the boxed answer: enough to rebuild a problem from. Where a
    step slips, the next one starts from its result."""
    lines, value = [], computation.start
    for operation, operand in computation.steps:
        result = max(0, apply(value, operation, operand) + slip(value, operation, operand))
        lines.append(f"{value}{operation}{operand}={result}")
        value = result
    return "\n".join(lines) + f" {story.unit}\n\\boxed{{{value}}}"


def read_problem(question: str) -> Computation | None:
    """Return the computation that a problem in this task's sentences tells, even mixed from several stories.

    Returns None for any other text, and where a division is not exact or a value leaves 0..LARGEST.
    """
    opening, *sentences = re.split(r"(?<=\.) ", question)
    *told, ask = sentences or [""]
    value = start = _read_start(opening, ask)
    steps = []
    for sentence in told:
        step = _read_step(sentence)
        if value is None or step is None or (step[0] == "/" and (step[1] == 0 or value % step[1])):
            return None
        value = apply(value, *step)
        if not 0 <= value <= LARGEST:
            return None
        steps.append(step)
    return None if start is None else Computation(start, tuple(steps))


def solve(question: str) -> int | None:
    """Return the answer to a problem that `read_problem` can read, None to others."""
    computation = read_problem(question)
    return None if computation is None else [computation.start, *computation.values()][-1]


def dialogue(asked: str, written: str) -> Dialogue:
    return Dialogue(({"role": "user", "content": asked}, {"role": "assistant", "content": written}))


def _read_start(opening: str, ask: str) -> int | None:
    for story in STORIES:
        match = _read(story.start, opening) if ask == story.ask else None
        if match:
            return int(match[1])
    return None


def _read_step(sentence: str) -> Step | None:
    for story in STORIES:
        for operation in OPERATIONS:
            match = _read(_sentence(story, operation), sentence)
            if match:
                return operation, int(match[1])
    return None


def _read(template: str, sentence: str) -> re.Match[str] | None:
    return _pattern(template).fullmatch(sentence)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Compile `template` to an expression whose only group is the number."""
    people = "(?:" + "|".join(PEOPLE) + ")"
    pronouns = "(?:" + "|".join(sorted(set(PEOPLE.values()))) + ")"
    return re.compile(
        re.escape(template).replace(r"\{n\}", r"(\d{1,3})").replace(r"\{name\}", people).replace(r"\{they\}", pronouns)
    )


def _sentence(story: Story, operation: Operation) -> str:
    return {"+": story.add, "-": story.subtract, "*": story.multiply, "/": story.divide}[operation]
