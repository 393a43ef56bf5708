"""The tiny task's programs: what the dialogues say is what Python says, and they read as the AZR stage asks."""

import re
from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from fastsvs.data import tiny
from fastsvs.data.tiny import programs as tiny_programs
from fastsvs.data.tiny.programs import program_dialogues, write_hint, write_program
from fastsvs.selfplay.azr.templates import load_templates

DIALOGUES = [tuple(turn["content"] for turn in each.messages) for each in islice(program_dialogues(), 3000)]
STEPS = st.lists(st.tuples(st.sampled_from(tiny.OPERATIONS), st.integers(2, 10)), min_size=1, max_size=3)


def run(program: str, given: int) -> int:
    names: dict = {}
    exec(program, names)
    return names["f"](given)


def blocks(text: str, name: str) -> list[str]:
    return re.findall(rf"```{name}\n(.*?)\n```", text, re.DOTALL)


def of(beginning: str) -> list[tuple[str, str]]:
    return [(asked, written) for asked, written in DIALOGUES if beginning in asked]


@given(STEPS, st.integers(0, 60))
def test_a_program_computes_its_steps(steps: list[tiny.Step], start: int) -> None:
    value = start
    for operation, operand in steps:
        value = {"+": value + operand, "-": value - operand, "*": value * operand, "/": value // operand}[operation]
    assert run(write_program(steps), start) == value


def test_examples_of_programs() -> None:
    assert write_program([("+", 3), ("*", 2)]) == "def f(x): return (x+3)*2"
    assert write_program([("*", 2), ("+", 3), ("-", 4)]) == "def f(x): return x*2+3-4"
    assert write_program([("-", 3), ("/", 2), ("*", 5)]) == "def f(x): return (x-3)//2*5"
    assert write_hint([("*", 2), ("+", 3), ("/", 4)]) == "times, plus, over"


def test_the_prompts_are_those_of_the_stage() -> None:
    texts = load_templates("tiny").texts
    names = [name for name in texts if name != "reference"]
    assert {name: getattr(tiny_programs, name.upper()) for name in names} == {name: texts[name] for name in names}


def test_all_six_roles_are_taught_alike() -> None:
    counts = Counter(
        next(
            name for name in ("for its output", "to be found", "a hint", "What is", "Which x", "Hint:") if name in asked
        )
        for asked, _ in DIALOGUES
    )
    assert len(counts) == 6
    assert min(counts.values()) > 0.8 * len(DIALOGUES) / 6


def test_proposals_run_and_stay_in_range() -> None:
    for _, written in of("Write a program"):
        [program], [given] = blocks(written, "python"), blocks(written, "input")
        assert 0 <= run(program, int(given)) <= tiny.LARGEST
    for asked, written in of("inputs and a hint"):
        values = [run(asked.split("\n")[1], int(given)) for given in blocks(written, "input")]
        assert len(set(blocks(written, "input"))) == len(values) >= 2
        assert all(0 <= value <= tiny.LARGEST for value in values)


def test_most_answers_are_right_and_some_are_not() -> None:
    right = []
    for asked, written in of("What is"):
        program, question = asked.split("\n")
        given = int(re.search(r"\((\d+)\)", question)[1])
        right.append(run(program, given) == int(blocks(written, "output")[0]))
    for asked, written in of("Which x"):
        program, question = asked.split("\n")
        output = int(re.search(r"gives (\d+)", question)[1])
        right.append(run(program, int(blocks(written, "input")[0])) == output)
    assert 0.6 < sum(right) / len(right) < 0.9


def test_programs_to_be_found_give_what_was_shown() -> None:
    for asked, written in of("Hint:"):
        pairs = re.findall(r"f\((\d+)\)=(\d+)", asked)
        assert pairs
        assert all(run(blocks(written, "python")[0], int(given)) == int(output) for given, output in pairs)


def test_no_computation_is_held_out() -> None:
    for asked, _ in of("What is"):
        program, question = asked.split("\n")
        steps = tuple((op[0], int(n)) for op, n in re.findall(r"(//|[-+*])(\d+)", program))
        steps = tuple(("/" if op == "/" else op, n) for op, n in steps)
        assert tiny.Computation(int(re.search(r"\((\d+)\)", question)[1]), steps).split == "train"


def test_they_are_loaded_by_name() -> None:
    assert [each.messages for each in tiny.dialogues("tiny:azr_sft", 5)] == [
        each.messages for each in islice(program_dialogues(), 5)
    ]
