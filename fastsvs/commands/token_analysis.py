"""Token-by-token analysis of the responses of a run's step under a model: entropy and the rank of its hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from fastsvs import distributed
from fastsvs.algorithms import Batch
from fastsvs.config import TrainJob
from fastsvs.data import encode_prompt, load_tokenizer
from fastsvs.errors import UserError
from fastsvs.policy import Policy, base_of, open_weights, read_job
from fastsvs.selfplay import chat_of
from fastsvs.stored_run import StoredRun
from fastsvs.training import longest_sequence, policy_figures

Sample = tuple[str, Sequence[int], Sequence[int]]
"""Sample: (kind, prompt ids, response ids)."""


def token_figures(run: Path, step: int, model: str) -> dict[str, float]:
    """Return the figures `dynamics/entropy...` and `dynamics/effective_rank...`, over the responses that `step` learned
    from, under `model` (a model, a run or a checkpoint of the run's architecture). Responses are tokenized again from
    their text, which may cut them into other tokens than those that were sampled. Raises UserError where nothing was
    learned."""
    job = read_job(run)
    if not isinstance(job, TrainJob):
        raise UserError(f"{run} is a run of fastsvs sft: it has no samples")
    distributed.initialize(job.run.timeout_seconds)
    base = base_of(run, job.model)
    tokenizer = load_tokenizer(base.tokenizer or base.path, job.data)
    samples = list(read_samples(run, step, job, tokenizer))
    if not samples:
        raise UserError(f"{run} has no samples of step {step} that were learned from")
    stored = open_weights(model)
    degrees = ("tensor_parallel", "context_parallel", "pipeline_parallel", "expert_parallel", "expert_tensor_parallel")
    anywhere = {**dict.fromkeys(degrees, 1), "backend": "local", "fp8": None}
    longest = max(longest_sequence(job), *(len(prompt) + len(response) for _, prompt, response in samples))
    policy = Policy(
        base,
        job.policy.model_copy(update=anywhere),
        seed=job.run.seed,
        total_updates=0,
        max_sequence_tokens=longest,
        weights=stored,
    )
    return policy_figures(policy, batch_of(samples), job.dynamics, job.rollout.temperature)


def read_samples(run: Path, step: int, job: TrainJob, tokenizer: PreTrainedTokenizerBase) -> Iterator[Sample]:
    """Yield the samples that the step learned from, as the policy read and wrote them."""
    rows = {row["key"]: row for row in StoredRun(run).samples(step)}
    for row in rows.values():
        if not row["trained"]:
            continue
        asked = encode_prompt(tokenizer, chat_of(row, rows, job), job.data.template)
        for text, reason in zip(row["responses"], row["finish"], strict=True):
            end = [tokenizer.eos_token_id] if reason == "stop" else []
            if written := [*tokenizer(text, add_special_tokens=False)["input_ids"], *end]:
                yield row["kind"], asked, written


def batch_of(samples: Sequence[Sample]) -> Batch:
    """Build a batch of nothing but the tokens: no rewards."""
    tokens = sum(len(response) for _, _, response in samples)
    return Batch(
        prompt_ids=[np.array(prompt, dtype=np.int64) for _, prompt, _ in samples],
        response_ids=[np.array(response, dtype=np.int64) for _, _, response in samples],
        kinds=[kind for kind, _, _ in samples],
        groups=torch.arange(len(samples)),
        rewards=torch.zeros(len(samples)),
        advantages=torch.zeros(tokens),
        rollout_logprobs=torch.zeros(tokens),
    )
