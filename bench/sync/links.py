"""Publishing over links of a set speed: four ranks of a trainer (tensor parallelism of 2, two replicas) to four
workers, with a card each. From shard to shard, whole weights and those that changed, and from one sender."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from tempfile import TemporaryDirectory

import torch
from transformers import Qwen2Config

from bench import report
from bench.report import Row
from bench.sync.measure import QWEN_0_5B, link_bytes_per_second
from bench.sync.network import Card, cards, environment
from bench.sync.rank import ONE_SENDER, SHARDS, SHARES
from fastsvs.config import PolicyConfig
from fastsvs.plan.memory import sync_bytes
from fastsvs.policy import read_architecture
from fastsvs.sync.sparse import WORD, message_bytes, smallest

RANKS = WORKERS = 4
SHARE, PAUSE_SHARE = 0.8, 0.05
"""Share of the links' bound to reach, and of the transfer to pause for at most, as the issue that asked for this
benchmark says."""
MODEL = Qwen2Config(
    **QWEN_0_5B.to_dict()
    | {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 4, "layer_types": None}
)
"""A model of the size of Qwen2.5-0.5B whose heads four workers can share."""
SMOKE = Qwen2Config(**MODEL.to_dict() | {"num_hidden_layers": 2, "vocab_size": 5000, "layer_types": None})


@dataclass(frozen=True)
class Fleet:
    """Servers on the four workers."""

    servers: int

    @property
    def name(self) -> str:
        each = WORKERS // self.servers
        return f"{self.servers} server{'s' * (self.servers > 1)} of {each} workers"

    def bound(self, nbytes: int, rate: float) -> float:
        """Return the seconds that the links take: the busiest card, at `rate` bytes per second."""
        return max(self.servers * nbytes / RANKS, nbytes / (WORKERS // self.servers)) / rate


FLEETS = (Fleet(1), Fleet(2))
Found = Mapping[str, Sequence[Mapping[str, float]]]
"""Metrics of the publishes to a fleet by the way."""


def run(rounds: int, places: Sequence[Card], rate: float, note: str, smoke: bool) -> Iterator[Row]:
    """Measure with the ranks and then the workers at `places`, between which a link passes `rate` bytes per second each
    way, and yield the rows."""
    model = SMOKE if smoke else MODEL
    nbytes = sync_bytes(read_architecture(model), PolicyConfig(dtype="bf16"))
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for fleet in FLEETS:
            yield from rows(fleet, _published(fleet, places, folder, rounds), nbytes, rate, note)


def _published(fleet: Fleet, places: Sequence[Card], model: str, rounds: int) -> Found:
    """Return what publishes to one fleet measured. Its processes end with it: those of two fleets at once need more
    memory than the machines that this runs on have."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with ExitStack() as stack:
        workers = [(card, _start_worker(stack, card, n, fleet, model)) for n, card in enumerate(places[RANKS:])]
        urls = [_url(*worker) for worker in workers]
        ranks = [_start_rank(stack, places, rank, model, rounds, urls) for rank in range(RANKS)]
        assert ranks[0].stdout is not None
        for line in ranks[0].stdout:
            metrics = json.loads(line)
            found[metrics["way"]].append(metrics)
            parts = ", ".join(f"{part} {metrics[f'sync/{part}_seconds']:.2f} s" for part in ("transfer", "pause"))
            print(f"{fleet.name}, {metrics['way']}: {metrics['sync/seconds']:.2f} s, {parts}", flush=True)
        if any(rank.wait(60) for rank in ranks):
            sys.exit("a rank of the trainer failed: nothing was measured")
    return found


def rows(fleet: Fleet, found: Found, nbytes: int, rate: float, note: str) -> Iterator[Row]:
    """Yield the figures of one fleet."""
    bound = fleet.bound(nbytes, rate)
    yield from _way(fleet.name, SHARDS, found, bound, rate, note)
    yield from _way(fleet.name, ONE_SENDER, found, nbytes / rate, rate, note)
    transfer, pause = (_middle(found[SHARDS], f"sync/{part}_seconds") for part in ("transfer", "pause"))
    yield Row(fleet.name, SHARDS, "transfer", transfer, "s", bound)
    yield Row(fleet.name, SHARDS, "pause", pause, "s", PAUSE_SHARE * transfer)
    yield Row(fleet.name, SHARDS, "share of the links' bound", bound / transfer, "ratio", SHARE)
    whole, one = (_middle(found[way], "sync/seconds") for way in (SHARDS, ONE_SENDER))
    yield Row(fleet.name, SHARDS, "speed against one sender", one / whole, "ratio")
    yield Row(fleet.name, SHARDS, "speed against the bound of one sender", nbytes / rate / whole, "ratio")
    for way, share in SHARES.items():
        yield from _changes(fleet, way, share, found, nbytes, rate, note)


def _way(case: str, way: str, found: Found, bound: float, rate: float, note: str) -> Iterator[Row]:
    yield Row(case, way, "seconds", _middle(found[way], "sync/seconds"), "s", bound, note)
    busiest = _middle(found[way], "sync/bytes")
    yield Row(case, way, "through the busiest card", busiest / 1e9, "GB", bound * rate / 1e9)


def _changes(fleet: Fleet, way: str, share: float, found: Found, nbytes: int, rate: float, note: str) -> Iterator[Row]:
    """Yield the figures of weights of which a share changed. The links' bound is that of the smallest messages."""
    measured, words = found[way], nbytes // WORD.itemsize
    changed = round(share * words)
    bound = fleet.bound(message_bytes(smallest(words, changed), words, changed), rate)
    yield from _way(fleet.name, way, found, bound, rate, note)
    transfer = _middle(measured, "sync/transfer_seconds")
    whole, seconds = (_middle(found[each], "sync/seconds") for each in (SHARDS, way))
    yield Row(fleet.name, way, "transfer", transfer, "s", bound)
    yield Row(fleet.name, way, "comparing and encoding", _middle(measured, "sync/coding_seconds"), "s")
    yield Row(fleet.name, way, "words found changed", _middle(measured, "sync/changed"), "ratio", share)
    yield Row(fleet.name, way, "messages sent whole", _middle(measured, "sync/messages/whole"), "count")
    yield Row(fleet.name, way, "share of the links' bound", bound / transfer, "ratio")
    yield Row(fleet.name, way, "speed against whole weights", whole / seconds, "ratio")


def _middle(measured: Sequence[Mapping[str, float]], metric: str) -> float:
    return median(metrics[metric] for metrics in measured)


def _start_worker(stack: ExitStack, card: Card, number: int, fleet: Fleet, model: str) -> subprocess.Popen[str]:
    """Start a worker, which has HTTP routes of its own and prints their port."""
    size = WORKERS // fleet.servers
    program = [sys.executable, "-m", "bench.sync.server", "broadcast", card.device, card.address]
    place = [str(number % size), str(size), model]
    process = stack.enter_context(_program(card, [*program, *place], stdin=subprocess.PIPE))
    stack.callback(process.kill)
    return process


def _url(card: Card, worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return f"http://{card.address}:{int(worker.stdout.readline())}"


def _start_rank(
    stack: ExitStack, places: Sequence[Card], rank: int, model: str, rounds: int, urls: list[str]
) -> subprocess.Popen[str]:
    told = json.dumps({"model": model, "rounds": rounds, "urls": urls})
    settings = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    settings |= {"MASTER_ADDR": places[0].address, "MASTER_PORT": "29500"}
    process = stack.enter_context(_program(places[rank], [sys.executable, "-m", "bench.sync.rank", told], **settings))
    stack.callback(process.kill)
    return process


def _program(card: Card, command: list[str], stdin: int | None = None, **settings: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*card.prefix, *command], env=environment(card, **settings), stdin=stdin, stdout=subprocess.PIPE, text=True
    )


def measure_links(rounds: int, megabits: float, smoke: bool) -> list[Row]:
    """Measure between shaped links, and print. Exits with a message where the system does not permit them."""
    note = f"{megabits:g} Mbit/s a card and direction"
    print(f"device: {report.machine()}; links of {note}")
    try:
        with cards(RANKS + WORKERS, megabits) as places:
            return _shown(run(rounds, places, megabits * 1e6 / 8, note, smoke))
    except OSError as error:
        sys.exit(f"no shaped links here, so nothing was measured (they take root, ip and tc): {error}")


def measure_gpus(rounds: int) -> list[Row]:
    """Measure between the GPUs of this machine, and print. Exits with a message where there are too few."""
    if torch.cuda.device_count() < RANKS + WORKERS:
        sys.exit(f"this takes {RANKS + WORKERS} GPUs, torch sees {torch.cuda.device_count()}: nothing was measured")
    first, second = torch.device("cuda", 0), torch.device("cuda", RANKS)
    rate = link_bytes_per_second(first, second, 1 << 30)
    places = [Card("", "127.0.0.1", f"cuda:{number}") for number in range(RANKS + WORKERS)]
    return _shown(run(rounds, places, rate, f"{rate / 1e9:.0f} GB/s from GPU to GPU, as a copy takes", smoke=False))


def _shown(rows: Iterator[Row]) -> list[Row]:
    found = list(rows)
    for row in found:
        report.show(row)
    return found
