"""Resuming reads what a rank owns: its own file once on the same layout, and only what overlaps on another."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from checkpoint_cases import assert_same, build, update, weights
from policy_cases import save_model
from policy_ranks import run_ranks

from fastsvs.errors import UserError
from fastsvs.policy import Policy, checkpoint, tensor_file
from fastsvs.policy.training_state import owned_by_rank

RANKS = 4


def counted_load(policy: Policy, path: Path) -> dict[str, int]:
    """The bytes that loading a checkpoint reads on this rank, by file, without headers."""
    counts: dict[str, int] = {}
    read = os.preadv

    def preadv(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        count = read(descriptor, buffers, offset)
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        counts[name] = counts.get(name, 0) + count
        return count

    headers = {file.name: header_bytes(file) for file in path.glob("*.safetensors")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", preadv)
        checkpoint.load(policy, path)
    return {name: count - headers[name] for name, count in counts.items()}


def header_bytes(file: Path) -> int:
    return 8 + int.from_bytes(file.read_bytes()[:8], "little")


def owned_bytes(policy: Policy) -> int:
    return sum(3 * owned.master.nbytes for owned in owned_by_rank(policy))


def on_ranks(model: str, tensor: int, pipeline: int, folder: str, source: str | None) -> tuple[dict[str, int], int]:
    """Save after an update, or load what was saved; what was read, and what the rank owns, in bytes."""
    policy = build(Path(model), "bf16", tensor, pipeline)
    if source is None:
        update(policy, 1)
        checkpoint.save(policy, Path(folder) / "checkpoints", 1, {}, keep=1)
        before = weights(policy)
        update(policy, 2)
        counts = counted_load(policy, Path(folder) / "checkpoints" / "step_00000001")
        assert_same(weights(policy), before)
        torch.save(before, Path(folder) / f"weights_{torch.distributed.get_rank()}.pt")
    else:
        counts = counted_load(policy, Path(source))
        assert_same(weights(policy), torch.load(Path(folder) / "weights_0.pt"))
    return counts, owned_bytes(policy)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model("qwen3-untied", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def saved(model: Path, tmp_path_factory) -> tuple[Path, list[tuple[dict[str, int], int]]]:
    folder = tmp_path_factory.mktemp("tp2_dp2")
    return folder, run_ranks(on_ranks, RANKS, folder, str(model), 2, 1, str(folder), None)


def test_on_the_same_layout_each_rank_reads_its_own_file_once(saved) -> None:
    _, seen = saved
    for rank, (counts, owned) in enumerate(seen):
        assert sum(counts.values()) <= 1.1 * owned
        assert max(counts, key=counts.__getitem__) == f"rank_{rank:05d}.safetensors"


@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 2), (1, 1), (2, 2)], ids=["pp2_dp2", "dp4", "tp2_pp2"])
def test_on_another_layout_ranks_read_their_overlap_and_every_file_is_hashed_once(
    saved, model, tmp_path, tensor, pipeline
) -> None:
    folder, _ = saved
    source = folder / "checkpoints" / "step_00000001"
    seen = run_ranks(on_ranks, RANKS, tmp_path, str(model), tensor, pipeline, str(folder), str(source))
    sizes = {
        name: facts["bytes"] - header_bytes(source / name)
        for name, facts in json.loads((source / "manifest.json").read_text())["files"].items()
    }
    whole = {
        name: [rank for rank, (counts, _) in enumerate(seen) if counts.get(name, 0) >= sizes[name]] for name in sizes
    }
    assert all(len(ranks) == 1 for ranks in whole.values()), "the one that hashes a file reads it whole"
    for rank, (counts, owned) in enumerate(seen):
        hashed = sum(sizes[name] for name, [hasher] in whole.items() if hasher == rank)
        assert sum(counts.values()) <= 1.1 * owned + hashed
    assert sum(sum(counts.values()) for counts, _ in seen) < 2 * sum(sizes.values())


def test_one_process_reads_every_file_once(saved, model) -> None:
    folder, _ = saved
    source = folder / "checkpoints" / "step_00000001"
    policy = build(model)
    counts = counted_load(policy, source)
    assert counts == {file.name: file.stat().st_size for file in source.glob("*.safetensors")}
    assert_same(weights(policy), torch.load(folder / "weights_0.pt"))


def test_weights_alone_are_read_in_slices_and_only_when_their_file_is_verified(saved, model, tmp_path) -> None:
    folder, _ = saved
    source = folder / "checkpoints" / "step_00000001"
    policy = build(model)
    checkpoint.load(policy, source)
    step, tensors = checkpoint.open_masters(source, policy.architecture)
    assert step == 1
    for name, whole in weights(policy).items():
        found = tensors.read(name, None, 0, 0)
        assert found.to(whole.dtype).equal(whole)
        half = len(whole) // 2
        assert tensors.read(name, 0, 1, half).equal(found[1:half])
    damaged = tmp_path / "step_00000001"
    damaged.mkdir()
    for file in source.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    first = damaged / "rank_00000.safetensors"
    offset = next(iter(tensor_file.read_header(first).values())).offset
    content = bytearray(first.read_bytes())
    content[offset] ^= 1  # a moment, which nobody asks for
    first.write_bytes(content)
    _, tensors = checkpoint.open_masters(damaged, policy.architecture)
    with pytest.raises(UserError, match=r"damaged; move it away.*rank_00000.safetensors do not have the checksum"):
        tensors.read("lm_head.weight", None, 0, 0)  # which rank 0 owned a part of
