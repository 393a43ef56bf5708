"""AZR's judge over the real sandbox: what is valid, what is right, and what is neither."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace

import pytest
from azr_world import DOUBLE, SQUARES, block, inputs_and_message, make_azr, of_kind, proposal

from fastsvs.config import AzrConfig, SandboxConfig
from fastsvs.errors import UserError
from fastsvs.sandbox import Outcome, Sandbox, Status, Walls
from fastsvs.selfplay import JUDGES, Finding, Task
from fastsvs.selfplay.azr import AzrJudge, Exercise, load_templates
from fastsvs.selfplay.azr.judge import NO_ANSWER, judged, proposed
from fastsvs.selfplay.azr.proposals import Proposal
from fastsvs.verify import Verdict

CONFIG = AzrConfig(templates="tiny")


@pytest.fixture(scope="module")
def judge() -> Iterator[AzrJudge]:
    with Sandbox(SandboxConfig(timeout_seconds=1.0)) as sandbox:
        yield AzrJudge(CONFIG, load_templates("tiny"), sandbox)


def findings(judge: AzrJudge, asked: Sequence[tuple[str, Task]]) -> list[Finding]:
    said = [each.result() if isinstance(each, Future) else each for each in judge.submit(asked)]
    assert all(isinstance(each, Finding) for each in said)
    return said


def judgement(judge: AzrJudge, text: str, task: Task) -> Finding:
    return findings(judge, [(text, task)])[0]


def proposing(name: str = "deduction") -> Task:
    return of_kind(make_azr().begin(0, []), f"propose_{name}")[0]


def solving(name: str, exercise: Exercise) -> Task:
    """The task that a stage makes of a problem in its buffer."""
    stage = make_azr(solve_from_buffer=1)
    stage.buffers[name].push([exercise])
    return of_kind(stage.begin(0, []), f"solve_{name}")[0]


@pytest.mark.parametrize("name", ["deduction", "abduction"])
def test_a_valid_proposal_comes_with_its_output(judge: AzrJudge, name: str) -> None:
    finding = judgement(judge, proposal("def f(a, b): return {b: [a, (a,)]}", "1, 'x'"), proposing(name))
    assert finding.verdict is Verdict.CORRECT
    expected = Exercise("def f(a, b): return {b: [a, (a,)]}", ("1, 'x'",), ("{'x': [1, (1,)]}",))
    assert Exercise.from_json(finding.note) == expected


@pytest.mark.parametrize(
    ("program", "given", "reason"),
    [
        ("def f(x): return 1 // x", "0", "failed"),
        ("def f(x): return x", "1, 2", "failed"),
        ("def f(x): return x", "y", "failed"),
        ("def f(x):\n    while True: pass", "1", "failed"),
        ("def f(x): return open('/etc/passwd').read()", "1", "failed"),
        ("def f(x): return [0] * 10**10", "1", "failed"),
        ("def f(x): return lambda: x", "1", "output"),
        ("def f(x): return 'a' * 401", "1", "output"),
        ("def f(x): return 'a' * 20000", "1", "output"),
        ("def f(x): return float('inf')", "1", "output"),
        ("def f(x): return 10**5000", "1", "failed"),
        ("def f(x): return list({'a', 'b', 'c', 'd'})", "1", "not_deterministic"),
        ("def f(x): return hash('a')", "1", "not_deterministic"),
        ("import random\ndef f(x): return random.random()", "1", "banned"),
        ("import time\ndef f(x): return time.time()", "1", "banned"),
        ("def f(x): raise ValueError", "1", "banned"),
        ("def f(x) return x", "1", "syntax"),
        ("def g(x): return x", "1", "no_function"),
    ],
)
def test_proposals_that_are_not_valid(judge: AzrJudge, program: str, given: str, reason: str) -> None:
    finding = judgement(judge, proposal(program, given), proposing())
    assert finding == Finding(Verdict.WRONG, {"rejected": reason})


def test_what_the_ban_list_leaves_open_two_runs_may_find(judge: AzrJudge) -> None:
    text = proposal("import random\ndef f(x): return random.random()", "1")
    with Sandbox(SandboxConfig()) as sandbox:
        lax = AzrJudge(AzrConfig(templates="tiny", banned=()), load_templates("tiny"), sandbox)
        assert judgement(lax, text, proposing()).note == {"rejected": "not_deterministic"}


def test_a_response_without_blocks_is_no_proposal(judge: AzrJudge) -> None:
    assert judgement(judge, "def f(x): return x", proposing()).note == {"rejected": "format"}


def test_induction_takes_inputs_for_the_given_program(judge: AzrJudge) -> None:
    task = proposing("induction")
    task = replace(task, problem=replace(task.problem, extra={"program": SQUARES.program}))
    finding = judgement(judge, inputs_and_message("1", "2", "3", "4", "5", message="squares"), task)
    assert finding.verdict is Verdict.CORRECT
    assert Exercise.from_json(finding.note) == SQUARES
    assert judgement(judge, inputs_and_message("1", "'a'"), task).note == {"rejected": "failed"}
    assert judgement(judge, inputs_and_message("1", "1"), task).note == {"rejected": "few_inputs"}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("6", True),
        (" 6 ", True),
        ("6.0", True),
        ("3 + 3", False),
        ("(6)", True),
        ("6, 6", False),
        ("7", False),
        ("[6", False),
    ],
)
def test_deduction_compares_values(judge: AzrJudge, answer: str, right: bool) -> None:
    finding = judgement(judge, block("output", answer), solving("deduction", DOUBLE))
    assert finding == Finding(Verdict.CORRECT if right else Verdict.WRONG)


def test_deduction_of_tuples_sets_and_texts(judge: AzrJudge) -> None:
    for output, answers in {"(1, 2)": ["1, 2", "(1,2)"], "{1, 2}": ["{2, 1}"], "'ab'": ['"ab"', "'a' 'b'"]}.items():
        task = solving("deduction", Exercise("def f(x): return ...", ("1",), (output,)))
        for answer in answers:
            assert judgement(judge, block("output", answer), task).verdict is Verdict.CORRECT


@pytest.mark.parametrize(
    ("answer", "right"), [("3", True), ("-3", True), ("-3.0", True), ("9", False), ("", False), ("x", False)]
)
def test_abduction_accepts_any_input_that_gives_the_output(judge: AzrJudge, answer: str, right: bool) -> None:
    square = Exercise("def f(x): return x * x", ("3",), ("9",))
    finding = judgement(judge, block("input", answer), solving("abduction", square))
    assert finding.verdict is (Verdict.CORRECT if right else Verdict.WRONG)
    assert (finding.note == NO_ANSWER) == (answer == "")


def test_an_input_that_makes_the_program_hang_or_fall_is_wrong(judge: AzrJudge) -> None:
    program = "def f(x):\n    while x > 10: pass\n    return 8 // x"
    task = solving("abduction", Exercise(program, ("2",), ("4",)))
    asked = [(block("input", answer), task) for answer in ("11", "0", "2")]
    verdicts = [finding.verdict for finding in findings(judge, asked)]
    assert verdicts == [Verdict.WRONG, Verdict.WRONG, Verdict.CORRECT]


def test_induction_is_tried_on_the_hidden_half_alone(judge: AzrJudge) -> None:
    task = solving("induction", SQUARES)
    answers = {
        "def f(n): return n ** 2": True,
        "import math\ndef f(n): return math.prod([n, n])": True,
        "def f(n): return {1: 1, 2: 4, 3: 9}[n]": False,  # knows the half that was shown
        "def f(n): return {4: 16, 5: 25}[n]": True,  # and this is right on the other
        "def f(n): return 16": False,
        "def g(n): return n * n": False,
        "import random\ndef f(n): return n * n": False,
        "def f(n": False,
        "x": False,
    }
    said = findings(judge, [(block("python", program), task) for program in answers])
    assert [finding.verdict is Verdict.CORRECT for finding in said] == list(answers.values())
    assert all(finding.note is None for finding in said)


@pytest.mark.parametrize("name", ["deduction", "abduction", "induction"])
def test_an_answer_in_another_form_is_none(judge: AzrJudge, name: str) -> None:
    task = solving(name, SQUARES)
    for text in ("6", "```\n6\n```", block("text", "6"), ""):
        assert judgement(judge, text, task) == Finding(Verdict.WRONG, NO_ANSWER)


def test_a_program_that_lies_about_equality_fools_nobody(judge: AzrJudge) -> None:
    liar = "class L(int):\n    def __eq__(self, other): return True\ndef f(n): return L(0)"
    assert judgement(judge, block("python", liar), solving("induction", SQUARES)).verdict is Verdict.WRONG


def test_what_the_sandbox_lost_is_not_judged() -> None:
    lost, fine = Outcome(Status.LOST), Outcome(Status.OK, (6,))
    assert judged(lost, [6]).verdict is Verdict.UNVERIFIED
    for pair in ((lost, fine), (fine, lost)):
        finding = proposed(Proposal(DOUBLE.program, ("3",)), pair, 400)
        assert finding == Finding(Verdict.UNVERIFIED, {"rejected": "lost"})


def test_where_programs_are_not_isolated_the_judge_does_not_open(tmp_path, monkeypatch) -> None:
    from fastsvs.config import DataConfig, RunConfig, TrainedModelConfig, TrainJob

    bare = Walls(filter=False, network=False, processes=False, files=False)
    monkeypatch.setattr(Sandbox, "_greet", lambda sandbox, greeting: setattr(sandbox, "_walls", bare))
    job = TrainJob(model=TrainedModelConfig(path="m"), data=DataConfig(path="none"), run=RunConfig(dir=str(tmp_path)))
    with pytest.raises(UserError, match="would not be isolated"), JUDGES.get("azr")(job):
        pass
    allowed = job.model_copy(update={"sandbox": SandboxConfig(allow_unisolated=True)})
    with JUDGES.get("azr")(allowed) as opened:
        assert opened.facts[0].startswith("programs run behind: limits")
        assert "this system does not give: system calls" in opened.facts[0]
