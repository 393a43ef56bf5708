"""Checkpoints written in the background: of the moment at which they began, whole, and heard of when they fail."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from checkpoint_cases import assert_same, build, update, weights
from full_disk import largest_file
from policy_cases import save_model
from policy_ranks import run_ranks
from torch import Tensor

from fastsvs import distributed
from fastsvs.errors import UserError
from fastsvs.policy import Policy, checkpoint
from fastsvs.policy import saver as saver_module
from fastsvs.policy.checkpoint import Saver
from fastsvs.stored_run import checkpoints_in


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model("qwen2-tied", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def policy(model: Path) -> Policy:
    policy = build(model)
    update(policy, 0)
    return policy


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_updates_in_the_meantime_do_not_reach_a_checkpoint(model, tmp_path, dtype) -> None:
    policy = build(model, dtype)
    saver = Saver(tmp_path, keep=4)
    expected: list[dict[str, Tensor]] = []
    state: dict[str, list[int]] = {"history": []}
    for step in (1, 2, 3):
        update(policy, step)
        saver.begin(policy, step, state)
        assert saver.step == step
        expected.append(weights(policy))
        state["history"].append(step)
    update(policy, 9)
    saver.finish()
    assert saver.step is None
    for step, path in checkpoints_in(tmp_path).items():
        assert checkpoint.load(policy, path)["history"] == list(range(1, step))
        assert_same(weights(policy), expected[step - 1])


def test_closing_leaves_a_whole_checkpoint(policy, tmp_path) -> None:
    saver = Saver(tmp_path, keep=1)
    saver.begin(policy, 5, {"step": 5})
    saver.close()
    assert os.listdir(tmp_path) == ["step_00000005"]
    assert checkpoint.load(policy, tmp_path / "step_00000005") == {"step": 5}


def test_a_failure_is_heard_of_afterwards_and_once(policy, tmp_path) -> None:
    saver = Saver(tmp_path, keep=1)
    saver.begin(policy, 1, {})
    saver.finish()
    with largest_file(1000):
        saver.begin(policy, 2, {})
        with pytest.raises(UserError, match=rf"step 2 cannot be written to {tmp_path}, earlier.*File too large"):
            saver.finish()
    assert os.listdir(tmp_path) == ["step_00000001"]
    saver.check()
    saver.begin(policy, 3, {})
    saver.finish()
    assert os.listdir(tmp_path) == ["step_00000003"]


def test_times_are_told_once(policy, tmp_path) -> None:
    saver = Saver(tmp_path, keep=1)
    saver.begin(policy, 1, {})
    saver.finish()
    times = saver.take_times()
    assert times.keys() == {"time/save", "time/checkpoint_write"}
    assert min(times.values()) > 0
    assert saver.take_times() == {}


def test_the_state_must_be_json(policy, tmp_path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        Saver(tmp_path, keep=1).begin(policy, 1, {"state": object()})


def save_on_ranks(model: str, root: str) -> list[object]:
    """What a rank sees of a save, of one that fails on rank 1, and of two with the same name in two folders at once."""
    policy, saver = build(Path(model)), Saver(Path(root), keep=1)
    saver.begin(policy, 1, {})
    other = Saver(Path(root, "other"), keep=1)
    other.begin(policy, 1, {})
    saver.finish()
    other.finish()
    seen: list[object] = [sorted(path.name for path in Path(root).glob("**/step*/*"))]
    with largest_file(1000 if distributed.rank() == 1 else 10**9):
        saver.begin(policy, 2, {})
        with pytest.raises(UserError) as caught:
            saver.finish()
    seen.append(str(caught.value))
    saver.begin(policy, 2, {})
    saver.finish()
    seen.append(len(json.loads((Path(root) / "step_00000002" / "manifest.json").read_text())["files"]))
    return seen


def test_ranks_agree_without_collectives_in_threads(model, tmp_path) -> None:
    one, other = run_ranks(save_on_ranks, 2, tmp_path, str(model), str(tmp_path / "root"))
    assert one == other
    files, message, count = one
    assert files == sorted(["manifest.json", "rank_00000.safetensors", "rank_00001.safetensors"] * 2)
    assert "File too large" in message
    assert count == 2


def close_without_the_others(model: str, root: str) -> bool:
    """Return whether a checkpoint or a draft of it is left when all ranks but the main one are gone before they have
    told of their parts. With the time limit of a save, 30 minutes, this would not end."""
    saver_module.GRACE_SECONDS = 0.3
    saver = Saver(Path(root), keep=1)
    if not distributed.is_main():
        saver._save = lambda sizes, facts: saver_module.Outcome()  # type: ignore[method-assign]
    saver.begin(build(Path(model)), 1, {})
    saver.close()
    return any(Path(root).glob("*step*")) if distributed.is_main() else False


def test_closing_does_not_wait_long_for_ranks_that_are_gone(model, tmp_path) -> None:
    assert run_ranks(close_without_the_others, 3, tmp_path, str(model), str(tmp_path / "root")) == [False] * 3
