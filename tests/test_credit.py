"""What a step's batch is worth, between the experience and the update; and whole runs of the methods that decide it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from whole_runs import ROOT, SMALL

from bench.kills.jobs import record
from fastsvs.cli import main
from fastsvs.data.records import Problem
from fastsvs.files import read_jsonl
from fastsvs.rollout.engine import Rollout
from fastsvs.selfplay import ORIGINAL, Experience, Group, Task
from fastsvs.training.credit import Credited, unequal

pytestmark = pytest.mark.usefixtures("at_root")

RLVR = ["train", "configs/tiny_rlvr.yaml", *SMALL, "evaluation.path=null", "dynamics.every=0"]


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.0])), max_size=20))
def test_groups_with_equal_rewards_teach_nothing(samples):
    groups = torch.tensor([group for group, _ in samples], dtype=torch.int64)
    rewards = torch.tensor([reward for _, reward in samples])
    kept = unequal(rewards, groups)
    for (group, _), keeps in zip(samples, kept.tolist(), strict=True):
        assert keeps == (len({reward for other, reward in samples if other == group}) > 1)


def test_sample_log_and_counters_have_the_rewards_that_were_given():
    def group(key: str, samples: int) -> Group:
        task = Task(key, ORIGINAL, Problem(key, "q", "1"), (1,), samples)
        return Group(task, (Rollout((1,), (0.0,), "stop", 0),) * samples, ("",) * samples, rewards=(0.0,) * samples)

    counters = {"kept_samples/original": 5.0, "reward/original": 0.0, "contexts": 7}
    experience = Experience([group("a", 2), group("b", 1), group("c", 2)], counters, [group("d", 1)])
    credited = Credited(
        batch=None,  # type: ignore[arg-type]
        metrics={},
        rewards=torch.tensor([1.0, 2, 3, 4, 5]),
        kept=torch.tensor([True, True, False, True, True]),
    )
    recorded = credited.record(experience)
    assert [(g.task.key, g.rewards) for g in recorded.groups] == [("a", (1.0, 2.0)), ("c", (4.0, 5.0))]
    assert [(g.task.key, g.rewards) for g in recorded.discarded] == [("d", (0.0,)), ("b", (3.0,))]
    assert recorded.counters["kept_samples/original"] == 4
    assert recorded.counters["reward/original"] == 15 / 6
    assert recorded.counters["contexts"] == 7


def rows_of(run: Path, step: int) -> list[dict]:
    return read_jsonl(run / "samples" / f"step_{step}.jsonl")


@pytest.mark.parametrize("reward", ["majority", "self_certainty", "negative_entropy", "log_prob"])
def test_a_run_without_labels(tmp_path: Path, reward: str) -> None:
    run = tmp_path / reward
    assert main([*RLVR, f"algorithm.reward={reward}", "run.steps=2", f"run.dir={run}"]) == 0
    metrics = read_jsonl(run / "metrics.jsonl")
    rows = rows_of(run, 1)
    assert len(rows) == 8, "no group is left out for being all right or all wrong"
    assert all(row["trained"] == (len(set(row["rewards"])) > 1) for row in rows)
    trained = [reward for row in rows if row["trained"] for reward in row["rewards"]]
    assert metrics[0]["kept_samples/original"] == len(trained) > 0
    rewards = [reward for row in rows for reward in row["rewards"]]
    assert metrics[0]["reward/mean"] == pytest.approx(sum(rewards) / len(rewards), rel=1e-5)
    assert "solve_rate/original" in metrics[0], "what was right is still shown"
    if reward == "majority":
        assert {0.0, 1.0} == set(rewards)
        assert 0 < metrics[0]["credit/majority_share"] <= 1
    else:
        assert len(set(rewards)) > 8


@pytest.mark.parametrize("reward", ["verified", "majority"])
def test_long_answers_lose_reward_but_decide_on_no_group(tmp_path: Path, reward: str) -> None:
    """Samples, kept groups and the stage's rewards are those of a run without penalties; what is learned is not.

    The tiny model's answers to one problem are equally long, so they are compared over all problems.
    """
    runs = {}
    for buffer in (0, 96):
        run = tmp_path / f"{reward}_{buffer}"
        options = [f"algorithm.reward={reward}", f"algorithm.overlong_buffer={buffer}", "algorithm.advantage=trr"]
        assert main([*RLVR, *options, "run.steps=1", f"run.dir={run}"]) == 0
        runs[buffer] = (rows_of(run, 1), weights(run), read_jsonl(run / "metrics.jsonl")[0])
    (plain, before, _), (rows, after, metrics) = runs[0], runs[96]
    penalties = [row.pop("penalties") for row in rows]
    assert rows == plain
    assert penalties == [pytest.approx([-length / 96 for length in row["tokens"]]) for row in rows]
    samples = [penalty for group in penalties for penalty in group]
    assert metrics["overlong/original"] == len(samples) == 32
    assert metrics["overlong_penalty/original"] == pytest.approx(sum(samples) / len(samples))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_rewards_without_labels_refuse_a_stage_that_needs_them(tmp_path: Path, capsys) -> None:
    arguments = ["train", "configs/tiny_svs.yaml", "algorithm.reward=majority", f"run.dir={tmp_path}/run"]
    assert main(arguments) == 2
    assert "set selfplay.stage=none, or algorithm.reward=verified" in capsys.readouterr().err


def test_verl_cannot_shape_itself(tmp_path: Path, capsys) -> None:
    assert main([*RLVR, "algorithm.verl.base=verl", f"run.dir={tmp_path}/run"]) == 2
    assert "name another one, such as grpo" in capsys.readouterr().err


def weights(run: Path) -> dict[str, torch.Tensor]:
    (file,) = sorted((run / "checkpoints").iterdir())[-1].glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize(
    "method",
    [
        ["algorithm.advantage=verl", "algorithm.verl.stride=4", "algorithm.samples_per_update=16"],
        ["merging.hook=merge", "merging.every=2", "merging.weight=0.5", "merging.drop=0.2"],
    ],
    ids=["verl", "merging"],
)
def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path, method: list[str]) -> None:
    """The running means of VERL and the merge of a step come with the checkpoint."""
    arguments = [*RLVR, *method, "run.keep_checkpoints=9"]
    assert main([*arguments, f"run.dir={tmp_path}/whole"]) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step_00000003")
    assert main([*arguments, f"run.dir={tmp_path}/cut"]) == 0
    assert record(tmp_path / "whole") == record(tmp_path / "cut")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["tensor_parallel", "pipeline_parallel"])
def test_two_ranks_value_what_one_values(fastsvs, tmp_path: Path, layout: str) -> None:
    """Certainty and ranks come from hidden states that only the last stage has, over a vocabulary that is shared."""
    plugins = ["algorithm.reward=self_certainty", "algorithm.advantage=verl", "algorithm.verl.stride=4"]
    arguments = [*RLVR, *plugins, "run.steps=2"]
    assert main([*arguments, f"run.dir={tmp_path}/one"]) == 0
    result = fastsvs(*arguments, f"policy.{layout}=2", f"run.dir={tmp_path}/two", processes=2, timeout=300)
    assert result.returncode == 0, result.stderr
    for one, two in zip(record(tmp_path / "one"), record(tmp_path / "two"), strict=True):
        for name in ("reward/mean", "credit/verl_bonus", "policy/loss", "policy/grad_norm"):
            assert one[name] == pytest.approx(two[name], rel=1e-3)


def test_a_merge_goes_halfway_back_and_forgets_the_moments(tmp_path: Path) -> None:
    plain, merged = tmp_path / "plain", tmp_path / "merged"
    merging = ["merging.hook=merge", "merging.every=2", "merging.weight=0.25"]
    assert main([*RLVR, "run.steps=2", f"run.dir={plain}"]) == 0
    assert main([*RLVR, "run.steps=2", *merging, f"run.dir={merged}"]) == 0
    for run, out in ((plain, "plain_hf"), (merged, "merged_hf")):
        assert main(["export", str(run), "--out", str(tmp_path / out)]) == 0
    base = load_file(ROOT / "models" / "tiny" / "model.safetensors")
    trained, halfway = (load_file(tmp_path / out / "model.safetensors") for out in ("plain_hf", "merged_hf"))
    assert any(not torch.equal(base[name], trained[name]) for name in base)
    for name, weight in base.items():
        torch.testing.assert_close(halfway[name], weight + 0.25 * (trained[name] - weight))
    assert {key.partition("/")[0] for key in weights(plain)} == {"master", "exp_avg", "exp_avg_sq"}
    assert {key.partition("/")[0] for key in weights(merged)} == {"master"}
    assert not (merged / ".before_hook").exists()
