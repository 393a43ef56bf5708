"""A rank of the trainer that is killed amid an update: the job ends and says why, and the next one goes on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from receiving_fleet import Endpoint, Fleet
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "policy"))
from policy_ranks import run_ranks

from fastsvs import distributed
from fastsvs.blocks import Block
from fastsvs.buckets import Bucket, TensorSpec
from fastsvs.config import SyncConfig
from fastsvs.sync import BroadcastSync

ROWS, COLUMNS = 48, 11
NAMES = [f"layer.{number}" for number in range(6)]
CONFIG = SyncConfig(bucket_bytes=4000, timeout_seconds=60.0, sparse="always")
"""Three buckets of two tensors."""


class Halves:
    """A policy of which every rank holds the upper or the lower half of all tensors."""

    def __init__(self) -> None:
        self.version = 0
        self.victim = False

    def weights(self) -> dict[str, Tensor]:
        return {name: torch.full((ROWS, COLUMNS), self.version + number / 8) for number, name in enumerate(NAMES)}

    def weight_specs(self) -> list[TensorSpec]:
        return [TensorSpec(name, (ROWS, COLUMNS), torch.float32) for name in NAMES]

    def stream_weights(self, buckets: Sequence[Bucket], slots: Sequence[Tensor]) -> Iterator[list[Tensor] | None]:
        raise AssertionError("no broadcast is tried without a rank")

    def weight_blocks(self) -> Halves:
        return self

    def held(self) -> dict[str, Block]:
        return self.served(2, distributed.rank() % 2)

    def served(self, tensor_parallel: int, rank: int) -> dict[str, Block]:
        rows = ROWS // tensor_parallel
        return {name: Block((rows * rank, rows * (rank + 1)), (0, COLUMNS)) for name in NAMES}

    def values(self, names: Collection[str]) -> dict[str, Tensor]:
        if self.victim and NAMES[-1] in names:
            os.kill(os.getpid(), signal.SIGKILL)
        return {name: block.of(self.weights()[name]) for name, block in self.held().items() if name in names}


@dataclass
class Standing:
    """Servers that are there before the job and stay there after it."""

    servers: list[Endpoint]

    def endpoints(self, timeout: float) -> list[Endpoint]:
        return self.servers

    def report_failure(self, endpoint: Endpoint, reason: str) -> None:
        raise AssertionError(f"{endpoint.name} is well: {reason}")

    def weights_loaded(self, endpoint_names: Collection[str], version: int) -> None: ...

    def stale(self) -> bool:
        return False


def publish(servers: list[Endpoint], versions: Sequence[int], victim: int | None, staged: bool) -> None:
    """Publish the versions; the rank `victim` is killed in the last bucket of the last one."""
    source = Halves()
    with closing(BroadcastSync(source, Standing(servers), CONFIG, staged=staged)) as sync:
        for source.version in versions:
            source.victim = distributed.rank() == victim and source.version == versions[-1]
            sync.publish(source.version)


def held_versions(fleet: Fleet, folder: Path) -> set[float]:
    """Return the versions of which the workers have any value."""
    found = set()
    for server, count in fleet.workers.items():
        for rank, tensors in enumerate(fleet.tensors(server, folder)):
            for number, (name, block) in enumerate(Halves().served(count, rank).items()):
                found |= set((block.of(tensors[name]) - number / 8).unique().tolist()) if name in tensors else set()
    return found


@pytest.mark.parametrize(("victim", "staged"), [(3, True), (3, False), (0, True)])
def test_a_job_that_loses_a_rank_says_so_and_the_next_one_goes_on(victim: int, staged: bool, tmp_path: Path) -> None:
    with closing(Fleet(1, 2)) as fleet:
        servers = list(fleet.running.values())
        with pytest.raises(AssertionError, match=f"rank {victim}: no result") as caught:
            run_ranks(publish, 4, tmp_path, servers, [1, 2], victim, staged)
        said = str(caught.value)
        assert said.count("a rank of the trainer was lost while weights of version 2 were sent") >= 3, said
        for server in fleet.running:
            assert fleet.version(server) == "1"
            pauses = [call for call in fleet.calls(server) if call.startswith(("/pause", "/resume"))]
            assert len(pauses) == (2 if staged else 3), "it goes on with version 1, or waits"
        if staged:
            assert held_versions(fleet, tmp_path) == {1.0}
        run_ranks(publish, 4, tmp_path, servers, [3, 4], None, staged)
        assert held_versions(fleet, tmp_path) == {4.0}
        assert {fleet.version(server) for server in fleet.running} == {"4"}
