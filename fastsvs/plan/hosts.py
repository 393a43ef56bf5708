"""Seconds that a step spends on the processors of its hosts: answers that are checked, batches that are handed over,
rows that are planned, and what client processes do beside it."""

from __future__ import annotations

from fastsvs.config import TrainJob
from fastsvs.plan.ledger import Line, assumed, calibrated
from fastsvs.plan.machine import BATCH_TOKEN_BYTES
from fastsvs.plan.sampled import Sampled
from fastsvs.selfplay import SYNTHESIS

VERDICTS = "waiting for verdicts"
PLAN_RESULTS = "bench/results/plan-amd-epyc-2-cores-2026-11-27.json"
CHECK_SECONDS = 0.4e-3
"""Processor time of checking one answer that is no plain integer (PLAN_RESULTS)."""
VERIFIERS = 8
"""Number of verifier processes where the configuration leaves it to the machine."""
CLIENT_RESULTS = "bench/results/client-amd-epyc-2-cores-2026-11-27.json"
TRAINER_TOKEN_SECONDS, CLIENT_TOKEN_SECONDS = 0.076e-6, 0.6e-6
"""Processor time for each response token of the main rank and of a client process (CLIENT_RESULTS)."""
HOST_RESULTS = "bench/results/host-32b-amd-epyc-2-cores-2026-11-27.json"
SAMPLE_SECONDS = 0.27 / 16384
"""Processor time of planning the rows of an update for each sample, and of making them: 0.26 s of all 16,384, and
0.18 s of the rows of one of 16 ranks (HOST_RESULTS)."""
OBJECT_RATE = 1e9
"""Bytes/s at which the main rank hands a batch to the others."""


def verification_line(job: TrainJob, sampled: Sampled, decoding: float) -> Line:
    """Return the seconds in which the engine waits for verdicts. Answers are checked while others are decoded: what is
    left is the work that `decoding` seconds are too short for, and the last groups of every generation of self-play,
    which nothing hides."""
    workers = job.verifier.workers or VERIFIERS
    checked = [group for group in sampled.groups if group.kind != SYNTHESIS]
    generations = 1 + max(group.key.count("/") for group in checked) // 2
    last = generations * job.rollout.samples_per_prompt / min(workers, job.rollout.samples_per_prompt)
    whole = sum(len(group.responses) for group in checked) / workers
    exposed = max(whole * CHECK_SECONDS - decoding, last * CHECK_SECONDS)
    return Line(VERDICTS, exposed, calibrated(PLAN_RESULTS))


def batch_line(sampled: Sampled, ranks: int, replayed: int) -> Line:
    """Return the seconds in which the main rank makes the batch and hands it to the others, with `replayed` bytes for
    the experts of each token."""
    responses = sum(sum(group.responses) for group in sampled.learned)
    prompts = sum(group.prompt * len(group.responses) for group in sampled.learned)
    handed = responses * BATCH_TOKEN_BYTES + (prompts + responses) * replayed if ranks > 1 else 0
    seconds = sampled.response_tokens * TRAINER_TOKEN_SECONDS + handed / OBJECT_RATE
    return Line("the batch, made and handed over", seconds, assumed("0.076 us a token, and 1 GB/s to all ranks"))


def planning_line(samples: int) -> Line:
    """Return the seconds in which a rank plans and makes the rows of `samples` samples."""
    return Line("planning of rows", samples * SAMPLE_SECONDS, calibrated(HOST_RESULTS))


def client_line(job: TrainJob, sampled: Sampled) -> Line:
    """Return the processor time of each client process, beside the rollouts."""
    seconds = 0.0
    if job.rollout.engine != "local":
        seconds = sampled.response_tokens * CLIENT_TOKEN_SECONDS / job.rollout.client_processes
    return Line("processor time of each client process", seconds, calibrated(CLIENT_RESULTS))
