"""Whole runs with a budget of self-play: what is stopped is the beginning of what would have been, and runs go on
alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from whole_runs import ROOT, SMALL

from bench.kills.jobs import record
from fastsvs.cli import main
from fastsvs.files import read_jsonl

pytestmark = pytest.mark.usefixtures("at_root")

SVS = ("train", "configs/tiny_svs.yaml", *SMALL, "evaluation.path=null", "dynamics.every=0", "run.keep_checkpoints=9")
BUDGET = (
    *("selfplay.budget.first_samples=2", "selfplay.budget.chance=1", "selfplay.budget.context_chance=0.3"),
    "algorithm.old_logprobs=engine",
)


def budgets(run: Path) -> list[dict]:
    return [{name: v for name, v in row.items() if name.startswith("budget/")} for row in record(run)]


def samples(run: Path, step: int) -> list[dict]:
    return read_jsonl(run / "samples" / f"step_{step}.jsonl")


def check_accounts(run: Path) -> None:
    left = 0
    for row in budgets(run):
        left += row["budget/saved"] - row["budget/spent"]
        assert row["budget/left"] == left


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps with a budget, in this process, on the local engine."""
    folder = tmp_path_factory.mktemp("budget") / "whole"
    with pytest.MonkeyPatch.context() as context:
        context.chdir(ROOT)
        assert main([*SVS, *BUDGET, "run.steps=4", f"run.dir={folder}"]) == 0
    return folder


def test_the_first_step_asks_the_beginning_of_what_a_plain_one_asks(whole: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    assert main([*SVS, "algorithm.old_logprobs=engine", "run.steps=1", f"run.dir={plain}"]) == 0
    stopped, would_be = 0, {row["key"]: row for row in samples(plain, 1)}
    assert {row["key"] for row in samples(whole, 1)} == would_be.keys()
    for row in samples(whole, 1):
        full = would_be[row["key"]]
        asked = len(row["responses"])
        assert row["responses"] == full["responses"][:asked]
        assert row["verdicts"] == full["verdicts"][:asked]
        if asked < len(full["responses"]):
            stopped += 1
            assert (row["kind"], asked, row["trained"]) == ("variant", 2, False)
    first = budgets(whole)[0]
    assert first == {
        "budget/stopped": stopped,
        "budget/saved": 2 * stopped,
        "budget/contexts": 0,
        "budget/spent": 0,
        "budget/left": 2 * stopped,
    }
    assert stopped > 3


def test_later_steps_spend_what_earlier_ones_saved(whole: Path) -> None:
    check_accounts(whole)
    taken = 0
    for step, row in enumerate(budgets(whole), start=1):
        groups = {group["key"]: group for group in samples(whole, step)}
        further = [
            group
            for group in groups.values()
            if group["kind"] == "synthesis" and groups[group["parent"]]["verdicts"].count("correct") > 2
        ]
        assert row["budget/contexts"] == len(further)
        taken += len(further)
    assert taken > 0


def test_a_run_that_was_cut_off_goes_on_with_its_savings(whole: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    (cut / "summary.json").unlink()
    for step in (3, 4):
        shutil.rmtree(cut / "checkpoints" / f"step_0000000{step}")
    assert main([*SVS, *BUDGET, "run.steps=4", f"run.dir={cut}"]) == 0
    assert record(cut) == record(whole)
    assert [samples(cut, step) for step in (3, 4)] == [samples(whole, step) for step in (3, 4)]


def test_savings_that_a_checkpoint_does_not_hold_are_refused(whole: Path, tmp_path: Path, capsys) -> None:
    spoiled = tmp_path / "spoiled"
    shutil.copytree(whole, spoiled)
    (spoiled / "summary.json").unlink()
    shutil.rmtree(spoiled / "checkpoints" / "step_00000004")
    [manifest] = (spoiled / "checkpoints" / "step_00000003").glob("*.json")
    content = json.loads(manifest.read_text())
    assert content["state"]["plugins"]["budget"]["samples"] == budgets(whole)[2]["budget/left"]
    content["state"]["plugins"]["budget"]["samples"] = "many"
    manifest.write_text(json.dumps(content))
    assert main([*SVS, *BUDGET, "run.steps=4", f"run.dir={spoiled}"]) == 2
    assert "for the budget what it did not write" in " ".join(capsys.readouterr().err.split())


def test_waves_and_an_engine_of_the_main_rank_play_the_same(
    whole: Path, fastsvs: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["train.waves=3", "rollout.engine=remote_engine:MainRankEngine", "sampler.refills=1"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(Path(__file__).parent))
        result = fastsvs(*SVS, *BUDGET, "run.steps=1", *options, f"run.dir={run}")
    assert result.returncode == 0, result.stderr
    rows = {row["key"]: row for row in samples(run, 1)}
    for row in samples(whole, 1):
        assert rows[row["key"]] == row
    check_accounts(run)


def test_ranks_that_stand_by_and_steps_ahead_keep_one_account(
    fastsvs: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["train.staleness=1", "rollout.engine=remote_engine:MainRankEngine", "run.steps=4"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(Path(__file__).parent))
        result = fastsvs(*SVS, *BUDGET, *options, f"run.dir={run}", processes=2)
    assert result.returncode == 0, result.stderr
    check_accounts(run)
    rows = budgets(run)
    assert [row["budget/contexts"] for row in rows[:2]] == [0, 0]  # the second begins before the first is settled
    assert all(row["budget/saved"] > 0 for row in rows)
