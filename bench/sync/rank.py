"""One rank of the trainer in `bench.sync.links`: publish to servers from shard to shard, while they decode, whole
weights and those that changed; and from one sender to servers that pause.

The main rank prints a JSON object with the metrics of each publish.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import Any

import torch

from bench.sync.measure import TIMEOUT, Server
from fastsvs import distributed
from fastsvs.config import ModelConfig, PolicyConfig, SyncConfig
from fastsvs.policy import Policy
from fastsvs.sync import BroadcastSync

SHARDS, ONE_SENDER = "shard to shard", "one sender"
SHARES = {f"{share:.0%} changed": share for share in (0.01, 0.05, 0.3)}
"""Shares of the weights that change before a publish, by the way's name."""


class Servers(Server):
    """A fleet of several servers."""

    def __init__(self, urls: list[str]) -> None:
        super().__init__(urls[0])
        object.__setattr__(self, "all", [Server(url, f"server {number}") for number, url in enumerate(urls)])

    def endpoints(self, timeout: float) -> list[Server]:
        return self.all  # type: ignore[attr-defined]


class Publishing:
    """Publishes of one policy, of which the main rank prints the metrics."""

    def __init__(self, model: str) -> None:
        config = PolicyConfig(dtype="bf16", tensor_parallel=2, recompute="none")
        self._policy = Policy(
            ModelConfig(path=model, initialize="random"), config, seed=0, total_updates=0, max_sequence_tokens=64
        )

    def measure(self, urls: list[str], ways: list[str], rounds: int, **settings: Any) -> None:
        """Publish to these servers `rounds` times in each way, one after the other, with these settings."""
        config = SyncConfig(timeout_seconds=TIMEOUT, attempts=1, **settings)
        fleet = Servers(urls)
        with closing(BroadcastSync(self._policy, fleet, config, staged=config.shard_to_shard)) as sync:
            sync.publish(0)  # it meets the servers
            for version, way in enumerate((way for way in ways for _ in range(rounds)), start=1):
                if way in SHARES:
                    self._change(SHARES[way], version)
                sync.publish(version)
                if distributed.is_main():
                    print(json.dumps({"way": way, **sync.metrics()}), flush=True)

    def _change(self, share: float, seed: int) -> None:
        """Change the last bit of a share of the weights, drawn alike on all ranks that hold them."""
        generator = torch.Generator().manual_seed(seed)
        for value in self._policy.stage.parameters():
            chosen = torch.rand(value.numel(), generator=generator).lt_(share).to(value.device, torch.int16)
            value.data.view(-1).view(torch.int16).bitwise_xor_(chosen)


def main(model: str, rounds: int, urls: list[str]) -> None:
    """Publish `rounds` times from shard to shard, and half as often from one sender, which takes longer, and of each
    share that changed."""
    torch.set_num_threads(1)
    distributed.initialize()
    publishing, few = Publishing(model), (rounds + 1) // 2
    publishing.measure(urls, [SHARDS], rounds)
    publishing.measure(urls, list(SHARES), few, sparse="auto")
    publishing.measure(urls, [ONE_SENDER], few, shard_to_shard=False)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
