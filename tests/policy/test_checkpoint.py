"""Checkpoints: bit-exact resumption on any layout, and nothing lost to kills, full disks and damaged files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch.distributed as dist
from checkpoint_cases import assert_layouts_exchange, assert_same, build, update, weights
from full_disk import largest_file
from policy_cases import save_model
from policy_ranks import run_ranks

from fastsvs import distributed
from fastsvs.errors import UserError
from fastsvs.policy import Policy, checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model("qwen2-tied", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def policy(model: Path) -> Policy:
    """After two updates."""
    policy = build(model)
    for seed in range(2):
        update(policy, seed)
    return policy


@pytest.fixture
def saved(policy: Policy, tmp_path: Path) -> Path:
    root = tmp_path / "checkpoints"
    checkpoint.save(policy, root, 7, {"step": 7}, keep=2)
    return root / "step_00000007"


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("updates", [0, 2])
def test_resumed_run_is_bitwise_the_uninterrupted_one(model, tmp_path, dtype, updates):
    alone = build(model, dtype)
    for seed in range(updates):
        update(alone, seed)
    checkpoint.save(alone, tmp_path, updates, {"sampler": [1, "two"]}, keep=1)
    expected = [update(alone, seed) for seed in (2, 3)]

    resumed = build(model, dtype)
    update(resumed, 9)  # whatever it did before leaves no trace
    assert checkpoint.load(resumed, checkpoint.latest(tmp_path)) == {"sampler": [1, "two"]}
    assert [update(resumed, seed) for seed in (2, 3)] == expected
    assert_same(weights(resumed), weights(alone))


def test_frozen_policy_takes_the_weights(policy, model, saved):
    frozen = build(model, updates=0)
    checkpoint.load(frozen, saved)
    assert_same(weights(frozen), weights(policy))


@pytest.mark.parametrize(
    ("name", "dtype", "ranks", "layout"),
    [
        ("qwen2-tied", "bf16", 4, {"tensor": 2, "pipeline": 2}),
        ("qwen3-untied", "fp32", 2, {}),
        ("qwen2-moe-shared", "bf16", 2, {"tensor": 2, "expert": 2}),
        ("qwen3-moe", "fp32", 4, {"pipeline": 2, "expert": 2}),
        ("qwen2-moe-late", "bf16", 4, {"pipeline": 2, "expert": 2}),
        ("qwen3-moe", "fp32", 2, {"tensor": 2, "expert_tensor": 2}),
        ("qwen2-moe-shared", "bf16", 4, {"expert": 2, "expert_tensor": 2}),
        ("qwen3-untied", "bf16", 4, {"context": 2}),
        ("qwen3.5", "bf16", 4, {"tensor": 2, "pipeline": 2}),
    ],
    ids=[
        *("tp2_pp2", "dp2", "tp2_ep2", "pp2_ep2", "dense_stage_pp2_ep2", "tp2_etp2", "ep2_etp2", "cp2_dp2"),
        "linear_tp2_pp2",
    ],
)
def test_layouts_exchange_checkpoints_bit_for_bit(tmp_path, name, dtype, ranks, layout):
    path = save_model(name, tmp_path / "model")
    assert_layouts_exchange(build(path, dtype), partial(build, path, dtype, **layout), ranks, tmp_path)


def test_only_the_newest_stay(policy, tmp_path):
    for step in (2, 9, 10, 100):
        checkpoint.save(policy, tmp_path, step, {}, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step_00000010", "step_00000100"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step_00000100"


def test_nothing_saved_yet(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("rank_00000.safetensors", truncate, r"rank_00000.safetensors has \d+ bytes instead of \d+"),
        ("rank_00000.safetensors", flip_a_bit, "rank_00000.safetensors do not have the checksum"),
        ("rank_00000.safetensors", os.remove, "No such file"),
        ("manifest.json", truncate, "manifest.json is not JSON"),
        ("manifest.json", os.remove, "manifest.json cannot be read: No such file"),
    ],
)
def test_damage_is_named_with_a_way_out(policy, saved, file, damage, message):
    before = weights(policy)
    damage(saved / file)
    with pytest.raises(UserError, match=rf"step_00000007 is damaged; move it away to start anew.*{message}"):
        checkpoint.load(policy, saved)
    checkpoint.save(policy, saved.parent, 8, {}, keep=2)
    damage(saved.with_name("step_00000008") / file)
    with pytest.raises(UserError, match=r"step_00000008 is damaged; move it away to go on from .*step_00000007"):
        checkpoint.load(policy, saved.with_name("step_00000008"))
    assert_same(weights(policy), before)


def test_another_model_is_refused(saved, tmp_path):
    other = build(save_model("qwen3-untied", tmp_path / "other"))
    with pytest.raises(UserError, match=r"of another model than model.path: it has .*qkv_bias True instead of False"):
        checkpoint.load(other, saved)


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(policy, saved):
    truncate(saved / "rank_00000.safetensors")
    checkpoint.save(policy, saved.parent, 7, {"again": True}, keep=1)
    assert checkpoint.load(policy, saved) == {"again": True}


def save_and_die(policy: Policy, root: Path, event_number: int) -> bool:
    """Save step 8 in a forked process that kills itself before its n-th touch of a file below `root`; was it killed?"""
    child = os.fork()
    if child == 0:
        moments = iter(range(event_number))

        def count(event: str, arguments: tuple) -> None:
            # While a tree is removed its files are named relative to their folder.
            below_root = event in ("os.remove", "os.rmdir") or (
                event in ("open", "os.mkdir", "os.rename", "os.chmod") and str(root) in str(arguments[0])
            )
            if below_root and next(moments, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        checkpoint.save(policy, root, 8, {"step": 8}, keep=1)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_at_any_moment_of_a_save(policy, saved):
    before = weights(policy)
    root, pristine = saved.parent, saved.parent.with_name("pristine")
    shutil.copytree(root, pristine)
    seen, killed, moment = set(), True, 0
    while killed:
        killed = save_and_die(policy, root, moment)
        newest = checkpoint.latest(root)
        seen.add(newest.name)
        assert checkpoint.load(policy, newest) == {"step": int(newest.name[-1])}
        checkpoint.save(policy, root, 9, {}, keep=1)
        assert os.listdir(root) == ["step_00000009"], "a later save leaves nothing behind"
        shutil.rmtree(root)
        shutil.copytree(pristine, root)
        moment += 1
    assert moment > 10
    assert seen == {"step_00000007", "step_00000008"}
    assert_same(weights(policy), before)


def test_a_file_that_cannot_be_written_leaves_the_earlier_checkpoint(policy, saved):
    with (
        largest_file(100_000),
        pytest.raises(UserError, match=r"step 8 cannot be written to .*earlier ones are as they were.*File too large"),
    ):
        checkpoint.save(policy, saved.parent, 8, {}, keep=1)
    assert os.listdir(saved.parent) == [saved.name]
    assert checkpoint.load(policy, saved) == {"step": 7}


def test_a_full_disk_leaves_the_earlier_checkpoint(policy, saved, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = 1.5 * sum(file.stat().st_size for file in saved.iterdir())
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size:.0f}", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        checkpoint.save(policy, disk, 7, {"step": 7}, keep=1)
        with pytest.raises(UserError, match=r"step 8 cannot be written to .*No space left"):
            checkpoint.save(policy, disk, 8, {}, keep=1)
        assert os.listdir(disk) == ["step_00000007"]
        assert checkpoint.load(policy, disk / "step_00000007") == {"step": 7}
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fail_on_one_rank(model: str, root: str) -> tuple[str, list[str]]:
    policy = build(Path(model))
    checkpoint.save(policy, Path(root), 1, {}, keep=1)
    with largest_file(1000 if distributed.rank() == 1 else 10**9), pytest.raises(UserError) as caught:
        checkpoint.save(policy, Path(root), 2, {}, keep=1)
    dist.barrier()  # the main rank removes the draft
    return str(caught.value), os.listdir(root)


def test_one_ranks_full_disk_is_every_ranks_error(model, tmp_path):
    outcomes = run_ranks(fail_on_one_rank, 2, tmp_path, str(model), str(tmp_path / "root"))
    assert outcomes[0] == outcomes[1]
    message, left = outcomes[0]
    assert "File too large" in message
    assert left == ["step_00000001"]
