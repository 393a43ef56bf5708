"""State that leaves its device comes back bit for bit, into the same tensors; saves find it wherever it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checkpoint_cases import assert_same, build, update, weights
from policy_cases import save_model
from policy_ranks import run_ranks
from torch import Tensor

from fastsvs.policy import Offload, Policy, checkpoint, host_memory
from fastsvs.policy.away import Away
from fastsvs.policy.training_state import pieces


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model("qwen2-tied", tmp_path_factory.mktemp("model"))


def state(policy: Policy) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in pieces(policy).items()} | weights(policy)


def device_bytes(policy: Policy) -> dict[str, int]:
    """The bytes that a policy holds on its device, by what they are for."""
    held: dict[str, dict[int, int]] = {"weights": {}, "gradients": {}, "state": {}}

    def count(kind: str, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if not any(storage._cdata in other for other in held.values()):
            held[kind][storage._cdata] = storage.nbytes()

    for parameter in policy.stage.parameters():
        count("weights", parameter)
    if hasattr(policy, "optimizer"):
        for buffer in policy.model.buffers:
            count("gradients", buffer.grad_data)
        for piece in pieces(policy).values():
            count("state", piece)
    return {kind: sum(sizes.values()) for kind, sizes in held.items()}


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("what", ["none", "optimizer", "all"])
@pytest.mark.parametrize("updates", [0, 2])
def test_a_round_trip_frees_the_device_and_changes_no_bit(model, dtype, what, updates) -> None:
    alone, policy = (build(model, dtype, offload=offload) for offload in ("none", what))
    offload = Offload(policy)
    for seed in range(updates):
        assert update(alone, seed) == update(policy, seed)
    before, held = state(policy), device_bytes(policy)
    for _ in range(2):  # what is done already is not done again
        offload.leave()
        offload.leave_weights()
    left = device_bytes(policy)
    if what == "none":
        assert left == held
    else:
        assert left == {"weights": 0 if what == "all" else held["weights"], "gradients": 0, "state": 0}
    offload.return_weights()
    assert_same(weights(policy), {name: before[name] for name in weights(policy)})
    for _ in range(2):
        offload.return_all()
    assert device_bytes(policy) == held
    assert_same(state(policy), before)
    for seed in (5, 6):
        assert update(alone, seed) == update(policy, seed)
    assert_same(state(policy), state(alone))


def test_frozen_policies_move_their_weights(model) -> None:
    policy = build(model, updates=0, offload="all")
    before, held = weights(policy), device_bytes(policy)
    offload = Offload(policy)
    offload.leave()
    assert device_bytes(policy) == held
    offload.leave_weights()
    assert device_bytes(policy)["weights"] == 0
    offload.return_all()
    assert_same(weights(policy), before)


def test_what_is_copied_is_measured(model) -> None:
    policy = build(model, offload="all")
    offload = Offload(policy)
    assert offload.take_metrics() == {}
    offload.leave()
    offload.leave_weights()
    offload.return_all()
    metrics = offload.take_metrics()
    assert metrics.keys() == {"time/offload", "throughput/offload_gigabytes_per_second"}
    assert min(metrics.values()) > 0
    assert offload.take_metrics() == {}


@pytest.mark.parametrize("segment", [1000, 256 << 20])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_checkpoint_of_what_is_away_has_the_same_bytes(model, tmp_path, monkeypatch, dtype, segment) -> None:
    monkeypatch.setattr(host_memory, "SEGMENT_BYTES", segment)
    policy = build(model, dtype, offload="all")
    update(policy, 0)
    checkpoint.save(policy, tmp_path / "here", 1, {}, keep=1)
    offload = Offload(policy)
    offload.leave()
    offload.leave_weights()
    checkpoint.save(policy, tmp_path / "away", 1, {}, keep=1)
    offload.return_all()
    here, away = (tmp_path / name / "step_00000001" for name in ("here", "away"))
    assert [file.name for file in sorted(here.iterdir())] == [file.name for file in sorted(away.iterdir())]
    assert all(file.read_bytes() == (away / file.name).read_bytes() for file in here.iterdir())
    assert json.loads((away / "manifest.json").read_text())["updates"] == 1


def test_views_of_one_storage_leave_and_return_once() -> None:
    base, other = torch.arange(10.0), torch.ones(3, dtype=torch.bfloat16)
    kept = base.clone()
    views = [base[2:5], base.view(5, 2), other, torch.empty(0)]
    away = Away()
    assert away.take("some", views) == base.nbytes + other.nbytes
    assert away.take("some", views) == 0
    assert torch.cat([part.clone() for part in away.parts(views[0])]).view(torch.float32).equal(kept[2:5])
    assert away.give_back("some") == base.nbytes + other.nbytes
    assert away.give_back("some") == 0
    assert base.equal(kept)
    assert views[0].equal(kept[2:5])


def round_trip(model: str) -> list[dict[str, float]]:
    """On several ranks: updates with and without state that is away in between."""
    alone, policy = (build(Path(model), "bf16", 2, offload=offload) for offload in ("none", "all"))
    offload, metrics = Offload(policy), []
    for seed in range(3):
        metrics += [update(alone, seed), update(policy, seed)]
        offload.leave()
        offload.leave_weights()
        offload.return_all()
    assert_same(weights(policy), weights(alone))
    return metrics


def test_ranks_that_share_state(model, tmp_path) -> None:
    for metrics in run_ranks(round_trip, 4, tmp_path, str(model)):
        assert metrics[::2] == metrics[1::2]
