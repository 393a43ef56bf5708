"""What the sandbox gives back for programs that mean well, and what it says about itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.config import SandboxConfig
from fastsvs.errors import UserError
from fastsvs.sandbox import Program, Sandbox, Status, Walls
from fastsvs.sandbox.pool import read_outcome
from fastsvs.sandbox.values import NotPlainError, decode, encode

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary()
keys = st.integers() | st.text(max_size=3) | st.tuples(st.integers(), st.text(max_size=2))
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.sets(keys, max_size=4)
        | st.frozensets(keys, max_size=4)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxConfig(timeout_seconds=5.0)) as sandbox:
        yield sandbox


@given(plain)
def test_plain_data_comes_back_as_it_was(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value, 10**6))), 10**6)
    assert back == value
    assert type(back) is type(value)


@given(st.sets(st.text(max_size=4), max_size=6))
def test_equal_sets_have_equal_encodings(texts: set[str]) -> None:
    rebuilt: set[str] = set()
    for text in sorted(texts, reverse=True):
        rebuilt.add(text)
    assert encode(texts, 1000) == encode(rebuilt, 1000)


@given(st.recursive(st.none() | st.text(max_size=3), lambda t: st.lists(t) | st.dictionaries(st.text(max_size=5), t)))
def test_a_forged_value_is_an_error_or_plain_data(tree: Any) -> None:
    try:
        value = decode(tree, 10**6)
    except ValueError:
        return
    encode(value, 10**6)


@pytest.mark.parametrize("value", ["a" * 101, [0] * 101, 2**400, {i: i for i in range(60)}, b"a" * 101])
def test_more_than_the_budget_is_refused(value: Any) -> None:
    with pytest.raises(NotPlainError):
        encode(value, 100)


HONEST = {"status": "ok", "values": [1], "printed": "a", "printed_characters": 1, "detail": "", "seconds": 0.1}
COLLIDING = {"dict": [[i * (2**61 - 1), 0] for i in range(6000)]}
"""Keys with one hash: a dict takes the square of their number to build."""


def test_what_an_encoder_may_write_a_decoder_reads() -> None:
    value = {"a": [1, 2.5, float("inf"), b"xy"], (1, True): {"x"}}
    cost = next(budget for budget in range(100) if _encodes(value, budget))
    assert decode(encode(value, cost), cost) == value
    with pytest.raises(ValueError, match="more output than allowed"):
        decode(encode(value, cost), cost - 1)


def _encodes(value: Any, budget: int) -> bool:
    try:
        encode(value, budget)
    except NotPlainError:
        return False
    return True


@pytest.mark.parametrize(
    "answer",
    [
        *([], {}, {"status": "odd"}, {"status": "ok", "values": 3}, "ok", None),
        HONEST | {"status": "lost"},
        HONEST | {"printed_characters": float("inf")},
        HONEST | {"printed_characters": 10**400},
        HONEST | {"printed_characters": -1},
        HONEST | {"printed": "a" * 101, "printed_characters": 101},
        HONEST | {"printed": ["a"]},
        HONEST | {"detail": "a" * 10**6},
        HONEST | {"values": [[0] * 101]},
        HONEST | {"values": ["\ud800"]},
        HONEST | {"values": [COLLIDING]},
        HONEST | {"values": [{"dict": [[[1], 2]]}]},
        HONEST | {"seconds": 10**400},
    ],
    ids=range(18),
)
def test_a_forged_outcome_is_a_crash(answer: Any) -> None:
    assert read_outcome(answer, 100).status is Status.CRASHED
    assert read_outcome(HONEST, 100).values == (1,)


def test_what_a_program_prints_can_be_written_down() -> None:
    outcome = read_outcome(HONEST | {"printed": "\ud800"}, 100)
    assert (outcome.status, outcome.printed) == (Status.OK, "?")


FORGERY = """
import builtins, sys
frame = sys._getframe()
while "json" not in frame.f_globals:
    frame = frame.f_back
json = frame.f_globals["json"]
def dumps(outcome):
    return '%s'
frame.f_globals["json"] = type("J", (), {"dumps": staticmethod(dumps)})
def f(x):
    return x
"""


@pytest.mark.parametrize(
    "reply",
    [
        '{"status": "ok", "values": [1], "printed": "", "printed_characters": 1e999, "detail": ""}',
        '{"status": "lost", "values": [], "printed": "", "printed_characters": 0, "detail": ""}',
        '{"status": "timeout", "values": [], "printed": "", "printed_characters": 0, "detail": ""}',
        '{"status": ["ok"], "values": [], "printed": "", "printed_characters": 0, "detail": ""}',
    ],
)
def test_a_program_that_forges_its_reply_costs_itself_alone(sandbox: Sandbox, reply: str) -> None:
    honest = Program("def f(x): return x + 1", "f", ("1",))
    before, forged, after = sandbox.run([honest, Program(FORGERY % reply, "f", ("1",)), honest])
    assert forged.status is Status.CRASHED
    assert [before.values, after.values] == [(2,), (2,)]


def test_calls_results_and_what_is_printed(sandbox: Sandbox) -> None:
    source = "import math\ndef f(x, y=2):\n    print('at', x)\n    return {'sum': x + y, 'root': math.sqrt(x)}"
    (outcome,) = sandbox.run([Program(source, "f", ("4", "9, 1"))])
    assert outcome.status is Status.OK
    assert outcome.values == ({"sum": 6, "root": 2.0}, {"sum": 10, "root": 3.0})
    assert (outcome.printed, outcome.printed_characters) == ("at 4\nat 9\n", 10)


def test_inputs_alone_are_literals(sandbox: Sandbox) -> None:
    good, bad = sandbox.run([Program("", None, ("[1, (2,)]", "'a'")), Program("", None, ("open('x')",))])
    assert good.values == ([1, (2,)], "a")
    assert (bad.status, bad.detail.partition(":")[0]) == (Status.ERROR, "ValueError")


def test_values_before_a_failure_are_kept(sandbox: Sandbox) -> None:
    (outcome,) = sandbox.run([Program("def f(x): return 1 / x", "f", ("2", "0", "1"))])
    assert outcome.values == (0.5,)
    assert outcome.detail == "ZeroDivisionError: division by zero"


def test_long_printing_is_cut_and_counted() -> None:
    with Sandbox(SandboxConfig(output_characters=10)) as sandbox:
        (outcome,) = sandbox.run([Program("def f(): print('abc' * 100)", "f", ("",))])
    assert (outcome.printed, outcome.printed_characters) == ("abcabcabca", 301)


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ("def f(): return {'a', 'b', 'c', 'd'}", True),
        ("def f(): return list({'a', 'b', 'c', 'd', 'e', 'f'})", False),
        ("import random\ndef f(): return random.random()", False),
        ("import time\ndef f(): return time.time()", False),
        ("def f(): return id(object()) % 2**62 > 0", True),
        ("def f(): raise ValueError('always')", True),
    ],
)
def test_programs_that_depend_on_more_than_their_input_are_found(sandbox: Sandbox, source: str, same: bool) -> None:
    ((_, repeated),) = sandbox.repeat([Program(source, "f", ("",))])
    assert repeated is same


def test_programs_do_not_see_one_another(sandbox: Sandbox) -> None:
    leave = Program("import math\nmath.pi = 3\ndef f(): return math.pi", "f", ("",))
    look = Program("import math\ndef f(): return round(math.pi, 4)", "f", ("",))
    assert [outcome.values for outcome in sandbox.run([leave, look])] == [(3,), (3.1416,)]


def test_the_environment_holds_nothing_of_the_trainers(sandbox: Sandbox) -> None:
    (outcome,) = sandbox.run([Program("import os\ndef f(): return sorted(os.environ)", "f", ("",))])
    assert set(outcome.values[0]) <= {"PYTHONHASHSEED", "PYTHONPATH", "LC_CTYPE"}


def test_it_says_what_stands_around_programs(sandbox: Sandbox) -> None:
    walls = sandbox.open()
    assert walls.isolated
    assert "seccomp" in walls.describe()
    bare = Walls(filter=False, network=False, processes=False, files=False)
    assert not bare.isolated
    assert "this system does not give: system calls" in bare.describe()


def test_without_isolation_it_refuses_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Walls, "isolated", property(lambda self: False))
    with Sandbox(SandboxConfig()) as sandbox, pytest.raises(UserError, match="allow_unisolated"):
        sandbox.open()
    with Sandbox(SandboxConfig(allow_unisolated=True)) as sandbox:
        sandbox.open()


def test_processes_end_with_the_trainer(tmp_path: Path) -> None:
    script = (
        "import os, signal\nfrom fastsvs.config import SandboxConfig\nfrom fastsvs.sandbox import Program, Sandbox\n"
        "s = Sandbox(SandboxConfig(timeout_seconds=600))\ns.open()\n"
        "s.submit(Program('while True: pass', 'f', ('',)))\nimport time; time.sleep(0.5)\n"
        "print(os.getpid(), flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], check=False, timeout=60, env={"PYTHONHASHSEED": "0"})
    while _zygotes("600.0"):
        time.sleep(0.05)


def _zygotes(word: str) -> list[int]:
    found = subprocess.run(["pgrep", "-f", f"fastsvs.sandbox.zygote.* {word} "], capture_output=True, text=True)
    assert found.returncode < 2, found.stderr  # 1: there is none
    return [int(process) for process in found.stdout.split()]


def _kill(processes: list[int]) -> None:
    """Kill them, and wait until the system has closed their files."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.05)


def test_a_zygote_that_dies_idle_costs_no_outcome() -> None:
    with Sandbox(SandboxConfig(timeout_seconds=601.0)) as sandbox:
        for number in range(4):
            assert sandbox.submit(Program("", None, (str(number),)), seed=0).result().values == (number,)
            _kill(_zygotes("601.0"))


def test_a_zygote_that_dies_at_work_is_replaced() -> None:
    with Sandbox(SandboxConfig(timeout_seconds=602.0)) as sandbox:
        assert sandbox.submit(Program("", None, ("1",)), seed=0).result().values == (1,)
        idle = _zygotes("602.0")
        outcome = sandbox.submit(Program("while True: pass", "f", ("",)), seed=0)
        while len(_zygotes("602.0")) == len(idle):
            time.sleep(0.05)
        _kill(idle)
        assert outcome.result().status is Status.LOST
        assert sandbox.submit(Program("", None, ("2",)), seed=0).result().values == (2,)
