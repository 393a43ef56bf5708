"""Dialogues that teach the tiny model the six roles of AZR in a language of one-line programs: `tiny:azr_sft`.

A program is one of the tiny task's computations as a function of its start, `def f(x): return (x+3)*2`: one to three
operations on integers, all values of its examples in 0..60, none of them held out. Answers show their steps, and as in
`tiny:sft` not all of them are right: one step in eight slips. Prompts are those of the stage's templates `tiny`, whose
texts stand here again because data does not import self-play; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from fastsvs.data.records import Dialogue
from fastsvs.data.tiny.computation import LARGEST, Computation, Step, draw_computation
from fastsvs.data.tiny.wording import dialogue
from fastsvs.seeding import derive_seed

PROPOSE_DEDUCTION = "Write a program and an input for its output.\n{references}"
PROPOSE_ABDUCTION = "Write a program and an input to be found.\n{references}"
PROPOSE_INDUCTION = "Write {count} inputs and a hint.\n{program}"
SOLVE_DEDUCTION = "{program}\nWhat is f({input})?"
SOLVE_ABDUCTION = "{program}\nWhich x gives {output}?"
SOLVE_INDUCTION = "{pairs}\nHint: {message}\nWrite the program."
PAIR = "f({input})={output}"
MOST_REFERENCES = 3
INPUTS = 4
WORDS = {"+": "plus", "-": "minus", "*": "times", "/": "over"}
INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}

_IDENTITY = "def f(x): return x"
_SLIP_SHARE = 0.125
_SLIPS = (-10, -2, -1, 1, 2, 10)

Skill = Callable[[Random, Computation], Dialogue]


def program_dialogues() -> Iterator[Dialogue]:
    """Yield dialogues without end, the same at every call."""
    random = Random(derive_seed("tiny", "azr_sft"))
    while True:
        skill = random.choice(SKILLS)
        yield skill(random, draw_computation(random, "train"))


def write_program(steps: Sequence[Step]) -> str:
    """Write the steps as a function of x, with the parentheses that Python needs."""
    text, sum_before = "x", False
    for operation, operand in steps:
        product = operation in "*/"
        text = f"({text})" if product and sum_before else text
        text += f"{'//' if operation == '/' else operation}{operand}"
        sum_before = not product
    return f"def f(x): return {text}"


def proposing_deduction(random: Random, computation: Computation) -> Dialogue:
    return _proposing(PROPOSE_DEDUCTION, random, computation)


def proposing_abduction(random: Random, computation: Computation) -> Dialogue:
    return _proposing(PROPOSE_ABDUCTION, random, computation)


def proposing_induction(random: Random, computation: Computation) -> Dialogue:
    inputs = "\n".join(block("input", str(given)) for given in _inputs(random, computation))
    asked = PROPOSE_INDUCTION.format(count=INPUTS, program=write_program(computation.steps))
    return dialogue(asked, f"{inputs}\n{block('message', write_hint(computation.steps))}")


def solving_deduction(random: Random, computation: Computation) -> Dialogue:
    asked = SOLVE_DEDUCTION.format(program=write_program(computation.steps), input=computation.start)
    return dialogue(asked, _work(random, computation.start, computation.steps, "output"))


def solving_abduction(random: Random, computation: Computation) -> Dialogue:
    asked = SOLVE_ABDUCTION.format(program=write_program(computation.steps), output=computation.answer)
    backwards = [(INVERSE[operation], operand) for operation, operand in reversed(computation.steps)]
    return dialogue(asked, _work(random, computation.answer, backwards, "input"))


def solving_induction(random: Random, computation: Computation) -> Dialogue:
    seen = _inputs(random, computation)[: INPUTS // 2]
    pairs = [PAIR.format(input=given, output=_run(given, computation.steps)[-1]) for given in seen]
    asked = SOLVE_INDUCTION.format(pairs="\n".join(pairs), message=write_hint(computation.steps))
    return dialogue(asked, block("python", write_program(computation.steps)))


SKILLS: tuple[Skill, ...] = (
    proposing_deduction,
    proposing_abduction,
    proposing_induction,
    solving_deduction,
    solving_abduction,
    solving_induction,
)


def write_hint(steps: Sequence[Step]) -> str:
    """Return the operations in words, without their numbers."""
    return ", ".join(WORDS[operation] for operation, _ in steps)


def block(name: str, content: str) -> str:
    return f"```{name}\n{content}\n```"


def _proposing(template: str, random: Random, computation: Computation) -> Dialogue:
    shown = [write_program(draw_computation(random, "train").steps) for _ in range(random.randint(1, MOST_REFERENCES))]
    references = [_IDENTITY if random.random() < 0.2 else program for program in shown]
    written = f"{block('python', write_program(computation.steps))}\n{block('input', str(computation.start))}"
    return dialogue(template.format(references="\n".join(references)), written)


def _inputs(random: Random, computation: Computation) -> list[int]:
    """Draw up to INPUTS starts, the computation's own among them, from which all values stay in range."""
    possible = [start for start in range(1, LARGEST + 1) if start != computation.start]
    fitting = [start for start in possible if all(0 <= value <= LARGEST for value in _run(start, computation.steps))]
    others = random.sample(fitting, min(INPUTS - 1, len(fitting)))
    return random.sample([computation.start, *others], len(others) + 1)


def _work(random: Random, value: int, steps: Sequence[tuple[str, int]], name: str) -> str:
    """Write a line for each step, and the result in its block; after a slip the work goes on from the wrong value."""
    lines = []
    for operation, operand in steps:
        right = _run(value, [(operation, operand)])[-1]
        result = max(0, right + random.choice(_SLIPS)) if random.random() < _SLIP_SHARE else right
        lines.append(f"{value}{operation}{operand}={result}")
        value = result
    return "\n".join([*lines, block(name, str(value))])


def _run(value: int, steps: Sequence[tuple[str, int]]) -> list[int]:
    """Return the value after each step; division rounds down."""
    values = []
    for operation, operand in steps:
        value = {"+": value + operand, "-": value - operand, "*": value * operand, "/": value // operand}[operation]
        values.append(value)
    return values
