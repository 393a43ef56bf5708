"""A cluster for 32B that is only simulated, with the source of each number: no such cluster was measured.

Decode step of one server (4 x H100 SXM, tensor parallel 4, Qwen2.5-32B in bf16), from first principles:

- weights read once a step: 32.8e9 parameters x 2 bytes (huggingface.co/Qwen/Qwen2.5-32B, config.json and model card);
- KV cache read for each sequence: 64 layers x 2 (k, v) x 8 heads x 128 x 2 bytes = 262 kB a token of context (same);
- 3.35 TB/s of memory bandwidth and 989 TFLOP/s dense bf16 a GPU (NVIDIA H100 datasheet, SXM5). Reached, assumed:
  60% of the bandwidth, 50% of the FLOPs;
- assumed 3 ms a step that do not depend on the batch: 128 all-reduces, launches, scheduler, sampling.

Response lengths are log-normal, with the 99th percentile at ten times the median: "median ~ 500, p99 ~ 5000",
"approximately log-normal" for reasoning RL in jiahuanglin.xyz/all_lessons/RL/lessons/22b_longtail_rollouts.html. The
long tail is named as the main cost of synchronous rollouts in arXiv 2509.21009 (RollPacker) and 2605.30859 (DARTS:
within prompts too, so half of the variance each). The medians (1000, 2500) and the limit of 8192 are assumptions.
NeMo RL's published 32B run has a mean of 3251 tokens at a limit of 4096 (docs/about/performance-summary.md, r0.5.0).

Sizes of a step are the defaults of the configuration (256 prompts x 8, 8 variants x 8). It is assumed that 30% of the
prompts have 1 to 4 contexts and that 80% of the variants are valid.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastsvs.plan import Curve, Lengths, Workload

PARAMETERS = 32.8e9
KV_BYTES = 64 * 2 * 8 * 128 * 2
BANDWIDTH, FLOPS = 4 * 3.35e12 * 0.6, 4 * 989e12 * 0.5
FIXED_SECONDS = 3e-3
MAX_SEQUENCES = 256


def curve(context_tokens: float) -> Curve:
    """Return the throughput curve for sequences of this context on average, in tokens."""
    weights = PARAMETERS * 2 / BANDWIDTH

    def seconds(sequences: int) -> float:
        products = max(weights, sequences * 2 * PARAMETERS / FLOPS)
        return FIXED_SECONDS + products + sequences * context_tokens * KV_BYTES / BANDWIDTH

    points = (1, 32, 64, 128, MAX_SEQUENCES)
    return Curve(points, tuple(map(seconds, points)))


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    servers: int
    workload: Workload
    curve: Curve


def _case(servers: int, median: int) -> Case:
    lengths = Lengths(median, p99_over_median=10, limit=8192, within_group=0.5)
    workload = Workload(prompts=256, samples=8, lengths=lengths)
    return Case(f"simulated 32B, {4 * servers} H100, median {median} tokens", servers, workload, curve(300 + median))


CASES = [_case(servers, median) for median in (1000, 2500) for servers in (8, 16, 32)]
