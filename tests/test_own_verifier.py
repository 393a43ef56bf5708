"""A verifier of the user's own: the examples of docs/reward.md in whole jobs, and what each kind of value does."""

from __future__ import annotations

import json
import re
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_runs import ROOT, SMALL

from fastsvs.cli import main
from fastsvs.config import VerifierConfig
from fastsvs.data import Problem
from fastsvs.errors import UserError
from fastsvs.files import read_jsonl
from fastsvs.rollout import Rollout
from fastsvs.selfplay import ORIGINAL, Group, Task
from fastsvs.selfplay.stages import informative
from fastsvs.verify import Finding, Verdict, check_verifier, open_verifier

EXAMPLES = dict(
    re.findall(r"```python\n# (\w+)\.py\n(.*?)\n```", (ROOT / "docs" / "reward.md").read_text(), flags=re.DOTALL)
)
SCORES = """
import time
from fastsvs.verify import Verdict

def judge(response, problem):
    if response == "raise":
        raise ValueError("not today")
    if response == "loop":
        while True:
            pass
    return {"yes": True, "no": False, "half": 0.5, "one": 1, "unsure": Verdict.UNVERIFIED,
            "text": "fine", "two": 2, "nan": float("nan"), "row": problem.row.get("weight")}[response]

def narrow(response):
    return True
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with the examples, and with `scores`."""
    for name, text in {**EXAMPLES, "scores": SCORES}.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def asked(row: dict | None = None) -> Problem:
    return Problem(id="p", question="?", answer="7", row=row or {})


def test_each_kind_of_value(modules: Path) -> None:
    config = VerifierConfig(name="scores:judge", workers=2, timeout_seconds=1.0)
    with open_verifier(config) as verifier:
        assert verifier.facts == ["responses are judged by scores:judge in up to 2 processes a rank"]
        words = ["yes", "no", "half", "one", "unsure", "row", "raise", "loop"]
        found = [future.result() for future in verifier.submit([(word, asked({"weight": 0.25})) for word in words])]
        assert [(finding.verdict, finding.score) for finding in found] == [
            (Verdict.CORRECT, None),
            (Verdict.WRONG, None),
            (Verdict.WRONG, 0.5),
            (Verdict.CORRECT, 1.0),
            (Verdict.UNVERIFIED, None),
            (Verdict.WRONG, 0.25),
            (Verdict.UNVERIFIED, None),
            (Verdict.UNVERIFIED, None),
        ]
        assert found[6].note == {"error": "ValueError: not today"}
        for word in ("text", "two", "nan"):
            [future] = verifier.submit([(word, asked())])
            with pytest.raises(UserError, match=r"verifier 'scores:judge' returned .* for a response to problem 'p'"):
                future.result()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scores:nobody", "has no 'nobody'"),
        ("scores:narrow", "cannot be called with"),
        ("no_such_module:judge", "cannot be imported"),
        ("maths", "unknown verifier 'maths'"),
    ],
)
def test_what_cannot_be_called_is_refused_at_the_start(name: str, message: str, modules: Path, refuse) -> None:
    with pytest.raises(UserError, match=message):
        check_verifier(VerifierConfig(name=name))
    assert message in refuse("train", "configs/tiny_rlvr.yaml", *SMALL, f"verifier.name={name}")


@pytest.mark.parametrize("config", ["tiny_rlvr", "tiny_svs"])
def test_training_and_evaluation_go_by_the_example(config: str, modules: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    name = "verifier.name=my_reward:short_and_right"
    assert main(["train", f"configs/{config}.yaml", *SMALL, "run.steps=1", name, f"run.dir={run}"]) == 0
    rows = read_jsonl(run / "samples" / "step_1.jsonl")
    judged = [row for row in rows if row["kind"] != "synthesis"]
    assert judged
    for row in judged:
        assert row["rewards"] == row["scores"]
        assert set(row["scores"]) <= {0.0, 0.5, 1.0}
        assert [verdict == "correct" for verdict in row["verdicts"]] == [score == 1 for score in row["scores"]]
    assert any(0.5 in row["scores"] for row in judged)
    out = tmp_path / "evaluation"
    assert main(["eval", "configs/tiny_eval.yaml", "sets.heldout.data.limit=4", name, f"output={out}"]) == 0


def test_unit_tests_run_in_the_sandbox(modules: Path) -> None:
    problem = asked({"function": "add", "tests": [["1, 2", "3"], ["2, 2", "4"], ["'a', 'b'", "'ab'"], ["1, -1", "0"]]})
    programs = {
        "def add(a, b):\n    return a + b": 1.0,
        "def add(a, b):\n    return abs(a + b) if a != 2 else 5": 0.25,
        "def add(a, b):\n    open('/etc/passwd')": 0.0,
    }
    responses = [f"Here:\n```python\n{program}\n```" for program in programs]
    with open_verifier(VerifierConfig(name="my_tests:passed_tests", workers=1)) as verifier:
        found = [each.result() for each in verifier.submit([(response, problem) for response in [*responses, "none"]])]
    assert [finding.score for finding in found] == [*programs.values(), 0.0]


def group(findings: list[Finding]) -> Group:
    rollout = Rollout((1,), (0.0,), "stop", 0)
    scored = any(finding.score is not None for finding in findings)
    scores = tuple(finding.score or float(finding.verdict is Verdict.CORRECT) for finding in findings)
    task = Task("0", ORIGINAL, asked(), (1,), len(findings))
    verdicts = tuple(finding.verdict for finding in findings)
    return Group(task, (rollout,) * len(findings), ("",) * len(findings), verdicts, scores=scores if scored else ())


@given(st.lists(st.sampled_from(["correct", "wrong", "unverified"]), min_size=1, max_size=8))
def test_scores_of_0_and_1_are_verdicts(verdicts: list[str]) -> None:
    plain = group([Finding(Verdict(verdict)) for verdict in verdicts])
    scored = group([Finding(Verdict(v), score=None if v == "unverified" else float(v == "correct")) for v in verdicts])
    assert plain.accuracy == scored.accuracy
    assert informative(plain) == informative(scored)
    assert plain.marks() == scored.marks()


def test_a_mean_score_is_exact_and_leaves_out_what_could_not_be_verified() -> None:
    tenths = [Finding(Verdict.WRONG, score=score) for score in (0.1, 0.2, 0.3)]
    assert group([*tenths, Finding(Verdict.UNVERIFIED)]).accuracy == Fraction(1, 5)
    assert informative(group(tenths))
    assert not informative(group([Finding(Verdict.WRONG, score=0.5)] * 3))


def test_the_row_reaches_the_verifier_from_a_file(modules: Path, tmp_path: Path) -> None:
    data = tmp_path / "problems.jsonl"
    rows = [{"question": f"Is {n} odd?", "answer": str(n), "weight": 1.0 if n % 2 else 0.0} for n in range(8)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "weighs.py").write_text("def judge(response, problem):\n    return problem.row['weight']\n")
    run = tmp_path / "run"
    options = [f"data.path={data}", "evaluation.path=null", "verifier.name=weighs:judge", f"run.dir={run}"]
    assert main(["train", "configs/tiny_rlvr.yaml", *SMALL, *options, "data.limit=null", "run.steps=1"]) == 0
    for row in read_jsonl(run / "samples" / "step_1.jsonl"):
        assert set(row["rewards"]) == {float(int(row["answer"]) % 2)}
