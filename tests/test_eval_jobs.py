"""`fastsvs eval` through the command line: models of every kind, several sets, killed, repeated, refused."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from whole_runs import ROOT, SMALL, assert_tokens_of_answers, command, environment

from fastsvs.cli import main
from fastsvs.config import EvalJob, load
from fastsvs.data import Problem, load_problems
from fastsvs.files import read_jsonl
from fastsvs.token_rows import is_chosen

SHARED = ROOT.parent / "shared" / "data" / "eval"
SMALL_SET = ["sets.heldout.samples=4", "sets.heldout.k=[1,4]", "sets.heldout.data.limit=12"]
EVAL = ["eval", "configs/tiny_eval.yaml", *SMALL_SET, "token_share=0.5"]
KINDS = ("samples", "tokens")
FILES = {
    "gsm8k": ("gsm8k.jsonl", 1319),
    "math500": ("math500.jsonl", 500),
    "amc23": ("amc23.jsonl", 40),
    "aime24": ("aime24.jsonl", 30),
    "aime25": ("aime25.jsonl", 30),
    "beyond_aime": ("BeyondAIME.jsonl", 100),
    "math24o": ("math24o.jsonl", 21),
    "olymmath_easy": ("OlymMATH-EN-EASY.jsonl", 100),
    "olymmath_hard": ("OlymMATH-EN-HARD.jsonl", 100),
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that nothing disturbed."""
    output = tmp_path_factory.mktemp("eval") / "alone"
    assert main([*EVAL, f"output={output}"]) == 0
    return output


def test_it_leaves_figures_and_every_response(alone: Path) -> None:
    result = json.loads((alone / "heldout.json").read_text())
    rows = read_jsonl(alone / "heldout.samples.jsonl")
    assert (result["problems"], result["samples_per_problem"], len(rows)) == (12, 4, 12)
    assert result["pass@1"]["mean"] == sum(row["verdicts"].count("correct") for row in rows) / 48
    assert {"pass@4", "maj@4", "entropy_estimate", "truncated", "unverified", "response_tokens"} <= result.keys()
    summary = json.loads((alone / "summary.json").read_text())
    assert summary == {"model": "models/tiny", "step": 0, "sets": {"heldout": result}}
    assert [path.name for path in alone.iterdir() if path.name.startswith(".")] == [".lock"]


def test_it_keeps_the_tokens_of_a_share_of_the_problems(alone: Path, tmp_path: Path) -> None:
    rows, tokens = ({row["key"]: row for row in read_jsonl(alone / f"heldout.{kind}.jsonl")} for kind in KINDS)
    chosen = {key for key, row in rows.items() if is_chosen(Problem(row["id"], row["question"], ""), 0.5, seed=0)}
    assert 0 < len(chosen) < 12
    assert tokens.keys() == chosen
    assert_tokens_of_answers([tokens[key] for key in chosen], [rows[key] for key in chosen])
    few = [*EVAL, "sets.heldout.data.limit=2", f"output={tmp_path}/none", "token_share=0"]
    assert main(few) == 0
    assert not (tmp_path / "none" / "heldout.tokens.jsonl").exists()


def test_killed_and_repeated_it_comes_to_the_same(alone: Path, tmp_path: Path) -> None:
    output = tmp_path / "killed"
    samples = output / "heldout.samples.jsonl"
    arguments = command(*EVAL, f"output={output}", "rollout.max_sequences=4")  # one problem at a time
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    while process.poll() is None and len(read_jsonl(samples)) < 3:
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = read_jsonl(samples)
    assert 3 <= len(done) < 12
    with open(samples, "a") as file:
        file.write('{"key": "half a li')
    with open(output / "heldout.tokens.jsonl", "a") as file:  # of a problem that was not written behind it
        file.write(json.dumps({"key": "000011"}) + '\n{"key": "half a li')
    assert main([*EVAL, f"output={output}"]) == 0
    rows = read_jsonl(samples)
    assert rows[: len(done)] == done
    assert len(rows) == 12
    for kind in KINDS:
        one, two = (read_jsonl(folder / f"heldout.{kind}.jsonl") for folder in (alone, output))
        assert sorted(one, key=lambda row: row["key"]) == sorted(two, key=lambda row: row["key"])


def test_repeated_when_done_it_only_reads(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in alone.glob("*.json*")}
    assert main([*EVAL, f"output={alone}", "--compare", "paper"]) == 0
    assert {path.name: path.read_bytes() for path in alone.glob("*.json*")} == before
    shown = capsys.readouterr().out
    assert "nothing to compare" in shown
    assert "heldout: problem" not in shown


def test_two_processes_answer_what_one_does(alone: Path, fastsvs, tmp_path: Path) -> None:
    result = fastsvs(*EVAL, f"output={tmp_path}/two", processes=2)
    assert result.returncode == 0, result.stderr
    one, two = (
        sorted(read_jsonl(o / "heldout.samples.jsonl"), key=lambda r: r["key"]) for o in (alone, tmp_path / "two")
    )
    assert [row["responses"] for row in one] == [row["responses"] for row in two]


def test_several_sets_and_some_of_them(tmp_path: Path) -> None:
    for name, limit in (("easy", 3), ("hard", 2)):
        (tmp_path / f"{name}.yaml").write_text(
            f"sets:\n  {name}:\n    samples: 2\n    k: [1, 2]\n"
            f"    data: {{path: 'tiny:heldout', suffix: '', max_prompt_tokens: 128, limit: {limit}}}\n"
        )
    both = tmp_path / "both.yaml"
    both.write_text(
        f"extends: [easy.yaml, hard.yaml]\nmodel: {{path: {ROOT}/models/tiny}}\nrollout: {{max_response_tokens: 96}}\n"
        f"output: {tmp_path}/out\n"
    )
    assert main(["eval", str(both), "suites=[hard]"]) == 0
    assert not (tmp_path / "out" / "easy.json").exists()
    assert main(["eval", str(both)]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {name: result["problems"] for name, result in summary["sets"].items()} == {"easy": 3, "hard": 2}


def test_runs_and_checkpoints(tmp_path: Path, launched) -> None:
    """Of a run on two tensor-parallel ranks under torchrun, by one process."""
    run = tmp_path / "run"
    layout = ["policy.tensor_parallel=2", "evaluation.path=null", "run.steps=2"]
    result = launched("train", "configs/tiny_rlvr.yaml", *SMALL, *layout, f"run.dir={run}", processes=2)
    assert result.returncode == 0, result.stderr
    for model, step in ((run, 2), (run / "checkpoints" / "step_00000001", 1)):
        assert main([*EVAL, f"model.path={model}", f"output={tmp_path}/step{step}"]) == 0
        assert json.loads((tmp_path / f"step{step}" / "summary.json").read_text())["step"] == step
    assert main([*EVAL, f"model.path={run}/checkpoints/step_00000001", f"output={tmp_path}/step2"]) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sets.heldout.temperature=0.5", "sets.heldout.temperature: 1.0 -> 0.5"),
        ("seed=1", "seed: 0 -> 1"),
        ("model.path=models/other", "models/other"),
        ("suites=[held]", "there is no set 'held' (sets: heldout); did you mean 'heldout'?"),
        ("sets.heldout.tempreature=1", "sets.heldout.tempreature: unknown key; did you mean 'temperature'?"),
        ("rollout.placement=dedicated", "an evaluation starts servers of its own"),
    ],
)
def test_what_it_refuses(alone: Path, capsys: pytest.CaptureFixture[str], override: str, message: str) -> None:
    before = {path.name: path.read_bytes() for path in alone.iterdir()}
    assert main([*EVAL, f"output={alone}", override]) == 2
    assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in alone.iterdir()} == before


def test_two_processes_do_not_write_into_one_folder(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holder = "import sys, time; from pathlib import Path; from fastsvs.files import lock\n"
    holder += "file = lock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", holder, str(alone)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"locked\n"
    assert main([*EVAL, f"output={alone}"]) == 2
    assert f"another process is at work in {alone}" in capsys.readouterr().err
    process.kill()
    process.wait()
    assert main([*EVAL, f"output={alone}"]) == 0


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main([*EVAL, f"output={tmp_path}"]) == 2
    assert "holds files but no evaluation" in capsys.readouterr().err


def test_killed_at_its_start_it_may_begin_again(alone: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    assert main([*EVAL, f"output={tmp_path}"]) == 0
    assert (tmp_path / "heldout.json").read_bytes() == (alone / "heldout.json").read_bytes()


def test_the_papers_sets_load_from_local_files() -> None:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    overrides = [f"sets.{name}.data.path={SHARED / file}" for name, (file, _) in FILES.items()]
    job = load(EvalJob, ROOT / "configs" / "eval" / "paper.yaml", overrides)
    assert set(FILES) < set(job.sets)
    for name, (_, count) in FILES.items():
        problems, _ = load_problems(job.sets[name].data)
        assert len(problems) == count, name
        assert job.sets[name].top_p == 0.7
        assert "Let's think step by step" in job.sets[name].data.suffix
