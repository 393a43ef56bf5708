"""Real vLLM servers on a CPU, held to the trainer's own numbers after every update, whatever the trainer's layout."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core import parallel_state as mpu

sys.path.insert(0, str(Path(__file__).parents[1] / "policy"))
from policy_cases import GSPO
from policy_ranks import run_ranks

from fastsvs import distributed
from fastsvs.algorithms import Batch, policy_loss
from fastsvs.config import ModelConfig, OptimizerConfig, PolicyConfig, RolloutConfig, ServerConfig, SyncConfig
from fastsvs.policy import Policy
from fastsvs.processes import descendants, processes
from fastsvs.rollout import LocalEngine, Request, Rollout, SamplingParams, drain
from fastsvs.rollout.registry import EngineSpec
from fastsvs.sync import BroadcastSync, LocalSync, server_arguments
from fastsvs.sync.receive import Seat

pytestmark = pytest.mark.vllm
MODELS = Path(__file__).parents[2] / "models"
SYNC = SyncConfig(bucket_bytes=400_000, timeout_seconds=180.0, verify=True)  # a server that was killed is back by then
GREEDY = SamplingParams(temperature=1.0, top_k=1, max_tokens=24)
LONG = SamplingParams(temperature=1.0, max_tokens=110)
PROMPTS = [(1, 20 + i, 31, 7 * i + 5, 44) for i in range(8)]


def open_engine(policy: Policy, servers: int, folder: str, tensor_parallel: int = 1) -> Any:
    from fastsvs.rollout import VllmEngine

    return VllmEngine.build(
        EngineSpec(
            hf_config=policy.hf_config,
            dtype=torch.float32,
            device=torch.device("cpu"),
            eos_token_ids=[3],
            rollout=RolloutConfig(
                engine="vllm",
                max_sequences=16,
                server=ServerConfig(count=servers, tensor_parallel=tensor_parallel),
            ),
            max_sequence_tokens=128,
            folder=Path(folder),
            server_arguments=server_arguments(),
        )
    )


def build(model: str = "tiny", **layout: int) -> Policy:
    """`tiny_moe` has random weights."""
    optimizer = OptimizerConfig(learning_rate=1e-3)
    config = PolicyConfig(dtype="fp32", recompute="none", optimizer=optimizer, **layout)  # type: ignore[arg-type]
    loaded = ModelConfig(path=str(MODELS / model), initialize="random" if model == "tiny_moe" else "pretrained")
    return Policy(loaded, config, seed=0, total_updates=4, max_sequence_tokens=128)


def sample(engine: Any, seed: int, sampling: SamplingParams) -> dict[str, list[Rollout]]:
    """On every rank, what the servers gave the main rank."""
    groups: dict[str, list[Rollout]] = {}
    if distributed.is_main():
        engine.submit([Request(f"{i}", ids, 2, sampling, seed=seed + i) for i, ids in enumerate(PROMPTS)])
        groups = dict(drain(engine))
    return distributed.broadcast(groups)


def as_batch(groups: dict[str, list[Rollout]]) -> Batch:
    pairs = [(PROMPTS[int(key)], rollout) for key, group in sorted(groups.items()) for rollout in group]
    logprobs = torch.tensor([p for _, rollout in pairs for p in rollout.logprobs])
    return Batch(
        prompt_ids=[np.array(ids) for ids, _ in pairs],
        response_ids=[np.array(rollout.response_ids) for _, rollout in pairs],
        kinds=["original"] * len(pairs),
        groups=torch.arange(len(pairs)) // 2,
        rewards=torch.zeros(len(pairs)),
        advantages=torch.randn(len(logprobs), generator=torch.Generator().manual_seed(0)),
        rollout_logprobs=logprobs,
        old_logprobs=logprobs,
        reference_logprobs=logprobs,
    )


def held_to_the_trainer(policy: Policy, engine: Any, version: int) -> dict[str, float]:
    """Largest difference of log-probs at two temperatures, and of greedy tokens to the local engine."""
    facts = {}
    for temperature in (1.0, 0.7):
        groups = sample(engine, 10 * version, SamplingParams(temperature=temperature, max_tokens=24))
        assert all(rollout.weight_version == version for group in groups.values() for rollout in group)
        batch = as_batch(groups)
        facts[f"logprobs at {temperature}"] = float(
            (policy.log_probs(batch, temperature) - batch.rollout_logprobs).abs().max()
        )
    with closing(
        LocalEngine(
            policy.hf_config, dtype=torch.float32, device=torch.device("cpu"), eos_token_ids=[3], max_sequences=16
        )
    ) as local:
        LocalSync(policy, local).publish(version)
        local.submit([Request(f"{i}", ids, 1, GREEDY, seed=0) for i, ids in enumerate(PROMPTS)])
        ours = {key: group[0].response_ids for key, group in drain(local)}
    theirs = {key: group[0].response_ids for key, group in sample(engine, 0, GREEDY).items()}
    facts["greedy responses that differ"] = sum(ours[key] != theirs[key] for key in ours)
    return facts


def whole_life(folder: str) -> dict[str, Any]:
    """One pair of servers: trainer TP2, a real update, PP2, and a worker killed while it receives."""
    os.environ["LOCAL_WORLD_SIZE"] = os.environ["WORLD_SIZE"]  # one node
    facts: dict[str, Any] = {}
    policy = build(tensor_parallel=2)
    with closing(open_engine(policy, 2, folder)) as engine:
        with closing(BroadcastSync(policy, engine, SYNC)) as sync:
            sync.publish(1)
            facts["tp2"] = held_to_the_trainer(policy, engine, 1)
            batch = as_batch(sample(engine, 1, SamplingParams(max_tokens=24)))
            policy.update(batch, policy_loss(GSPO), GSPO, torch.full((len(batch),), 1e-2), 1.0)
            facts["moved"] = float((policy.log_probs(batch, 1.0) - batch.rollout_logprobs).abs().max())
            sync.publish(2)
            facts["tp2 after an update"] = held_to_the_trainer(policy, engine, 2)
        mpu.destroy_model_parallel()
        policy = build(pipeline_parallel=2)
        with closing(BroadcastSync(policy, engine, SYNC)) as sync:
            sync.publish(3)
            facts["pp2"] = held_to_the_trainer(policy, engine, 3)
            if distributed.is_main():
                facts["killed"] = kill_at_second_bucket(sync, engine)
            sync.publish(4)
            facts["pp2 after a kill"] = held_to_the_trainer(policy, engine, 4)
            facts["retries"] = sync.metrics().get("sync/retries")
            facts["servers"] = engine.metrics()["rollout/servers"] if distributed.is_main() else None
    mpu.destroy_model_parallel()
    return facts


def two_workers(folder: str) -> dict[str, Any]:
    """One server of two workers: trainer TP2, a real update of which the changes are sent, and PP2."""
    os.environ["LOCAL_WORLD_SIZE"] = os.environ["WORLD_SIZE"]
    facts: dict[str, Any] = {}
    policy = build(tensor_parallel=2)
    with closing(open_engine(policy, 1, folder, tensor_parallel=2)) as engine:
        with closing(BroadcastSync(policy, engine, SYNC.model_copy(update={"sparse": "always"}))) as sync:
            sync.publish(1)
            batch = as_batch(sample(engine, 1, SamplingParams(max_tokens=24)))
            policy.update(batch, policy_loss(GSPO), GSPO, torch.full((len(batch),), 1e-2), 1.0)
            sync.publish(2)
            facts["tp2"] = held_to_the_trainer(policy, engine, 2)
            facts["senders"] = [sync.metrics().get("sync/senders")]
            facts["changes"] = sync.metrics()
        mpu.destroy_model_parallel()
        policy = build(pipeline_parallel=2)
        with closing(BroadcastSync(policy, engine, SYNC, staged=True)) as sync:
            if distributed.is_main():
                engine.submit([Request(f"{i}", ids, 2, LONG, seed=i) for i, ids in enumerate(PROMPTS)])
            sync.publish(3)
            groups = dict(drain(engine)) if distributed.is_main() else {}
            facts["under way"] = [rollout for group in groups.values() for rollout in group]
            distributed.barrier()
            facts["pp2"] = held_to_the_trainer(policy, engine, 3)
            facts["staged"] = sync.metrics()
            facts["senders"].append(sync.metrics().get("sync/senders"))
            facts["retries"] = sync.metrics().get("sync/retries")
    mpu.destroy_model_parallel()
    return facts


def experts(folder: str) -> dict[str, Any]:
    """One server of two workers, each with half of every expert: trainer EP2, and a real update."""
    os.environ["LOCAL_WORLD_SIZE"] = os.environ["WORLD_SIZE"]
    facts: dict[str, Any] = {}
    policy = build("tiny_moe", expert_parallel=2)
    with (
        closing(open_engine(policy, 1, folder, tensor_parallel=2)) as engine,
        closing(BroadcastSync(policy, engine, SYNC)) as sync,
    ):
        sync.publish(1)
        facts["ep2"] = held_to_the_trainer(policy, engine, 1)
        batch = as_batch(sample(engine, 1, SamplingParams(max_tokens=24)))
        policy.update(batch, policy_loss(GSPO), GSPO, torch.full((len(batch),), 1e-2), 1.0)
        facts["moved"] = float((policy.log_probs(batch, 1.0) - batch.rollout_logprobs).abs().max())
        sync.publish(2)
        facts["ep2 after an update"] = held_to_the_trainer(policy, engine, 2)
    mpu.destroy_model_parallel()
    return facts


def kill_at_second_bucket(sync: BroadcastSync, engine: Any) -> str:
    """From now on: kill -9 the process that holds the second server's weights once, amid a broadcast."""
    sender = sync._sender
    assert sender is not None
    port = engine.endpoints(60)[1].url.rpartition(":")[2]
    server = next(one.pid for one in processes() if port in command_line(one.pid).split("\0"))
    worker = max(descendants([server]), key=lambda one: (one.started, one.pid)).pid  # started last
    original = sender.send

    def send(index: int, pieces: list[torch.Tensor]) -> None:
        if index == 1 and sender.send is send:
            sender.send = original  # type: ignore[method-assign]
            os.kill(worker, signal.SIGKILL)
        original(index, pieces)

    sender.send = send  # type: ignore[method-assign]
    return command_line(worker).replace("\0", " ")


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def assert_computed_as_by_the_trainer(facts: dict[str, Any], *states: str) -> None:
    for state in states:
        differences = facts[state]
        assert differences.pop("greedy responses that differ") == 0, state
        assert max(differences.values()) < 1e-4, (state, differences)


def test_vllm_computes_with_the_trainers_weights_after_every_update(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")
    facts, _ = run_ranks(whole_life, 2, tmp_path, str(tmp_path / "servers"), timeout=500, patience=300)
    print(facts)
    assert facts["moved"] > 1e-2, "an update that changes nothing shows nothing"
    assert facts["retries"] == 1
    assert facts["servers"] == 2
    assert_computed_as_by_the_trainer(facts, "tp2", "tp2 after an update", "pp2", "pp2 after a kill")


def test_each_worker_of_a_server_computes_with_the_blocks_that_it_got(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")
    facts, _ = run_ranks(two_workers, 2, tmp_path, str(tmp_path / "servers"), timeout=500, patience=300)
    print(facts)
    assert facts["senders"] == [2, 2]
    assert facts["retries"] == 0
    changes = facts["changes"]
    assert 0 < changes["sync/changed"] < 1
    assert changes["sync/messages/mask"] + changes["sync/messages/places"] > 0
    under_way = facts["under way"]
    assert {rollout.weight_version for rollout in under_way} <= {2, 3}
    assert all(rollout.weight_version == 2 for rollout in under_way if rollout.mixed_versions)
    assert_computed_as_by_the_trainer(facts, "tp2", "pp2")


def test_the_experts_of_a_server_are_the_trainers_after_every_update(tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="needs vLLM: make test-vllm")
    facts, _ = run_ranks(experts, 2, tmp_path, str(tmp_path / "servers"), timeout=500, patience=300)
    print(facts)
    assert facts["moved"] > 1e-2, "an update that changes nothing shows nothing"
    assert_computed_as_by_the_trainer(facts, "ep2", "ep2 after an update")


@pytest.mark.parametrize(("experts_whole", "seat"), [(False, Seat(3, 1, 2)), (True, Seat(3))])
def test_a_worker_that_has_some_experts_whole_asks_for_whole_tensors(
    experts_whole: bool, seat: Seat, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastsvs.sync import receiver

    seats: list[Seat] = []
    engine = object.__new__(receiver.BroadcastEngine)  # without a model, which no server on a CPU has that is cut so
    engine.receiver_cls = lambda info, seat, device: seats.append(seat)
    engine.device = torch.device("cpu")
    engine.parallel_config = SimpleNamespace(
        data_parallel_index=1, world_size=2, rank=1, enable_expert_parallel=experts_whole
    )
    monkeypatch.setattr(receiver, "get_tp_group", lambda: SimpleNamespace(rank_in_group=1, world_size=2))
    engine.init_transfer_engine(None)
    assert seats == [seat]
