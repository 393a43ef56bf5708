"""`fastsvs eval` with `verify`: the tiny model votes on its own responses, killed, repeated, and without room."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from forking import Run

from fastsvs.cli import main
from fastsvs.evaluate.gap import gap_figures
from fastsvs.files import read_jsonl

EVAL = ["eval", "configs/tiny_eval.yaml", "sets.heldout.samples=3", "sets.heldout.k=[1,3]", "sets.heldout.data.limit=6"]
VERIFY = ["sets.heldout.verify.samples=4", "sets.heldout.verify.template=configs/tiny_verification.txt"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("gap") / "alone"
    assert main([*EVAL, *VERIFY, f"output={output}"]) == 0
    return output


def by_key(output: Path) -> dict[str, dict]:
    return {row["key"]: row for row in read_jsonl(output / "heldout.samples.jsonl")}


def test_every_response_has_its_votes_and_the_figures_follow_from_them(
    alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = by_key(alone)
    assert [len(row["judgements"]) for row in rows.values()] == [3] * 6
    assert {len(votes) for row in rows.values() for votes in row["judgements"]} == {4}
    result = json.loads((alone / "heldout.json").read_text())
    ordered = [rows[key] for key in sorted(rows)]
    expected = gap_figures([([float(v == "correct") for v in r["verdicts"]], r["judgements"]) for r in ordered])
    for name, figure in expected.items():
        assert result[name] == (figure if isinstance(figure, float) else figure.as_dict())
    assert main([*EVAL, *VERIFY, f"output={alone}"]) == 0
    assert "relative_gap" in capsys.readouterr().out


def test_the_responses_are_those_of_an_evaluation_without_votes(alone: Path, tmp_path: Path) -> None:
    assert main([*EVAL, f"output={tmp_path}/plain"]) == 0
    plain = by_key(tmp_path / "plain")
    assert {key: row["responses"] for key, row in plain.items()} == {
        k: r["responses"] for k, r in by_key(alone).items()
    }
    assert not any("judgements" in row for row in plain.values())


def test_killed_and_repeated_it_comes_to_the_same(alone: Path, tmp_path: Path) -> None:
    output = tmp_path / "killed"
    samples = output / "heldout.samples.jsonl"
    process = Run(*EVAL, *VERIFY, f"output={output}", "rollout.max_sequences=4")
    while process.poll() is None and not read_jsonl(samples):
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert len(read_jsonl(samples)) < 6
    assert main([*EVAL, *VERIFY, f"output={output}"]) == 0
    said = ("responses", "judgements")
    assert {key: [row[part] for part in said] for key, row in by_key(output).items()} == {
        key: [row[part] for part in said] for key, row in by_key(alone).items()
    }


@pytest.mark.slow
def test_two_processes_vote_as_one(alone: Path, fastsvs, tmp_path: Path) -> None:
    result = fastsvs(*EVAL, *VERIFY, f"output={tmp_path}/two", processes=2)
    assert result.returncode == 0, result.stderr
    assert {k: r["judgements"] for k, r in by_key(tmp_path / "two").items()} == {
        k: r["judgements"] for k, r in by_key(alone).items()
    }


def test_what_is_too_long_to_be_asked_about_is_counted(tmp_path: Path) -> None:
    output = tmp_path / "short"
    assert main([*EVAL, *VERIFY, "sets.heldout.verify.max_prompt_tokens=60", f"output={output}"]) == 0
    asked = [bool(votes) for row in by_key(output).values() for votes in row["judgements"]]
    assert 0 < sum(asked) < len(asked)
    assert json.loads((output / "heldout.json").read_text())["unjudged"] == asked.count(False) / len(asked)


def test_a_template_without_places_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.txt").write_text("Is {response} right?")
    assert main([*EVAL, f"sets.heldout.verify.template={tmp_path}/bad.txt", f"output={tmp_path}/out"]) == 2
    assert "must contain {question}" in capsys.readouterr().err
