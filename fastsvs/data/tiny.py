"""The tiny task: procedural word problems with variational rewrites, for a policy of a million parameters.

A problem tells a chain of one to three operations (+, -, *, exact division) on integers from 0 to 60 in one of 24
stories. Its computation, not its wording, decides the split: a hash of (start, steps) sends one computation in eight
to held-out, in whatever story, so no held-out computation can occur in training or SFT data under any seed or size.

`tiny:train` and `tiny:heldout` are problems with right solutions; `tiny:sft` is dialogues, 70% solving and 30% writing
a variational problem: given a solution, another story with the same computation, in the form that SvS expects
(a ```text block). `tiny:skills` adds judging and mending: see tiny_skills.py; `tiny:azr_sft` is about programs that
compute the same: see tiny_programs.py.
Like the text that real base models read, the solutions in `tiny:sft` are not all right: a step in four slips, and what
follows builds on the slip. A model of this data knows more than it shows at temperature 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random
from typing import Literal

from fastsvs.data.records import Dialogue, Problem
from fastsvs.data.tiny_stories import PEOPLE, STORIES, Story
from fastsvs.errors import UserError
from fastsvs.seeding import derive_seed

SCHEME = "tiny:"
SYNTHESIS_TEMPLATE = "Write a new problem with this solution:\n{response}"
LARGEST = 60
LARGEST_START = 20
LARGEST_OPERAND = 10
FACTORS = range(2, 6)

Split = Literal["train", "heldout"]
Operation = Literal["+", "-", "*", "/"]
Step = tuple[Operation, int]
OPERATIONS: tuple[Operation, ...] = ("+", "-", "*", "/")

_DEFAULT_SIZES = {"train": 4096, "heldout": 200, "sft": 40_000, "skills": 40_000, "azr_sft": 40_000}
_SYNTHESIS_SHARE = 0.3
_SLIP_SHARE = 0.25
"""Share of steps that slip in solutions to learn from."""
_SLIPS = (-10, -3, -2, -1, 1, 2, 3, 10)
_STEP_WEIGHTS = (2, 2, 1)
"""Relative frequency of problems of one, two and three steps."""


@dataclass(frozen=True, slots=True)
class Computation:
    """A computation: `start`, then each (operation, operand) in turn; all values are integers in 0..LARGEST."""

    start: int
    steps: tuple[Step, ...]

    def values(self) -> list[int]:
        """Return the value after each step."""
        values, value = [], self.start
        for operation, operand in self.steps:
            value = _apply(value, operation, operand)
            values.append(value)
        return values

    @property
    def answer(self) -> int:
        return self.values()[-1]

    @property
    def split(self) -> Split:
        return "heldout" if derive_seed("tiny split", self.start, *map(str, self.steps)) % 8 == 0 else "train"


def problems(path: str, limit: int | None) -> list[Problem]:
    """Return the first `limit` problems of `tiny:train` or `tiny:heldout`, all with different questions."""
    split: Split = "heldout" if _checked(path, ("train", "heldout")) == "heldout" else "train"
    return list(islice(_problems(split), limit or _DEFAULT_SIZES[split]))


def dialogues(path: str, limit: int | None) -> list[Dialogue]:
    """Return the first `limit` dialogues of `tiny:sft`, `tiny:skills` or `tiny:azr_sft`, or the first `limit` problems
    of `tiny:train` with their solutions."""
    split = _checked(path, ("sft", "skills", "azr_sft", "train"))
    if split == "train":
        return [dialogue(problem.question, problem.solution or "") for problem in problems(path, limit)]
    if split == "skills":
        from fastsvs.data.tiny_skills import skill_dialogues  # which is made of what is here

        return list(islice(skill_dialogues(), limit or _DEFAULT_SIZES["skills"]))
    if split == "azr_sft":
        from fastsvs.data.tiny_programs import program_dialogues

        return list(islice(program_dialogues(), limit or _DEFAULT_SIZES["azr_sft"]))
    return list(islice(_dialogues(), limit or _DEFAULT_SIZES["sft"]))


def dialogue(asked: str, written: str) -> Dialogue:
    return Dialogue(({"role": "user", "content": asked}, {"role": "assistant", "content": written}))


def solve(question: str) -> int | None:
    """Return the answer to a problem told in this task's sentences, even mixed from several stories.

    Returns None for any other text, and where a division is not exact or a value leaves 0..LARGEST.
    """
    *steps, ask = re.split(r"(?<=\.) ", question)
    value = None
    for story in STORIES:
        if steps and ask == story.ask and (opening := _read(story.start, steps[0])):
            value = int(opening[1])
    for sentence in steps[1:]:
        step = _read_step(sentence)
        if value is None or step is None or (step[0] == "/" and (step[1] == 0 or value % step[1])):
            return None
        value = _apply(value, *step)
        if not 0 <= value <= LARGEST:
            return None
    return value


def write_problem(computation: Computation, story: Story, name: str) -> str:
    """Write the computation as a word problem."""
    sentences = [story.start.format(n=computation.start, name=name)]
    for operation, operand in computation.steps:
        sentences.append(_sentence(story, operation).format(n=operand, they=PEOPLE[name]))
    return " ".join([*sentences, story.ask])


def write_solution(computation: Computation, story: Story, slips: Random | None = None) -> str:
    """Write one line per step, the unit at the last, then the boxed answer: enough to rebuild a problem from.

    With `slips`, a step's result may be off; the next step starts from it.
    """
    lines, value = [], computation.start
    for operation, operand in computation.steps:
        slip = slips.choice(_SLIPS) if slips and slips.random() < _SLIP_SHARE else 0
        result = max(0, _apply(value, operation, operand) + slip)
        lines.append(f"{value}{operation}{operand}={result}")
        value = result
    return "\n".join(lines) + f" {story.unit}\n\\boxed{{{value}}}"


def draw_computation(random: Random, split: Split) -> Computation:
    """Draw a computation of `split`, with operations uniform among those that stay in range."""
    while True:
        start = random.randint(2, LARGEST_START)
        value, steps = start, []
        for _ in range(random.choices((1, 2, 3), _STEP_WEIGHTS)[0]):
            step = _draw_step(random, value)
            value = _apply(value, *step)
            steps.append(step)
        computation = Computation(start, tuple(steps))
        if computation.split == split:
            return computation


def _problems(split: Split) -> Iterator[Problem]:
    random = Random(derive_seed("tiny", split))
    seen: set[str] = set()
    while True:
        computation = draw_computation(random, split)
        story, name = random.choice(STORIES), random.choice(list(PEOPLE))
        question = write_problem(computation, story, name)
        if question not in seen:
            seen.add(question)
            yield Problem(
                id=f"{SCHEME}{split}/{len(seen) - 1}",
                question=question,
                answer=str(computation.answer),
                solution=write_solution(computation, story),
                source=f"{SCHEME}{split}",
                extra={"steps": len(computation.steps)},
            )


def _dialogues() -> Iterator[Dialogue]:
    random = Random(derive_seed("tiny", "sft"))
    while True:
        computation = draw_computation(random, "train")
        story, other = random.sample(STORIES, 2)
        name = random.choice(list(PEOPLE))
        if random.random() < _SYNTHESIS_SHARE:
            variant = write_problem(computation, other, name)
            solution = write_solution(computation, story)
            asked, written = SYNTHESIS_TEMPLATE.format(response=solution), f"```text\n{variant}\n```"
        else:
            asked, written = write_problem(computation, story, name), write_solution(computation, story, random)
        yield dialogue(asked, written)


def _draw_step(random: Random, value: int) -> Step:
    operands: dict[Operation, Sequence[int]] = {
        "+": range(2, min(LARGEST_OPERAND, LARGEST - value) + 1),
        "-": range(2, min(LARGEST_OPERAND, value) + 1),
        "*": [factor for factor in FACTORS if 0 < value * factor <= LARGEST],
        "/": [divisor for divisor in FACTORS if value > 0 and value % divisor == 0],
    }
    operation = random.choice([operation for operation, choices in operands.items() if choices])
    return operation, random.choice(operands[operation])


def _apply(value: int, operation: Operation, operand: int) -> int:
    match operation:
        case "+":
            return value + operand
        case "-":
            return value - operand
        case "*":
            return value * operand
        case "/":
            return value // operand


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


def _checked(path: str, known: Sequence[str]) -> str:
    split = path.removeprefix(SCHEME)
    if split not in known:
        raise UserError(f"unknown tiny data {path!r} here: known are {', '.join(SCHEME + name for name in known)}")
    return split
