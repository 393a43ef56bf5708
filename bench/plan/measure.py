"""Processor time of updates on a CPU, one layout a process group: `torchrun -m bench.plan.measure --case NAME
FOLDER/FILE`, with the model in FOLDER/model.

Processor time, because other work on the machine moves the clock's by more than what is to be told apart.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import torch
import torch.distributed as dist

from bench.plan.cases import CASES, ROUNDS, Case, groups_of
from fastsvs import distributed
from fastsvs.algorithms import Batch, policy_loss
from fastsvs.config import AlgorithmConfig, ModelConfig
from fastsvs.policy import Policy


def batch_of(case: Case, vocabulary: int) -> Batch:
    """Return random tokens of the case's lengths."""
    draw = np.random.default_rng(0)
    groups = groups_of(case)
    lengths = [(group.prompt, n) for group in groups for n in group.responses]
    tokens = sum(n for _, n in lengths)
    return Batch(
        prompt_ids=[draw.integers(0, vocabulary, prompt) for prompt, _ in lengths],
        response_ids=[draw.integers(0, vocabulary, n) for _, n in lengths],
        kinds=[group.kind for group in groups for _ in group.responses],
        groups=torch.arange(len(lengths)),
        rewards=torch.zeros(len(lengths)),
        advantages=torch.ones(tokens),
        rollout_logprobs=torch.full((tokens,), -5.0),
        old_logprobs=torch.full((tokens,), -5.0),
    )


def measure(case: Case, model: Path) -> list[float]:
    """Return the processor seconds of updates on this rank. `model` is the folder of the case's model."""
    algorithm = AlgorithmConfig()
    source = ModelConfig(path=str(model), initialize="random")
    policy = Policy(source, case.policy, seed=0, total_updates=100, max_sequence_tokens=512)
    batch = batch_of(case, policy.architecture.vocabulary)
    weights = torch.full((len(batch),), 1e-4)
    seconds = []
    for _ in range(ROUNDS + 1):
        distributed.barrier()
        began = process_time()
        policy.update(batch, policy_loss(algorithm), algorithm, weights, 1.0)
        seconds.append(process_time() - began)
    return seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    distributed.initialize()
    own = median(measure(CASES[options.case], options.file.parent / "model"))
    everyone = distributed.gather(own)
    if distributed.is_main():
        options.file.write_text(json.dumps(everyone))
    dist.destroy_process_group()  # its threads may end the process with an abort


if __name__ == "__main__":
    main()
