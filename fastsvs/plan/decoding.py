"""Seconds of a step's rollouts: the simulated engine under a curve from what decoding reads and multiplies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fastsvs.architecture import Architecture
from fastsvs.config import TrainJob
from fastsvs.plan.buffers import active_parameters, total_parameters
from fastsvs.plan.engine import EngineMemory
from fastsvs.plan.hardware import Hardware
from fastsvs.plan.ledger import Line, assumed
from fastsvs.plan.sampled import Sampled
from fastsvs.plan.simulation import Curve, simulate
from fastsvs.selfplay import Schedule

FIXED_SECONDS = 3e-3
"""Time of a decode step that does not depend on the batch: launches, scheduler, sampling, all-reduces."""
LOCAL_TOKEN_SECONDS = 42e-6
"""Processor time of the local engine for each token beside the network: sampling and bookkeeping (PLAN_RESULTS)."""
POINTS = (1, 8, 32, 64, 128, 256, 512, 1024)
BASIS = assumed("decode step: 3 ms, weights and cache read at the rate of a copy, products at a GEMM's rate")


@dataclass(frozen=True, slots=True)
class Decoder:
    """Place where sequences decode together: a server, or a rank of the local engine."""

    count: int
    devices: int
    """Number of devices of each."""
    sequences: int
    """Number of sequences that each decodes at most."""


def decode_curve(
    architecture: Architecture,
    hardware: Hardware,
    devices: int,
    width: int,
    context: float,
    prompt: float,
    sampling: float = 0.0,
) -> Curve:
    """Return the seconds of a decode step by the number of sequences in it, each with `context` tokens on average and
    `sampling` seconds of its own, and of taking in one with a prompt of `prompt` tokens."""
    a = architecture
    parameters, active = total_parameters(a), active_parameters(a)
    cache = 2 * a.attention_layers * max(a.groups, devices) * a.head_dim * width * context
    read, multiplied = devices * hardware.hbm.value, devices * hardware.gemm.value

    def seconds(sequences: int) -> float:
        products = max(parameters * width / read, sequences * 2 * active / multiplied)
        return FIXED_SECONDS + products + sequences * (cache / read + sampling)

    return Curve(POINTS, tuple(map(seconds, POINTS)), admission=2 * active * prompt / multiplied)


def decoder_of(job: TrainJob, memory: EngineMemory, servers: int, ranks: int, context: float) -> Decoder:
    """Return what decodes. A server whose cache holds fewer sequences than it may take decodes no more than that."""
    if job.rollout.engine == "local":
        return Decoder(ranks, 1, job.rollout.max_sequences)
    held = max(1, int(memory.cache_tokens / max(context, 1)))
    return Decoder(servers, job.rollout.server.tensor_parallel, min(job.rollout.max_sequences, held))


def rollout_line(
    architecture: Architecture, job: TrainJob, hardware: Hardware, width: int, decoder: Decoder, sampled: Sampled
) -> Line:
    """Return the seconds of a step's rollouts."""
    prompt = sampled.prompt_tokens / max(sampled.samples, 1) / job.rollout.samples_per_prompt  # read once a group
    sampling = LOCAL_TOKEN_SECONDS if job.rollout.engine == "local" else 0.0
    curve = decode_curve(architecture, hardware, decoder.devices, width, sampled.mean_context, prompt, sampling)
    seconds = _simulated(sampled, curve, decoder.count, decoder.sequences, job.selfplay.schedule)
    return Line("decoding", seconds, BASIS)


@lru_cache(maxsize=256)
def _simulated(sampled: Sampled, curve: Curve, count: int, sequences: int, schedule: Schedule) -> float:
    return simulate([sampled], curve, count, sequences, schedule).seconds
