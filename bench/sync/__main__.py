"""Command line: publish a 0.5 B-parameter policy, beside a plain broadcast of its bytes and the link's own speed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from tempfile import TemporaryDirectory

import torch

from bench import report
from bench.report import Row
from bench.sync import links
from bench.sync.measure import (
    QWEN_0_5B,
    SMOKE,
    broadcast_seconds,
    build_policy,
    link_bytes_per_second,
    publish_seconds,
    receiver,
)
from bench.usage import parser_of
from fastsvs.sync.transports import TransportName

BAR = 0.8
"""Share of the plain broadcast's speed to reach, as the issue that asked for this benchmark says."""


@dataclass(frozen=True)
class Suite:
    gpus: int
    transports: tuple[TransportName, ...]
    bucket_bytes: int
    link: str
    smoke: bool = False

    @property
    def receiving(self) -> torch.device:
        return torch.device("cpu") if not self.gpus else torch.device("cuda", self.gpus - 1)


SUITES = {
    "cpu": Suite(0, ("broadcast", "ipc"), 512 << 20, "a copy within memory"),
    "nccl": Suite(2, ("broadcast",), 512 << 20, "a copy from one GPU to the other"),
    "ipc": Suite(1, ("ipc",), 512 << 20, "a copy within the GPU"),
    "smoke": Suite(0, ("broadcast", "ipc"), 4 << 20, "a copy within memory", smoke=True),
}

LINKS = ("links", "links-smoke", "nccl-shards")
"""Suites of several ranks and workers (`bench.sync.links`): with a shaped link each, or with a GPU each."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("sync", __doc__, {*SUITES, *LINKS})
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds of each provider, in turn")
    parser.add_argument("--megabits", type=float, default=200.0, help="speed of a card's link (suite links)")
    chosen = parser.parse_args(arguments)
    if chosen.suite in LINKS:
        smoke = chosen.suite == "links-smoke"
        shaped = chosen.suite != "nccl-shards"
        rows = (
            links.measure_links(chosen.rounds, chosen.megabits, smoke) if shaped else links.measure_gpus(chosen.rounds)
        )
        report.keep(f"sync-{chosen.suite}", [rows], chosen.out)
        return
    suite = SUITES[chosen.suite]
    if torch.cuda.device_count() < suite.gpus or (not suite.gpus and torch.cuda.is_available()):
        needed = f"{suite.gpus} GPU(s)" if suite.gpus else "no GPU in sight (CUDA_VISIBLE_DEVICES=)"
        sys.exit(f"suite {chosen.suite!r} needs {needed}, torch sees {torch.cuda.device_count()}: nothing was measured")
    torch.set_num_threads(1)
    report.introduce(chosen.suite, needs_gpu=False)
    report.keep(f"sync-{chosen.suite}", [run(suite, chosen.rounds)], chosen.out)


def run(suite: Suite, rounds: int) -> Iterator[Row]:
    device = torch.device("cuda", 0) if suite.gpus else torch.device("cpu")
    with TemporaryDirectory() as folder:
        policy = build_policy(SMOKE if suite.smoke else QWEN_0_5B, folder)
    nbytes = sum(spec.nbytes for spec in policy.weight_specs())
    print(f"{nbytes / 1e9:.3f} GB of bf16 tensors; medians of {rounds} rounds in turn")
    link = link_bytes_per_second(device, suite.receiving, nbytes)
    yield from show("link", suite.link, nbytes, nbytes / link, link)
    plain = None
    for transport in suite.transports:
        with receiver(transport, str(suite.receiving)) as server:
            ours = publish_seconds(policy, server, transport, suite.bucket_bytes, rounds)
            if suite.gpus == 1:  # two ranks of one group cannot share a GPU: the plain way is the copy itself
                times = [(next(ours), nbytes / link) for _ in range(rounds)]
            else:
                others = broadcast_seconds(server, nbytes, device, rounds)
                times = [(next(ours), next(others)) for _ in range(rounds)]
            ours.close()
        seconds, plain = (median(column) for column in zip(*times, strict=True))
        if suite.gpus != 1:
            yield from show(transport, "plain broadcast of one buffer", nbytes, plain, link)
        yield from show(transport, "fastsvs", nbytes, seconds, link)
        ratio = median(other / own for own, other in times)
        print(f"{transport}: {ratio:.0%} of the plain way's speed (bar: {BAR:.0%})")
        yield Row(transport, "fastsvs", "speed against plain broadcast", ratio, "ratio", BAR)


def show(case: str, provider: str, nbytes: int, seconds: float, link: float) -> Iterator[Row]:
    bound = nbytes / link
    print(f"{case}, {provider}: {seconds:.3f} s, {nbytes / seconds / 1e9:.2f} GB/s (the link alone: {bound:.3f} s)")
    yield Row(case, provider, "seconds", seconds, "s", bound)
    yield Row(case, provider, "rate", nbytes / seconds / 1e9, "GB/s", link / 1e9)


if __name__ == "__main__":
    main()
