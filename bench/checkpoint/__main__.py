"""Command line: what a checkpoint costs the steps around it, written while they wait and in the background, and what
resuming from it reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from transformers import Qwen2Config

from bench import report
from bench.report import Row
from bench.usage import parser_of
from fastsvs.algorithms import Batch
from fastsvs.commands.sft import negative_log_likelihood, supervised_batch
from fastsvs.config import AlgorithmConfig, ModelConfig, PolicyConfig
from fastsvs.policy import Policy, checkpoint

UPDATES = 4
"""Number of updates from one save to the next."""
SHARED = "the disk and the two cores are shared with other work"


@dataclass(frozen=True)
class Suite:
    """Size of the model and of an update."""

    layers: int
    hidden: int
    vocabulary: int
    samples: int


SUITES = {"cpu": Suite(8, 512, 32000, 16), "smoke": Suite(2, 64, 1000, 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("checkpoint", __doc__, SUITES)
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of each way to save, in turn")
    parser.add_argument("--folder", type=Path, help="folder on the disk to measure; default: one for temporary files")
    chosen = parser.parse_args(arguments)
    report.introduce(chosen.suite, needs_gpu=False)
    with TemporaryDirectory(dir=chosen.folder) as folder:
        rows = list(run(SUITES[chosen.suite], Path(folder), chosen.rounds))
    report.publish(f"checkpoint-{chosen.suite}", rows, chosen.out)


def run(suite: Suite, folder: Path, rounds: int) -> Iterator[Row]:
    policy, batch = build_policy(suite, folder / "model"), make_batch(suite)
    update(policy, batch)
    saver = checkpoint.Saver(folder / "checkpoints", keep=1)
    times: dict[str, list[float]] = {"no save": [], "save, then go on": [], "save in the background": []}
    pauses: dict[str, list[float]] = {way: [] for way in times}
    writes = []
    for number in range(rounds + 1):
        for way in times:
            seconds, pause = steps_with(way, policy, batch, saver, number)
            written = saver.take_times().get("time/checkpoint_write")
            if number:  # the first round meets new memory
                times[way].append(seconds)
                pauses[way].append(pause)
                writes += [written] if way == "save in the background" and written else []
    [file] = (folder / "checkpoints").rglob("*.safetensors")
    nbytes = file.stat().st_size
    floor = plain_write_seconds(folder / "plain", nbytes)
    case = f"{nbytes / 1e6:.0f} MB, {UPDATES} updates a save"
    for way, found in times.items():
        yield Row(case, way, "seconds of the updates and the save", median(found), "s", note=SHARED)
        if way != "no save":
            lost = median(own - bare for own, bare in zip(found, times["no save"], strict=True))
            yield Row(case, way, "seconds lost to a save", lost, "s", note=SHARED)
            yield Row(case, way, "seconds in which the updates wait", median(pauses[way]), "s", note=SHARED)
    yield Row(case, "save in the background", "seconds of the write beside updates", median(writes), "s", floor)
    yield Row(case, "plain write and fsync", "seconds", floor, "s", note=SHARED)
    began = perf_counter()
    [path] = (folder / "checkpoints").iterdir()
    checkpoint.load(policy, path)
    yield Row(case, "load, hashed on the way", "seconds", perf_counter() - began, "s", note="from the page cache")


def steps_with(way: str, policy: Policy, batch: Batch, saver: checkpoint.Saver, step: int) -> tuple[float, float]:
    """Return the seconds of some updates with a save before them, and those in which they wait for it. What is not
    written when they are done is waited for: the next save would."""
    began = perf_counter()
    if way != "no save":
        saver.begin(policy, step, {})
    if way == "save, then go on":
        saver.finish()
    pause = perf_counter() - began
    for _ in range(UPDATES):
        update(policy, batch)
    waits = perf_counter()
    saver.finish()
    return perf_counter() - began, pause + perf_counter() - waits


def build_policy(suite: Suite, folder: Path) -> Policy:
    config = Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        num_hidden_layers=suite.layers,
        hidden_size=suite.hidden,
        intermediate_size=3 * suite.hidden,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=suite.vocabulary,
        tie_word_embeddings=True,
    )
    config.save_pretrained(folder)
    model = ModelConfig(path=str(folder), initialize="random")
    return Policy(model, PolicyConfig(dtype="fp32"), seed=0, total_updates=1000, max_sequence_tokens=64)


def make_batch(suite: Suite) -> Batch:
    tokens = np.random.default_rng(0).integers(0, suite.vocabulary, (suite.samples, 64))
    learned = np.arange(64) >= 8
    return supervised_batch([(row, learned) for row in tokens])


def update(policy: Policy, batch: Batch) -> None:
    weights = torch.full((len(batch),), 1e-3)
    policy.update(batch, negative_log_likelihood, AlgorithmConfig(), weights, temperature=1.0)


def plain_write_seconds(path: Path, nbytes: int) -> float:
    """Return the seconds of writing as many bytes to a file and flushing it, without anything else."""
    content = bytes(1 << 20)
    began = perf_counter()
    with open(path, "wb") as file:
        for _ in range(nbytes >> 20):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return perf_counter() - began


if __name__ == "__main__":
    main()
