"""The frame of the whole-run benchmark: what it keeps, what it leaves out, and how it reads a run."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import report
from bench.report import Row
from bench.whole_run import learns, runs, works
from bench.whole_run.cases import FAILED, Case, Place, measure
from bench.whole_run.greedy import common
from bench.whole_run.runs import TrainingRun
from fastsvs.errors import UserError
from fastsvs.files import write_json, write_jsonl

TOKENS = st.lists(st.integers(0, 2), max_size=6)


def place(folder: Path) -> Place:
    return Place("smoke", "models/tiny", folder / "work", folder / "out")


def written(folder: Path) -> list[Row]:
    [file] = (folder / "out").iterdir()
    return list(report.read(file))


def test_a_case_that_fails_is_a_row_and_the_next_goes_on(tmp_path: Path) -> None:
    def fails(folder: Path):
        yield Row("bad", "fastsvs", "begun", 1.0, "count")
        raise UserError("no such thing")

    good = Case("part/good", lambda folder: [Row("good", "fastsvs", "seconds", 2.0, "s")])
    assert measure("part", [Case("part/bad", fails), good], place(tmp_path), 60) == ["part/bad"]
    begun, failed, after = written(tmp_path)
    assert (begun.metric, after.case) == ("begun", "good")
    assert (failed.case, failed.metric, failed.note) == ("part/bad", FAILED, "UserError: no such thing")


def test_what_was_measured_before_the_end_is_kept(tmp_path: Path) -> None:
    def ended(folder: Path):
        yield Row("first", "fastsvs", "seconds", 1.0, "s")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure("part", [Case("part/a", ended)], place(tmp_path), 60)
    assert [row.case for row in written(tmp_path)] == ["first"]


def test_no_case_starts_after_the_limit(tmp_path: Path, capsys) -> None:
    assert measure("part", [Case("part/late", lambda folder: [])], place(tmp_path), -1) == []
    assert "part/late: left out" in capsys.readouterr().out


def test_a_row_is_a_line(tmp_path: Path) -> None:
    rows = [Row(str(i), "fastsvs", "seconds", float(i), "s") for i in range(3)]
    file = report.write("suite", rows, tmp_path)
    lines = file.read_text().splitlines()
    assert [json.loads(line.strip().rstrip(","))["case"] for line in lines if line.startswith("    {")] == list("012")
    assert report.read(file) == tuple(rows)


@given(TOKENS, TOKENS)
def test_the_common_beginning(one: list[int], other: list[int]) -> None:
    length = common(one, other)
    assert one[:length] == other[:length]
    assert one[length : length + 1] != other[length : length + 1] or length == len(one) == len(other)


@pytest.mark.parametrize("suite", ["h200", "smoke"])
@pytest.mark.parametrize("part", [works, learns])
def test_cases_have_names_of_their_own(part, suite: str, tmp_path: Path) -> None:
    names = [case.name for case in part.cases(Place(suite, "models/tiny", tmp_path, tmp_path))]
    assert len(set(names)) == len(names)
    assert all(name.startswith(part.__name__.rpartition(".")[2] + "/") for name in names)


def test_what_a_run_came_to(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    steps = [
        {
            "step": step,
            "policy/entropy": 0.5 - 0.1 * step,
            "time/step": 2.0,
            "time/rollout": 1.5,
            "time/update": 0.5,
            "throughput/response_tokens_per_second": 100.0,
            "throughput/trained_tokens_per_second": 50.0,
            "samples/original": 8,
            "samples/variant": 4,
        }
        for step in range(1, 5)
    ]
    write_jsonl(folder / "metrics.jsonl", steps)
    write_json(
        folder / "evaluations" / "step_0.json", {"pass@1": {"mean": 0.25, "low": 0.2, "high": 0.3}, "problems": 4}
    )
    found = {row.metric: row for row in learns.outcome(TrainingRun(folder, "x", []), partial(Row, "case", "SvS"))}
    assert found["pass@1 after 0 steps"].value == 0.25
    assert found["pass@1 after 0 steps"].note == "95% interval 0.2000 to 0.3000"
    assert found["entropy, first step"].value == pytest.approx(0.4)
    assert found["share of the step: rollout"].value == 0.75
    assert found["responses in a step"].value == 12
    assert "solve rate of variants, first step" not in found


def run_of(monkeypatch: pytest.MonkeyPatch, folder: Path, program: str) -> TrainingRun:
    """A run whose trainer is another program."""
    run = TrainingRun(folder / "run", "x", [])
    monkeypatch.setattr(run, "_words", [sys.executable, "-S", "-c", program])
    run.start()
    return run


def test_a_run_that_ends_early_says_why(tmp_path: Path, monkeypatch) -> None:
    run = run_of(monkeypatch, tmp_path, "import sys; print('out of luck'); sys.exit(3)")
    with pytest.raises(UserError, match=r"exit status 3.*out of luck"):
        run.wait_for(lambda: False, 60)
    with pytest.raises(UserError, match="exit status 3"):
        run.finish(60)


def test_a_killed_run_is_cleared_with_all_its_processes(tmp_path: Path, monkeypatch) -> None:
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', {!r}]); time.sleep(60)"
    run = run_of(monkeypatch, tmp_path, child.format("import time; time.sleep(60)"))
    run.wait_for(lambda: len(run.processes()) == 2, 60)
    run.kill()
    [left] = run.processes()
    monkeypatch.setattr(runs, "LOOK_SECONDS", 0.01)
    with pytest.raises(UserError, match="1 processes of run outlived their trainer"):
        run.clear(0.0)
    subprocess.run(["kill", "-9", str(left)], check=True)
    assert run.clear(60) >= 0
