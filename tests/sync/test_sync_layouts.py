"""Real policies on four ranks: every layout sends the tensors that `hf_weights` gives, to workers of any number."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import parallel_state as mpu

sys.path.insert(0, str(Path(__file__).parents[1] / "policy"))
from policy_cases import save_model
from policy_ranks import run_ranks
from receiving_fleet import Fleet

from fastsvs import distributed
from fastsvs.config import ModelConfig, PolicyConfig, SyncConfig
from fastsvs.policy import Policy
from fastsvs.policy.blocks import served_blocks
from fastsvs.sync import BroadcastSync, WeightSyncError

LAYOUTS: dict[str, dict[str, Any]] = {
    "dp4": {},
    "tp2-dp2": {"tensor_parallel": 2},
    "pp2-dp2": {"pipeline_parallel": 2},
    "tp2-pp2": {"tensor_parallel": 2, "pipeline_parallel": 2},
    "pp4": {"pipeline_parallel": 4},
    "cp2-tp2": {"context_parallel": 2, "tensor_parallel": 2},
}
MIXTURE_LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2-ep4": {"tensor_parallel": 2, "expert_parallel": 4},
    "pp2-ep2": {"pipeline_parallel": 2, "expert_parallel": 2},
    "pp2-etp2": {"pipeline_parallel": 2, "expert_tensor_parallel": 2},
    "ep2-etp2": {"expert_parallel": 2, "expert_tensor_parallel": 2},
}
ADAPTERS = {"lora": {"rank": 2, "targets": ("q_proj", "v_proj", "o_proj", "up_proj")}}
LAYOUTS["tp2-pp2-lora"] = LAYOUTS["tp2-pp2"] | ADAPTERS
CASES = [
    *(("qwen2-tied", layout, "fp32") for layout in LAYOUTS),
    ("qwen2-moe-shared", "tp2-ep4", "fp32"),
    ("qwen3-moe", "pp2-ep2", "bf16"),
    ("qwen2-moe-late", "pp2-ep2", "bf16"),
    ("qwen2-moe-shared", "ep2-etp2", "fp32"),
    ("qwen2-moe-late", "pp2-etp2", "bf16"),
    ("qwen3-untied", "tp2-pp2", "bf16"),
    ("llama3-untied", "pp2-dp2", "bf16"),
    ("qwen3.5", "pp2-dp2", "fp32"),
    ("qwen3.5", "tp2-pp2", "bf16"),
]
BUCKET_BYTES = 30_000
"""Of 290 to 600 kB, so that parameters whose tensors fall into two buckets occur, and buckets of two stages."""


def all_parts(models: dict[str, str], folder: str) -> tuple[dict[str, Any], ...]:
    return (
        every_layout(models, folder),
        failures_in_lockstep(models["qwen2-tied"], folder),
        changes(models["qwen3-untied"], folder),
    )


def every_layout(models: dict[str, str], folder: str) -> dict[str, Any]:
    """Faults on this rank, by case and way; nothing where all is well."""
    config = SyncConfig(bucket_bytes=BUCKET_BYTES, timeout_seconds=120.0, verify=True)
    main = distributed.is_main()
    faults = {}
    with closing(Fleet(1, 2)) if main else nullcontext() as fleet:
        for version, (name, layout, dtype) in enumerate(CASES):
            policy = build(models[name], dtype, (LAYOUTS | MIXTURE_LAYOUTS)[layout])
            expected = {key: value.clone() for key, value in policy.hf_weights()}
            for shards in (True, False):
                chosen = config.model_copy(update={"shard_to_shard": shards})
                with closing(BroadcastSync(policy, fleet, chosen, staged=version % 2 == 1)) as sync:
                    sync.publish(version)
                found = differences(fleet, policy, expected, Path(folder)) if main else []
                several = shards and policy.weight_blocks() is not None
                if main and (sync.metrics()["sync/senders"] > 1) is not several:
                    found.append(f"{sync.metrics()['sync/senders']} ranks sent")
                faults[name, layout, dtype, shards] = found
            mpu.destroy_model_parallel()
    return faults


def failures_in_lockstep(model: str, folder: str) -> dict[str, Any]:
    """A server dies while two stages send, then a sender's connections are cut; then one refuses the weights for
    good."""
    config = SyncConfig(bucket_bytes=BUCKET_BYTES, timeout_seconds=30.0, attempts=2)
    main = distributed.is_main()
    with closing(Fleet(1, 1)) if main else nullcontext() as fleet:
        policy = build(model, "fp32", LAYOUTS["tp2-pp2"])
        expected = {key: value.clone() for key, value in policy.hf_weights()}
        with closing(BroadcastSync(policy, fleet, config)) as sync:
            sync.publish(1)
            if fleet is not None:
                fleet.misbehave("server 0", "die")
            sync.publish(2)
            result: dict[str, Any] = {"faults": differences(fleet, policy, expected, Path(folder)) if main else []}
            result["retries"] = [sync.metrics().get("sync/retries")]
            if distributed.rank() == 3:
                cut_at_second_bucket(sync)
            sync.publish(3)
            result["faults"] += differences(fleet, policy, expected, Path(folder)) if main else []
            result["retries"].append(sync.metrics().get("sync/retries"))
            result["senders"] = [sync.metrics().get("sync/senders")]
            sync.publish(4)
            result["faults"] += differences(fleet, policy, expected, Path(folder)) if main else []
            result["senders"].append(sync.metrics().get("sync/senders"))
            if fleet is not None:
                fleet.misbehave("server 1", "refuse")
            try:
                sync.publish(5)
            except WeightSyncError as error:
                result["error"] = str(error)
        mpu.destroy_model_parallel()
    return result


def changes(model: str, folder: str) -> dict[str, Any]:
    """Return what workers miss and how packets went, update by update, where changes are sent."""
    config = SyncConfig(bucket_bytes=BUCKET_BYTES, timeout_seconds=30.0, verify=True, sparse="always")
    main = distributed.is_main()
    result: dict[str, Any] = {"faults": [], "forms": [], "changed": [], "retries": []}
    with closing(Fleet(1, 2)) if main else nullcontext() as fleet:
        policy = build(model, "bf16", LAYOUTS["tp2-pp2"])
        with closing(BroadcastSync(policy, fleet, config, staged=True)) as sync:

            def publish(version: int) -> None:
                expected = {key: value.clone() for key, value in policy.hf_weights()}
                sync.publish(version)
                if main:
                    metrics = sync.metrics()
                    result["faults"] += differences(fleet, policy, expected, Path(folder))
                    sent = {key.rpartition("/")[2] for key in metrics if "/messages/" in key and metrics[key]}
                    result["forms"].append("changes" if sent and "whole" not in sent else " ".join(sent))
                    result["changed"].append(round(metrics.get("sync/changed", -1), 2))
                    result["retries"].append(metrics["sync/retries"])

            publish(1)
            learn(policy, every=50)
            publish(2)
            learn(policy, every=20)
            learn(policy, every=25, bit=2)  # two updates between publishes
            publish(3)
            learn(policy, every=1)
            publish(4)
            if fleet is not None:
                fleet.restart("server 1")
            publish(4)
            if distributed.rank() == 3:
                cut_at_second_bucket(sync)  # of the new group with both servers
            for version in range(5, 11):
                if version == 8 and fleet is not None:
                    fleet.misbehave("server 1", "refuse_start")  # when all has arrived
                learn(policy, every=50)
                publish(version)
        mpu.destroy_model_parallel()
    return result


def learn(policy: Policy, every: int, bit: int = 1) -> None:
    """Change one weight of `every` of every tensor, alike on all ranks that hold it."""
    for value in policy.stage.parameters():
        value.data.view(-1).view(torch.int16)[::every] ^= bit


def cut_at_second_bucket(sync: BroadcastSync) -> None:
    """Reset this rank's connections to all members once, as the loss of its link would, when it has sent one bucket."""
    shards = sync._shards
    assert shards is not None
    pack, join = shards._pack, shards.join

    def joining(*arguments: Any) -> None:
        shards.join = join  # type: ignore[method-assign]
        before = open_sockets()
        join(*arguments)
        opened = open_sockets().keys() - before
        buckets = iter([False, True])

        def packing(*bucket: Any) -> Any:
            if next(buckets, False):
                shards._pack = pack  # type: ignore[method-assign]
                for name in opened & open_sockets().keys():
                    with closing(socket.socket(fileno=os.dup(open_sockets()[name]))) as connection, suppress(OSError):
                        if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                            connection.shutdown(socket.SHUT_RDWR)
            return pack(*bucket)

        shards._pack = packing  # type: ignore[method-assign]

    shards.close()
    shards.join = joining  # type: ignore[method-assign]


def open_sockets() -> dict[str, int]:
    """The files of this process that are sockets, by a name that no later one gets."""
    names = {os.readlink(link): int(link.name) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    return {name: number for name, number in names.items() if name.startswith("socket:")}


def build(path: str, dtype: str, layout: dict[str, Any]) -> Policy:
    config = PolicyConfig(dtype=dtype, recompute="none", **layout)  # type: ignore[arg-type]
    policy = Policy(ModelConfig(path=path), config, seed=0, total_updates=0, max_sequence_tokens=64)
    for parameter in policy.stage.parameters():
        if parameter.requires_grad and config.lora.rank:
            parameter.data.fill_(0.1)  # all adapters change something, on all ranks alike
    return policy


def differences(fleet: Fleet | None, policy: Policy, expected: dict[str, torch.Tensor], folder: Path) -> list[str]:
    """The tensors of which a worker does not hold its block as it is."""
    assert fleet is not None
    return [
        f"{server}: {name}"
        for server, count in fleet.workers.items()
        for rank, worker in enumerate(fleet.tensors(server, folder))
        for name, block in served_blocks(policy.architecture, count, rank).items()
        if name not in worker or not torch.equal(block.of(expected[name]), block.of(worker[name]))
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: str(save_model(name, tmp_path_factory.mktemp(name))) for name in dict.fromkeys(c[0] for c in CASES)}


@pytest.fixture(scope="module")
def by_rank(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict, ...]]:
    folder = tmp_path_factory.mktemp("ranks")
    return run_ranks(all_parts, 4, folder, models, str(folder), timeout=300.0, patience=150.0)


def test_every_layout_sends_whole_hugging_face_tensors(by_rank: list[tuple[dict, ...]]) -> None:
    faults, *_ = by_rank[0]
    assert faults == {(*case, shards): [] for case in CASES for shards in (True, False)}


def test_all_ranks_retry_and_fail_together(by_rank: list[tuple[dict, ...]]) -> None:
    results = [failures for _, failures, _ in by_rank]
    assert results[0]["faults"] == []
    assert results[0]["retries"] == [1, 1]
    assert results[0]["senders"] == [1, 4], "the main rank alone when it is tried again, and all the next time"
    assert all("version 5" in result["error"] and "no parameter" in result["error"] for result in results)


def test_changes_bring_every_worker_the_weights_bit_for_bit(by_rank: list[tuple[dict, ...]]) -> None:
    *_, result = by_rank[0]
    assert result["faults"] == []
    new, tried_again = ["whole", "changes"], [""]
    assert result["forms"] == [*new, "changes", "whole", "whole", *tried_again, *new, *tried_again, *new]
    assert result["changed"] == [-1, 0.02, 0.08, 1, -1, -1, -1, 0.02, -1, -1, 0.02]
    assert result["retries"] == [0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0]
