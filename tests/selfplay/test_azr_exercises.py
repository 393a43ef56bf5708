"""AZR's exercises and buffers: bounded, the newest stay, each once; seeds; what is read from a response."""

import ast
import json
from random import Random

import pytest
from azr_world import DOUBLE, SQUARES, TRIPLE, block, inputs_and_message, make_azr, proposal
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.config import AzrConfig
from fastsvs.errors import UserError
from fastsvs.selfplay.azr.exercises import IDENTITY, Buffer, Exercise, literal, literal_text, read_seeds
from fastsvs.selfplay.azr.proposals import Proposal, Rejection, check_program, read_proposal, used_names
from fastsvs.selfplay.azr.responses import last_block, read_blocks
from fastsvs.selfplay.azr.templates import load_templates


def numbered(number: int) -> Exercise:
    return Exercise(f"def f(x): return x + {number}", ("1",), (str(1 + number),))


def test_a_full_buffer_keeps_the_newest() -> None:
    buffer = Buffer(3, [IDENTITY])
    buffer.push([numbered(1), numbered(2)])
    assert buffer.exercises == [IDENTITY, numbered(1), numbered(2)]
    buffer.push([numbered(3), numbered(4)])
    assert buffer.exercises == [numbered(2), numbered(3), numbered(4)]
    buffer.push(map(numbered, range(10, 20)))
    assert buffer.exercises == [numbered(17), numbered(18), numbered(19)]


def test_what_comes_again_is_counted_and_counts_as_new() -> None:
    buffer = Buffer(3, [numbered(1), numbered(2), numbered(3)])
    assert buffer.push([numbered(1), numbered(4), numbered(4)]) == 1
    assert buffer.exercises == [numbered(3), numbered(1), numbered(4)]


@given(st.lists(st.lists(st.integers(0, 12), max_size=6), max_size=8), st.integers(1, 6))
def test_a_buffer_holds_the_last_different_ones(pushes: list[list[int]], size: int) -> None:
    buffer = Buffer(size)
    for push in pushes:
        buffer.push(map(numbered, push))
    expected: list[int] = []
    for push in pushes:
        for number in dict.fromkeys(push):
            expected = [other for other in expected if other != number] + [number]
        expected = expected[-size:]
    assert buffer.exercises == [numbered(number) for number in expected]


def test_the_newest_are_drawn_first_then_any_of_the_others() -> None:
    buffer = Buffer(100, map(numbered, range(10)))
    buffer.push(map(numbered, (20, 21, 22)))
    assert buffer.draw_newest(2, Random(0)) == [numbered(22), numbered(21)]
    drawn = buffer.draw_newest(6, Random(0))
    assert drawn[:3] == [numbered(22), numbered(21), numbered(20)]
    assert len(set(drawn)) == 6
    assert {exercise.program for exercise in drawn[3:]} <= {numbered(number).program for number in range(10)}
    assert drawn[3:] != buffer.draw_newest(6, Random(1))[3:]
    assert set(buffer.draw_newest(99, Random(0))) == set(buffer.exercises)
    buffer.push([])
    assert buffer.draw_newest(1, Random(1)) != [numbered(22)]


def test_a_buffer_is_remembered_as_json() -> None:
    buffer = Buffer(5, [SQUARES, DOUBLE])
    buffer.push([TRIPLE])
    again = Buffer(5, [IDENTITY])
    again.load_state_dict(json.loads(json.dumps(buffer.state_dict())))
    assert again.exercises == buffer.exercises
    assert again.state_dict() == buffer.state_dict()
    assert again.draw_newest(2, Random(3)) == buffer.draw_newest(2, Random(3))
    smaller = Buffer(2)
    smaller.load_state_dict(buffer.state_dict())
    assert smaller.exercises == [DOUBLE, TRIPLE]


def test_a_state_is_not_altered_by_later_steps() -> None:
    buffer = Buffer(5, [DOUBLE])
    state = buffer.state_dict()
    before = json.dumps(state)
    buffer.push([TRIPLE])
    assert json.dumps(state) == before


def test_seeds_come_from_a_file_or_are_the_identity(tmp_path) -> None:
    assert read_seeds(None) == [IDENTITY]
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"snippet": "def f(a): return {a}", "input": "1", "output": "{  1 }"}\n')
    assert read_seeds(str(path)) == [Exercise("def f(a): return {a}", ("1",), ("{1}",))]
    stage = make_azr(seed_file=str(path))
    assert [len(stage.buffers[task]) for task in ("deduction", "abduction", "induction")] == [1, 1, 0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"snippet": "def f(a): return a", "input": "1"}', "row 0 must have the texts"),
        ('{"snippet": "def f(a): return a", "input": "1", "output": "open(1)"}', "no literal of plain data"),
        ('{"snippet": "def f(a): return a", "input": "1", "output": "1e999"}', "no literal of plain data"),
    ],
)
def test_seeds_that_cannot_be_used(tmp_path, text: str, said: str) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_seeds(str(path))
    with pytest.raises(UserError, match=r"seed_file: no file or folder .*none\.jsonl"):
        read_seeds(str(tmp_path / "none.jsonl"))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(plain | st.sets(st.integers(), max_size=3) | st.tuples(plain, plain))
def test_values_are_written_so_that_they_read_back(value) -> None:
    text = literal_text(value, 10_000)
    assert text is not None
    assert literal(text) == value


@pytest.mark.parametrize(
    "value",
    [float("inf"), float("nan"), [float("-inf")], frozenset({1}), 10**5000, "x" * 399],
    ids=["inf", "nan", "list of inf", "frozenset", "huge int", "long"],
)
def test_values_without_a_short_literal(value) -> None:
    assert literal_text(value, 400) is None


def test_blocks_are_read_where_the_form_says() -> None:
    answer = f"<think>{block('output', '1')}</think> so <answer>{block('output', '2')}</answer>"
    assert read_blocks(answer, tagged=True) == {"output": ["2"]}
    assert read_blocks(answer, tagged=False) == {"output": ["2"]}
    assert read_blocks(block("output", "3"), tagged=True) == {}
    assert read_blocks(block("output", "3"), tagged=False) == {"output": ["3"]}
    assert read_blocks(f"<answer>{block('output', '4')}", tagged=True) == {}
    assert read_blocks(f"<answer>{block('output', '4')}</answer><answer>", tagged=True) == {}
    assert read_blocks(f"<answer>x</answer> no: <answer>{block('output', '5')}</answer>", tagged=True)["output"] == [
        "5"
    ]
    assert read_blocks("```output\n6", tagged=False) == {}
    assert read_blocks("```output 7```", tagged=False) == {}
    assert read_blocks("the answer is 8", tagged=False) == {}
    assert read_blocks("```input\n1\n```\nand\n```input \n2, 'a'\n```", tagged=False) == {"input": ["1", "2, 'a'"]}


def test_the_last_block_counts_and_an_empty_one_does_not() -> None:
    assert last_block({"input": ["1", "2"]}, "input") == "2"
    assert last_block({"input": ["1", ""]}, "input") is None
    assert last_block({}, "input") is None


def read(text: str, given: str | None = None, **azr) -> Proposal | Rejection:
    return read_proposal(read_blocks(text, tagged=False), given, AzrConfig(**azr))


def test_a_proposal_is_a_program_with_an_input() -> None:
    assert read(proposal(DOUBLE.program, "3")) == Proposal(DOUBLE.program, ("3",))
    corrected = "\n".join([proposal("def f(x): return 0", "1"), block("input", "2"), proposal(DOUBLE.program, "1")])
    assert read(corrected) == Proposal(DOUBLE.program, ("1",))
    assert read(block("python", DOUBLE.program)) is Rejection.FORMAT
    assert read(block("input", "3")) is Rejection.FORMAT
    assert read(proposal("def f(x:", "3")) is Rejection.SYNTAX
    assert read(proposal("def f(x): return " + "(" * 900 + ")" * 900, "3")) is Rejection.SYNTAX
    assert read(proposal("def g(x): return x", "3")) is Rejection.NO_FUNCTION
    assert read(proposal("class A:\n    def f(x): return x", "3")) is Rejection.NO_FUNCTION
    assert read(proposal(DOUBLE.program, "3"), max_program_characters=10) is Rejection.TOO_LONG
    assert read(proposal(DOUBLE.program, "'" + 400 * "3" + "'")) is Rejection.TOO_LONG
    assert read(proposal("import random\n" + DOUBLE.program, "3")) is Rejection.BANNED


@pytest.mark.parametrize("given", ["3)", "1), (2", "x=1", "*[1]", "3 +", "1\n2", "# 3"])
def test_inputs_are_positional_arguments(given: str) -> None:
    expected = (
        Proposal(DOUBLE.program, ("# 3",)) if given == "# 3" else Rejection.SYNTAX
    )  # no argument: left to the run
    assert read(proposal(DOUBLE.program, given)) == expected


def test_a_proposal_for_a_given_program_is_inputs_and_a_message() -> None:
    program = DOUBLE.program
    assert read(inputs_and_message("1", "2", "1"), program) == Proposal(program, ("1", "2"), "a hint")
    assert read(inputs_and_message("1", "1"), program) is Rejection.FEW_INPUTS
    assert read(inputs_and_message("1", "2", message=""), program) is Rejection.FORMAT
    assert read(block("message", "a hint"), program) is Rejection.FORMAT
    many = inputs_and_message(*map(str, range(20)))
    assert read(many, program) == Proposal(program, tuple(map(str, range(10))), "a hint")
    assert read(many, program, inputs_per_program=3) == Proposal(program, ("0", "1", "2"), "a hint")
    assert read(block("python", "def f(x): return 0") + many, program, inputs_per_program=2).program == program


@pytest.mark.parametrize(
    "line",
    [
        "import random",
        "import random as r",
        "from random import randint",
        "import os.path",
        "from os import environ",
        "import os\nos.environ['HOME']",
        "import sys\nsys.exit(1)",
        "from hashlib import md5",
        "def g(): raise ValueError",
        "input()",
        "a = input('x')",
        "import datetime; datetime.datetime.now()",
    ],
)
def test_the_ban_list(line: str) -> None:
    program = f"{line}\ndef f(x): return x"
    assert check_program(program, AzrConfig()) is Rejection.BANNED
    assert check_program(program, AzrConfig(banned=())) is None


@pytest.mark.parametrize(
    "line",
    ["import math", "import os", "time = 3", "def g(random): return random", "x = 'raise input()'", "g.inputs()"],
)
def test_what_only_sounds_banned_is_not(line: str) -> None:
    assert check_program(f"{line}\ndef f(x): return x", AzrConfig()) is None


def test_ones_own_ban_list() -> None:
    program = "import numpy.linalg\ndef f(x): return x"
    assert check_program(program, AzrConfig(banned=("numpy",))) is Rejection.BANNED
    assert check_program(program, AzrConfig(banned=("num",))) is None


def test_templates_of_ones_own(tmp_path) -> None:
    built_in = load_templates("tiny")
    for name, text in built_in.texts.items():
        (tmp_path / f"{name}.txt").write_text(text + " not {banned} <answer>\n")
    own = load_templates(str(tmp_path), banned=("raise",))
    assert own.solve("deduction", DOUBLE) == "def f(x): return 2 * x\nWhat is f(3)? not raise <answer>"
    assert own.tagged("solve_deduction")
    assert not built_in.tagged("solve_deduction")
    assert all(load_templates("azr").tagged(kind) for kind in load_templates("azr").texts if "_" in kind)
    (tmp_path / "pair.txt").write_text("{input}")
    with pytest.raises(UserError, match=r"must contain \{output\}"):
        load_templates(str(tmp_path))
    with pytest.raises(UserError, match=r"selfplay\.azr\.templates: .* cannot be read"):
        load_templates(str(tmp_path / "none"))


def test_the_induction_prompt_shows_the_first_half() -> None:
    prompt = load_templates("tiny").solve("induction", SQUARES)
    assert prompt == "f(1)=1\nf(2)=4\nf(3)=9\nHint: squares\nWrite the program."


def test_a_long_chain_of_attributes_is_read_once() -> None:
    chain = "x" + ".a" * 2000
    names = list(used_names(ast.parse(f"def f(x): return {chain}")))
    assert [name.count(".") for name in names] == [2000]


@pytest.mark.parametrize("line", ["os.path.join", "x = os.path.join.y.z", "os.path.join(1).y", "f(os.path.join)[0].z"])
def test_a_banned_name_is_found_within_a_chain(line: str) -> None:
    config = AzrConfig(banned=("os.path.join",))
    assert check_program(f"def f(x):\n    {line}", config) is Rejection.BANNED
    assert check_program(f"def f(x):\n    {line.replace('join', 'split')}", config) is None
