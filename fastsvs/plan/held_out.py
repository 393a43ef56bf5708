"""Seconds of evaluations on held-out problems, which happen between steps and count in none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fastsvs.architecture import Architecture
from fastsvs.config import TrainJob
from fastsvs.plan.decoding import Decoder, rollout_line
from fastsvs.plan.hardware import Hardware
from fastsvs.plan.ledger import Line, assumed
from fastsvs.plan.sampled import Answers, Sampled
from fastsvs.selfplay import ORIGINAL

HELD_OUT = 500
"""Number of held-out problems where `evaluation.limit` does not say it: those of MATH-500."""


def evaluations(job: TrainJob) -> int:
    """Return the number of evaluations of the run: before it, after it, and between."""
    if job.evaluation.path is None:
        return 0
    every = job.evaluation.every
    between = (job.run.steps - 1) // every if every else 0
    return 2 + between


def evaluation_lines(
    architecture: Architecture,
    job: TrainJob,
    hardware: Hardware,
    width: int,
    decoder: Decoder,
    sampled: Sampled,
    publishing: float,
) -> list[Line]:
    """Return the seconds of one evaluation, for which weights are published in `publishing` seconds. Its responses are
    as long as those of the step to problems of the data set."""
    questions = _questions(job, sampled)
    decoding = rollout_line(architecture, job, hardware, width, decoder, questions)
    problems = len(questions.groups)
    known = f"{problems} problems" + ("" if job.evaluation.limit else ", where evaluation.limit does not say how many")
    basis = assumed(f"{known}; {decoding.basis.source}")
    return [Line("decoding", decoding.amount, basis), Line("new weights", publishing, basis)]


def _questions(job: TrainJob, sampled: Sampled) -> Sampled:
    """Return the held-out problems with lengths drawn from the step's own."""
    limit = job.evaluation.max_response_tokens or sampled.limit
    originals = [group for group in sampled.groups if group.kind == ORIGINAL]
    lengths = np.array([length for group in originals for length in group.responses])
    draw = np.random.default_rng(0)
    groups = [
        Answers(f"{i:05d}", ORIGINAL, originals[0].prompt, tuple(map(int, chosen)), learned=False)
        for i, chosen in enumerate(
            np.minimum(draw.choice(lengths, (job.evaluation.limit or HELD_OUT, job.evaluation.samples)), limit)
        )
    ]
    return replace(sampled, groups=groups, limit=limit)
