"""Greedy answers of two engines with the same weights, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastsvs.commands.stored_engine import open_engine
from fastsvs.config import DataConfig, RolloutConfig, VerifierConfig
from fastsvs.data import encode_prompt, load_problems, load_tokenizer
from fastsvs.policy.stored import open_weights
from fastsvs.rollout import Request, Rollout, SamplingParams, drain
from fastsvs.training.session import DTYPES

MAX_TOKENS = 96


@dataclass(frozen=True)
class Agreement:
    """How far two engines agree."""

    problems: int
    """Number of problems that both answered."""
    equal: float
    """Share of the answers that are equal in every token."""
    common: float
    """Share of the second engine's tokens that come before a first difference."""


def agreement(model: str, dtype: str, problems: int, folder: Path) -> Agreement:
    """Answer held-out problems of the tiny task on vLLM and in process."""
    served, local = (answers(model, dtype, engine, problems, folder / engine) for engine in ("vllm", "local"))
    pairs = [(served[key].response_ids, local[key].response_ids) for key in local]
    return Agreement(
        problems=len(pairs),
        equal=sum(a == b for a, b in pairs) / len(pairs),
        common=sum(common(a, b) for a, b in pairs) / sum(len(b) for _, b in pairs),
    )


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens that are equal from the beginning."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def answers(model: str, dtype: str, engine: str, problems: int, folder: Path) -> dict[str, Rollout]:
    """Return the greedy answer to each problem, by its id."""
    tokenizer = load_tokenizer(model)
    found, _ = load_problems(DataConfig(path="tiny:heldout", suffix="", limit=problems))
    options = {"gpu-memory-utilization": 0.3, "enforce-eager": True}
    rollout = RolloutConfig.model_validate(
        {"engine": engine, "max_sequences": 32, "server": {"arguments": options if engine == "vllm" else {}}}
    )
    requests = [
        Request(
            problem.id,
            encode_prompt(tokenizer, [{"role": "user", "content": problem.question}]),
            1,
            SamplingParams(top_k=1, max_tokens=MAX_TOKENS),
            seed=0,
        )
        for problem in found
    ]
    with open_engine(
        open_weights(model),
        tokenizer,
        rollout,
        VerifierConfig(),
        dtype=DTYPES[dtype],
        longest=MAX_TOKENS + max(len(request.prompt_ids) for request in requests),
        folder=folder,
        timeout_seconds=300,
    ) as opened:
        opened.engine.submit(requests)
        return {key: rollouts[0] for key, rollouts in drain(opened.engine)}
