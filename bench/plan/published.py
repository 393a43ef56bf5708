"""Published times of jobs like ours, beside what is planned of our own trainer for the same work.

A plan is of FastSvS, not of their programs: a difference says that we would be slower or faster, or that the plan is
wrong, and no point tells the two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

from bench.plan.shipped import CONFIGS, architecture_of
from bench.report import Row
from bench.trainer.suites import MODELS
from fastsvs.architecture import read_architecture
from fastsvs.config import PolicyConfig, TrainJob, load
from fastsvs.plan import (
    Answers,
    Cluster,
    JobPlan,
    Lengths,
    Machine,
    Machines,
    RowWork,
    Sampled,
    assumed,
    layout_of,
    plan_job,
    read_hardware,
    total,
    update_lines,
)
from fastsvs.selfplay import ORIGINAL, Task

NEMO = "https://github.com/NVIDIA-NeMo/RL/blob/r0.5.0/docs/about/performance-summary.md"
PRIME = "https://github.com/PrimeIntellect-ai/prime-rl/tree/main/benchmarks/baselines"
ONE_SENDER = "sync.shard_to_shard=false"
"""Change with which one rank sends the weights, as theirs did in these measurements."""
VERL = "https://github.com/verl-project/verl/issues/7060, 2026-07-20"
NEMO_TOKENS = 3251
"""Mean number of tokens of a prompt and its response there."""
NEMO_PROMPT, NEMO_LIMIT = 150, 4096
NEMO_LENGTHS = Lengths(median=3490, p99_over_median=4, limit=NEMO_LIMIT - NEMO_PROMPT, within_group=0.5)
"""Lengths with their mean, NEMO_TOKENS less the prompt. Two in five reach the limit: the model thinks at length."""


@dataclass(frozen=True)
class Point:
    """One published figure."""

    case: str
    provider: str
    metric: str
    value: float
    unit: str
    source: str
    assumptions: str
    """Assumptions that had to be made of their work."""
    why: str
    """Reasons for the difference that are known."""
    plan: Callable[[], float]


def points() -> list[Point]:
    """Return the published figures that the plan is held against."""
    turns = _nemo("qwen2.5_32b_svs_colocated", 4)
    beside = _nemo("qwen2.5_32b_svs", 8, "rollout.nodes=4", ONE_SENDER)
    return [
        *_nemo_points("GRPO of Qwen3-32B on 32 H100, on policy", turns, 376, 571, 32),
        *_nemo_points("GRPO of Qwen3-32B on 64 H100, one step off", beside, 200, 538, 64),
        _prime("qwen3-0.6b", 1, 16384, 1.992),
        _prime("qwen3-0.6b", 1, 65536, 12.18),
        _prime("qwen3-4b", 8, 16384, 4.688),
        _prime("qwen3-4b", 8, 65536, 30.29),
        *_syncs(),
    ]


def rows() -> Iterator[Row]:
    """Yield each published figure and what is planned of it."""
    for point in points():
        yield Row(point.case, point.provider, point.metric, point.value, point.unit, note=point.source)
        yield Row(point.case, "planned", point.metric, point.plan(), point.unit, note=point.assumptions)


def _nemo_points(case: str, plan: Callable[[], JobPlan], step: float, rate: float, gpus: int) -> Iterator[Point]:
    assumptions = (
        f"64 problems of 32 responses, {NEMO_TOKENS:,} tokens of prompt and response on average at a limit of "
        f"{NEMO_LIMIT:,}; prompts of {NEMO_PROMPT}; updates of 512 responses; TP 4 x PP 4, nothing computed again; "
        "servers of 4 GPUs"
    )
    why = (
        "their lengths are known by the mean alone; they take log-probs of all responses in a pass of its own, we of "
        "three updates in four, and of none where the engine's are corrected; their rows hold one response each"
    )
    tokens = 64 * 32 * NEMO_TOKENS
    yield Point(case, "NeMo RL", "step", step, "s", NEMO, assumptions, why, lambda: plan().time.step)
    yield Point(
        case,
        "NeMo RL",
        "tokens per second and GPU",
        rate,
        "tokens/s",
        NEMO,
        assumptions,
        why,
        lambda: tokens / plan().time.step / gpus,
    )


def _nemo(config: str, nodes: int, *more: str) -> Callable[[], JobPlan]:
    """Return the plan of the 32B configuration with the layout, batch and lengths of their recipe."""
    found: list[JobPlan] = []

    def plan() -> JobPlan:
        if not found:
            job = load(TrainJob, CONFIGS / f"{config}.yaml", [*_RECIPE, *more])
            machines = Machines(Cluster(nodes, 8), read_hardware("h100"))
            found.append(plan_job(architecture_of(job.model.path), job, machines, _nemo_step(job)))
        return found[0]

    return plan


_RECIPE = [
    "model.path=Qwen/Qwen3-32B",
    "selfplay.stage=none",
    "algorithm.samples_per_update=512",
    "rollout.samples_per_prompt=32",
    f"data.max_prompt_tokens={NEMO_PROMPT}",
    f"rollout.max_response_tokens={NEMO_LIMIT - NEMO_PROMPT}",
    "run.prompts_per_step=64",
    "run.save_every=600",
    "policy.pipeline_parallel=4",
    "policy.recompute=none",
    "policy.recompute_method=uniform",
    "policy.recompute_layers=1",
    f"policy.tokens_per_micro_batch={NEMO_LIMIT}",
    "dynamics.every=0",
]


def _nemo_step(job: TrainJob) -> Sampled:
    groups = []
    for number in range(job.run.prompts_per_step):
        task = Task(f"{number:06d}", ORIGINAL, None, (), job.rollout.samples_per_prompt)  # type: ignore[arg-type]
        drawn = tuple(NEMO_LENGTHS.of(task, sample, 0) for sample in range(task.samples))
        groups.append(Answers(task.key, ORIGINAL, NEMO_PROMPT, drawn, learned=True))
    return Sampled(groups, job.rollout.max_response_tokens, assumed("NeMo RL's mean length"))


def _prime(model: str, ranks: int, tokens: int, step: float) -> Point:
    def plan() -> float:
        policy = PolicyConfig(dtype="bf16", recompute="full", tokens_per_micro_batch=tokens)
        layout = layout_of(policy, ranks, "cuda")
        row = RowWork(tokens, tokens - 1, float(tokens) ** 2, 1)
        machine = Machine(read_hardware("h100"), 8)
        return total(update_lines(read_architecture(MODELS[model]()), policy, layout, machine, [[row] * 2] * ranks))

    return Point(
        f"update of {model}, two rows of {tokens // 1024}k on each of {ranks} H100",
        "prime-rl",
        "step",
        step,
        "s",
        PRIME,
        "one sequence a row, all of it trained on; full recomputation; FlashAttention 3; the file's step_time",
        "FSDP2 gathers weights in every pass where we keep them; its head takes plain torch where ours is fused",
        plan,
    )


def _syncs() -> Iterator[Point]:
    def plan() -> float:
        return _dedicated().time.seconds("sync")

    for provider, seconds in (("verl, NCCL", 14.2), ("verl, what changed", 6.2)):
        yield Point(
            "weights of a dense 32B to servers on other H100s",
            provider,
            "weights to the servers",
            seconds,
            "s",
            VERL,
            "65.5 GB in bf16 over one rank's 400 Gb/s",
            "of 24 s at 72B they spend 23.5 in assembling buckets and 0.5 to 1.8 on the wire; ours are gathered while "
            "the one before is on its way, and that this costs nothing is assumed",
            plan,
        )


@cache
def _dedicated() -> JobPlan:
    job = load(TrainJob, CONFIGS / "qwen2.5_32b_svs.yaml", ["run.prompts_per_step=16", ONE_SENDER])
    plain = replace(_nemo_step(job), limit=job.rollout.max_response_tokens)
    machines = Machines(Cluster(4, 8), read_hardware("h100"))
    return plan_job(architecture_of(job.model.path), job, machines, plain)
