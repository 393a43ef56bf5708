"""One rank of the trainer in `bench.sync.links`: publish to servers from shard to shard, while they decode, and from
one sender to servers that pause.

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


class Servers(Server):
    """A fleet of several servers."""

    def __init__(self, urls: list[str]) -> None:
        super().__init__(urls[0])
        object.__setattr__(self, "all", [Server(url, f"server {number}") for number, url in enumerate(urls)])

    def endpoints(self, timeout: float) -> list[Server]:
        return self.all  # type: ignore[attr-defined]


def main(model: str, rounds: int, cases: list[dict[str, Any]]) -> None:
    """Publish `rounds` times from shard to shard, and half as often from one sender, which takes longer."""
    torch.set_num_threads(1)
    distributed.initialize()
    config = PolicyConfig(dtype="bf16", tensor_parallel=2, recompute="none")
    policy = Policy(
        ModelConfig(path=model, initialize="random"), config, seed=0, total_updates=0, max_sequence_tokens=64
    )
    for case in cases:
        for shards in (True, False):
            sync_config = SyncConfig(timeout_seconds=TIMEOUT, attempts=1, shard_to_shard=shards)
            with closing(BroadcastSync(policy, Servers(case["urls"]), sync_config, staged=shards)) as sync:
                for version in range((rounds if shards else (rounds + 1) // 2) + 1):
                    sync.publish(version)
                    if version and distributed.is_main():  # the first meets the servers
                        print(json.dumps({"case": case["name"], "shards": shards, **sync.metrics()}), flush=True)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
