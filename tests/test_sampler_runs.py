"""Whole runs of CoVo and of the samplers: what they change is recorded, and a run that was cut off draws the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from whole_runs import SMALL

from bench.kills.jobs import record
from fastsvs.cli import main
from fastsvs.files import read_jsonl
from fastsvs.selfplay import Draw, ShuffledEpochs

pytestmark = pytest.mark.usefixtures("at_root")

RLVR = ["train", "configs/tiny_rlvr.yaml", *SMALL, "evaluation.path=null", "dynamics.every=0"]


def samples(run: Path, step: int) -> list[dict]:
    return read_jsonl(run / "samples" / f"step_{step}.jsonl")


def test_covo_rewards_the_answers_that_the_way_leads_to(tmp_path: Path) -> None:
    run = tmp_path / "covo"
    assert main([*RLVR, "algorithm.reward=covo", 'algorithm.covo.lead_in=""', "run.steps=2", f"run.dir={run}"]) == 0
    metrics = read_jsonl(run / "metrics.jsonl")
    assert all(row["credit/covo_rows"] > 0 and row["policy/updates"] == 1 for row in metrics)
    assert all(0 < row["credit/covo_consistency"] < 1 for row in metrics)
    for row in samples(run, 1):
        of_answer: dict[str, set[float]] = {}
        for text, reward in zip(row["responses"], row["rewards"], strict=True):
            of_answer.setdefault(text.rpartition("\\boxed{")[2].partition("}")[0], set()).add(reward)
        assert all(len(rewards) == 1 for rewards in of_answer.values()), "an answer has one reward"
        assert all(0 <= reward <= 1 for rewards in of_answer.values() for reward in rewards)


@pytest.mark.parametrize(
    ("stage", "method"),
    [
        ("svs", ["sampler.name=threshold_clipping", "sampler.most_correct=1"]),
        ("none", ["sampler.name=repeat_padding", "sampler.padded_correct=6"]),
    ],
    ids=["threshold_clipping", "repeat_padding"],
)
def test_a_run_reshapes_what_it_learns_from(tmp_path: Path, stage: str, method: list[str]) -> None:
    run = tmp_path / "run"
    assert main([*RLVR, f"selfplay.stage={stage}", *method, "run.steps=2", f"run.dir={run}"]) == 0
    for metrics in read_jsonl(run / "metrics.jsonl"):
        rows = {row["key"]: row for row in samples(run, metrics["step"])}
        trained = [row for row in rows.values() if row["trained"] and row["kind"] == "original"]
        assert metrics["kept_samples/original"] == sum(len(row["responses"]) for row in trained)
        for row in trained:
            assert row["verdicts"].count("correct") == (1 if stage == "svs" else 6)
        for row in rows.values():
            if row["kind"] == "synthesis":
                parent = rows[row["parent"]]
                assert parent["verdicts"][row["parent_sample"]] == "correct", "children know their parents"
        if stage == "svs":
            clipped = [row for key, row in rows.items() if key.endswith("/clipped")]
            assert metrics["sampler/clipped"] == sum(len(row["responses"]) for row in clipped) > 0
            assert not any(row["trained"] for row in clipped)
        else:
            assert metrics["sampler/repeated"] > 0


@pytest.mark.parametrize("name", ["adaptive_resampling", "guided_resampling", "consensus_curriculum"])
def test_a_run_that_was_cut_off_draws_the_same_problems(tmp_path: Path, name: str) -> None:
    reward = "majority" if name == "consensus_curriculum" else "verified"
    sizes = ["data.limit=12", "run.keep_checkpoints=9", f"sampler.name={name}", f"algorithm.reward={reward}"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*RLVR, *sizes, f"run.dir={whole}"]) == 0
    metrics = read_jsonl(whole / "metrics.jsonl")
    shutil.copytree(whole, cut)
    (cut / "summary.json").unlink()
    shutil.rmtree(cut / "checkpoints" / "step_00000003")
    assert main([*RLVR, *sizes, f"run.dir={cut}"]) == 0
    assert record(whole) == record(cut)
    assert samples(whole, 3) == samples(cut, 3)
    if name == "adaptive_resampling":
        assert metrics[0]["sampler/samples_least"] == metrics[0]["sampler/samples_most"]
        assert metrics[2]["sampler/samples_least"] < metrics[2]["sampler/samples_most"]
        assert {row["samples/original"] for row in metrics} == {32}
    elif name == "guided_resampling":
        assert metrics[0]["sampler/guided"] == 0 < metrics[2]["sampler/guided"]
        assert metrics[2]["sampler/guided_solved"] > 0
    else:
        assert [row["policy/updates"] for row in metrics] == [0, 0, 1]
        assert [row["sampler/surveyed"] > 0 for row in metrics] == [True, True, False]
        asked = [{row["problem"] for row in samples(whole, step)} for step in (1, 2, 3)]
        assert len(asked[0]) + len(asked[1]) == len(asked[0] | asked[1]) == 12
        assert len(asked[2]) == 4


@pytest.mark.parametrize("stage", ["none", "svs"])
def test_a_run_that_refills_learns_from_more_and_goes_on_alike(tmp_path: Path, stage: str) -> None:
    options = [f"selfplay.stage={stage}", "run.keep_checkpoints=9"]
    plain, whole, cut = tmp_path / "plain", tmp_path / "whole", tmp_path / "cut"
    assert main([*RLVR, *options, "run.steps=1", f"run.dir={plain}"]) == 0
    assert main([*RLVR, *options, "sampler.refills=2", f"run.dir={whole}"]) == 0
    rows = read_jsonl(whole / "metrics.jsonl")
    for row in rows:
        roots = row["groups/original"] - row["refill/asked"]
        assert roots == 8
        assert row["kept_groups/original"] == roots - row["refill/given_up"]
        asked = [group for group in samples(whole, row["step"]) if group["kind"] == "original"]
        assert len({group["problem"] for group in asked}) == len(asked)
    first = {row["key"]: row for row in samples(plain, 1)}
    assert [row for row in samples(whole, 1) if row["key"] in first] == [*first.values()]
    [alone] = read_jsonl(plain / "metrics.jsonl")
    assert rows[0]["kept_groups/original"] == alone["kept_groups/original"] + rows[0]["refill/informative"]
    assert rows[0]["refill/informative"] > 0
    shutil.copytree(whole, cut)
    (cut / "summary.json").unlink()
    shutil.rmtree(cut / "checkpoints" / "step_00000003")
    assert main([*RLVR, *options, "sampler.refills=2", f"run.dir={cut}"]) == 0
    assert record(whole) == record(cut)
    assert samples(whole, 3) == samples(cut, 3)


class Loquacious(ShuffledEpochs):
    """Begins every response with more than a response may have."""

    def draw(self, step: int) -> list[Draw]:
        return [Draw(draw.index, draw.samples, prefix="word " * 200) for draw in super().draw(step)]


def test_a_beginning_that_leaves_no_room_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RLVR, f"sampler.name={__name__}:Loquacious", f"run.dir={tmp_path}/run"]) == 2
    assert "which leaves none of rollout.max_response_tokens (96)" in capsys.readouterr().err
