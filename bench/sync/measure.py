"""Measurements, made in turn: publishing the policy, a broadcast of as many bytes, and the link underneath."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
from transformers import Qwen2Config

from fastsvs.config import ModelConfig, PolicyConfig, SyncConfig
from fastsvs.policy import Policy
from fastsvs.sync import BroadcastSync
from fastsvs.sync.group import Group, serve_store
from fastsvs.sync.routes import Routes
from fastsvs.sync.transports import TransportName

TIMEOUT = 600.0
QWEN_0_5B = Qwen2Config(
    architectures=["Qwen2ForCausalLM"],
    num_hidden_layers=24,
    hidden_size=896,
    intermediate_size=4864,
    num_attention_heads=14,
    num_key_value_heads=2,
    vocab_size=151936,
    max_position_embeddings=32768,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    tie_word_embeddings=True,
)
SMOKE = Qwen2Config(**QWEN_0_5B.to_dict() | {"num_hidden_layers": 2, "vocab_size": 5000, "layer_types": None})


@dataclass(frozen=True)
class Server:
    """An endpoint, and a fleet of this one server."""

    url: str
    name: str = "receiver"
    api_key: str = "none"
    incarnation: int = 0

    def endpoints(self, timeout: float) -> list[Server]:
        return [self]

    def report_failure(self, endpoint: object, reason: str) -> None:
        raise RuntimeError(reason)

    def weights_loaded(self, endpoint_names: Collection[str], version: int) -> None: ...

    def stale(self) -> bool:
        return False


@contextmanager
def receiver(transport: TransportName, device: str) -> Iterator[Server]:
    """Open a process that runs `bench.sync.server`."""
    program = [sys.executable, "-m", "bench.sync.server", transport, device]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
        process.kill()


def build_policy(hf: Qwen2Config, folder: str) -> Policy:
    hf.save_pretrained(folder)
    model = ModelConfig(path=folder, initialize="random")
    return Policy(model, PolicyConfig(dtype="bf16"), seed=0, total_updates=0, max_sequence_tokens=64)


def publish_seconds(
    policy: Policy, server: Server, transport: TransportName, bucket_bytes: int, rounds: int
) -> Iterator[float]:
    """Yield the seconds of one publish after another, without the first, which meets the server."""
    config = SyncConfig(bucket_bytes=bucket_bytes, timeout_seconds=TIMEOUT, attempts=1)
    with closing(BroadcastSync(policy, server, config, transport)) as sync:
        for version in range(rounds + 1):
            sync.publish(version)
            if version:
                yield sync.metrics()["sync/seconds"]


def broadcast_seconds(server: Server, nbytes: int, device: torch.device, rounds: int) -> Iterator[float]:
    """Yield the seconds of one broadcast after another of one warm buffer, with call and answer over HTTP."""
    store, port = serve_store("127.0.0.1", TIMEOUT)
    routes = Routes(server)
    join = _in_background(
        lambda: routes._call("POST", "/join_plain", TIMEOUT, {"address": "127.0.0.1", "port": port, "nbytes": nbytes})
    )
    group = Group(store, 0, 2, "127.0.0.1", TIMEOUT, device)
    join.join()
    buffer = torch.ones(nbytes, dtype=torch.uint8, device=device)  # untouched zeros would lie in one page
    for round in range(rounds + 1):
        begin = perf_counter()
        receiving = _in_background(lambda: routes._call("POST", "/plain", TIMEOUT, {}))
        group.broadcast(buffer).wait()
        receiving.join()
        if round:
            yield perf_counter() - begin
    group.abandon()


def link_bytes_per_second(sender: torch.device, target: torch.device, nbytes: int) -> float:
    """Return the speed of the link in bytes per second.

    For two GPUs it is a copy from one to the other. For one GPU, or the CPU, it is a copy within its memory. (Over
    loopback every byte is copied into the kernel and out of it, at best at the same time.)
    """
    source = torch.ones(nbytes, dtype=torch.uint8, device=sender)
    sink = torch.zeros_like(source, device=target)
    return nbytes / min(_copy_seconds(source, sink) for _ in range(5))


def _copy_seconds(source: torch.Tensor, sink: torch.Tensor) -> float:
    _synchronize(source.device)
    begin = perf_counter()
    sink.copy_(source)
    _synchronize(source.device)
    _synchronize(sink.device)
    return perf_counter() - begin


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _in_background(call) -> threading.Thread:  # type: ignore[no-untyped-def]
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread
