"""`fastsvs self` through the command line: rounds, what they leave, killed and repeated, refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from forking import Run
from whole_runs import ROOT

from fastsvs.cli import main
from fastsvs.commands import self_improve
from fastsvs.config import ModelConfig
from fastsvs.data import tiny
from fastsvs.errors import UserError
from fastsvs.files import read_jsonl, write_jsonl

SMALL_SELF = [
    "self",
    "configs/tiny_self.yaml",
    "model.path=models/tiny",
    "evolution.approval='[0-9]'",  # that model comments at random
    "evolution.rounds=2",
    "data.limit=6",
    "rollout.samples_per_prompt=2",
    "policy.optimizer.warmup_steps=0",
    "run.steps=3",
    "run.prompts_per_step=4",
    "run.save_every=1",
]


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("replay") / "skills.jsonl"
    dialogues = tiny.dialogues("tiny:skills", 20)
    write_jsonl(path, [{"messages": list(dialogue.messages)} for dialogue in dialogues])
    return f"evolution.replay={path}"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, replay: str) -> Path:
    run = tmp_path_factory.mktemp("self") / "run"
    assert main([*SMALL_SELF, replay, f"run.dir={run}"]) == 0
    return run


def weights(run: Path, number: int) -> bytes:
    return (run / f"round_{number}" / "model" / "model.safetensors").read_bytes()


def test_each_round_learns_what_it_approved_of_and_some_of_what_it_knew(alone: Path) -> None:
    rows = read_jsonl(alone / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        folder = alone / f"round_{row['step']}"
        chains = read_jsonl(folder / "chains.jsonl")
        kept = [chain for chain in chains if chain["fate"] == "kept"]
        assert len(chains) == 12
        assert len(kept) == row["kept"] > 0
        dialogues = [dialogue["messages"] for dialogue in read_jsonl(folder / "dialogues.jsonl")]
        assert [[message["content"] for message in messages] for messages in dialogues[: len(kept)]] == [
            [chain["question"], chain["refinement"]] for chain in kept
        ]
        assert len(dialogues) - len(kept) == row["replayed"] == len(kept)
        assert [step["step"] for step in read_jsonl(folder / "sft" / "metrics.jsonl")] == [1, 2, 3]
    assert (
        len({(ROOT / "models" / "tiny" / "model.safetensors").read_bytes(), weights(alone, 1), weights(alone, 2)}) == 3
    )


def test_a_round_begins_with_the_model_of_the_one_before(alone: Path) -> None:
    config = (alone / "round_2" / "sft" / "config.yaml").read_text()
    assert f"path: {alone}/round_1/model" in config
    first, second = (read_jsonl(alone / f"round_{n}" / "chains.jsonl") for n in (1, 2))
    assert [chain["question"] for chain in first] == [chain["question"] for chain in second]
    assert [chain["response"] for chain in first] != [chain["response"] for chain in second]


def test_killed_in_both_halves_of_a_round_it_comes_to_the_same(alone: Path, replay: str, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    for landmark in ("round_1/sft/checkpoints", "round_2/.nothing"):
        process = Run(*SMALL_SELF, replay, f"run.dir={run}")
        while process.poll() is None and not (run / landmark).exists() and len(read_jsonl(run / "metrics.jsonl")) < 1:
            time.sleep(0.02)
        process.kill()
        process.wait()
    assert len(read_jsonl(run / "metrics.jsonl")) < 2
    assert main([*SMALL_SELF, replay, f"run.dir={run}"]) == 0
    assert [weights(run, number) for number in (1, 2)] == [weights(alone, number) for number in (1, 2)]
    for number in (1, 2):
        assert read_jsonl(run / f"round_{number}" / "chains.jsonl") == read_jsonl(
            alone / f"round_{number}/chains.jsonl"
        )


def test_repeated_it_does_nothing_and_further_rounds_are_added(alone: Path, replay: str, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in alone.glob("round_*/**/*") if path.is_file()}
    assert main([*SMALL_SELF, replay, f"run.dir={alone}"]) == 0
    assert {path: path.stat().st_mtime_ns for path in alone.glob("round_*/**/*") if path.is_file()} == before
    assert f"done: {alone}/round_2/model" in capsys.readouterr().out
    assert main([*SMALL_SELF, replay, f"run.dir={alone}", "data.limit=5"]) == 2
    assert "data.limit: 6 -> 5" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_of_which_one_drives_the_engine_play_as_one(
    alone: Path, fastsvs, replay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    short = ["evolution.rounds=1", "run.steps=1", "rollout.engine=remote_engine:MainRankEngine"]
    result = fastsvs(*SMALL_SELF, replay, *short, f"run.dir={tmp_path}/two", processes=2)
    assert result.returncode == 0, result.stderr
    assert read_jsonl(tmp_path / "two" / "round_1" / "chains.jsonl") == read_jsonl(alone / "round_1" / "chains.jsonl")
    assert json.loads((tmp_path / "two" / "round_1" / "model" / "config.json").read_text())["vocab_size"] == 576


def test_a_rounds_model_can_be_evaluated_and_the_run_says_which(alone: Path, tmp_path: Path, capsys) -> None:
    evaluation = ["eval", "configs/tiny_eval.yaml", "sets.heldout.data.limit=2", f"output={tmp_path}/out"]
    assert main([*evaluation, f"model.path={alone}"]) == 2
    assert f"name a round's model, as {alone}/round_1/model" in capsys.readouterr().err
    assert main([*evaluation, f"model.path={alone}/round_1/model"]) == 0


def test_a_model_that_approves_of_nothing_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    never = ["evolution.approval=NEVER", "evolution.replay=null", "data.limit=2"]
    assert main([*SMALL_SELF, *never, f"run.dir={tmp_path}/run"]) == 2
    assert "0 kept, 4 disapproved" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evolution.max_example_tokens=5000", "is over policy.tokens_per_micro_batch (4096)"),
        ("evolution.feedback_template=nowhere.txt", "evolution.feedback_template: nowhere.txt cannot be read"),
        ("rollout.placement=dedicated", "fastsvs self starts servers of its own"),
        ("evolution.approval=(", "evolution.approval"),
    ],
)
def test_what_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str) -> None:
    assert main([*SMALL_SELF, "evolution.replay=null", override, f"run.dir={tmp_path}/run"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_counters_that_a_hand_has_edited_are_named(tmp_path: Path) -> None:
    """They are there, so that the round is not played again: neither job nor inputs are looked at."""
    this = self_improve.Round(1, ModelConfig(path="models/tiny"), tmp_path)
    this.counters.write_text('{"kept": 3')
    with pytest.raises(UserError, match=r"counters\.json: not JSON"):
        self_improve.play(None, this, None)  # type: ignore[arg-type]
