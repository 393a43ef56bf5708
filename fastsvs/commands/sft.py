"""Supervised fine-tuning: the same policy, packing, optimizer and checkpoints; the loss is the NLL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from fastsvs import distributed, fingerprints, preemption, rank_log
from fastsvs.algorithms import Batch, TokenLoss, TokenTerms, token_level
from fastsvs.config import AlgorithmConfig, SftJob
from fastsvs.data import EpochSampler, check_tokenizer, encode_dialogues, load_dialogues, load_tokenizer, reads_clock
from fastsvs.errors import Preempted, UserError
from fastsvs.files import check_folder
from fastsvs.policy import Policy, keep_base, write_companions
from fastsvs.telemetry import RunFolder, StepProgress
from fastsvs.training import (
    SaveSchedule,
    build_saver,
    check_policy,
    check_resumption,
    check_room,
    first_inputs,
    frozen_base,
    load_start,
)

Example = tuple[np.ndarray, np.ndarray]
"""Token ids `[tokens]` and whether each is to be learned `[tokens]`."""


def sft(job: SftJob) -> Path:
    """Train on the job's dialogues, resuming what its run folder holds. Returns the folder of the run, or of the
    export."""
    distributed.initialize(job.run.timeout_seconds)
    main = distributed.is_main()
    checked = preflight(job, distributed.world_size())
    examples, folder = checked.examples, checked.folder
    rank_log.start(folder.layout.logs)
    policy = Policy(
        job.model, job.policy, seed=job.run.seed, total_updates=job.run.steps, max_sequence_tokens=job.data.max_tokens
    )
    start = load_start(policy, job.model, folder.layout)
    folder.begin(start.step)
    if main:
        keep_base(job.model, checked.tokenizer, folder.root)
    sampler = EpochSampler(len(examples), job.run.prompts_per_step, job.run.seed)
    saver, schedule = build_saver(job, folder), SaveSchedule(job)
    with closing(folder), closing(saver), StepProgress("sft", job.run.steps, start.step, enabled=main) as progress:
        for fact in (*checked.facts, *policy.facts, *start.facts):
            progress.say(fact)
        for step in range(start.step, job.run.steps):
            saver.check()
            saved = saver.take_times()
            began = time.perf_counter() - saved.get("time/save", 0.0)
            batch = supervised_batch([examples[index] for index in sampler.select(step)])
            weights = torch.full((len(batch),), 1.0 / float(batch.advantages.sum()))
            metrics = policy.update(
                batch, negative_log_likelihood, AlgorithmConfig(), weights, temperature=1.0, schedule_step=step
            )
            row = {"step": step + 1, **metrics, **saved, "time/step": time.perf_counter() - began}
            folder.log(row)
            progress.advance(step + 1, f"loss {metrics['loss']:.4f}  {row['time/step']:.2f} s")
            early = step + 1 < job.run.steps and distributed.broadcast(preemption.told())
            if schedule.is_due(step + 1) or early:
                saver.begin(policy, step + 1, frozen_base(job, folder))
            if early:
                saver.finish()
                raise Preempted
        saver.finish()
    if job.export is None:
        return folder.root
    export = Path(job.export)
    if export.resolve() == Path(job.model.path).resolve():  # the others are there
        policy.export(export)
    else:
        policy.export(export, partial(write_companions, job.model))
    distributed.barrier()  # the others wait until it is there
    return export


@dataclass(frozen=True)
class Checked:
    """A job that can begin, with what was read to find that out."""

    examples: Sequence[Example]
    tokenizer: PreTrainedTokenizerBase
    hf_config: PretrainedConfig
    folder: RunFolder
    facts: Sequence[str]


def preflight(job: SftJob, processes: int | None, *, at_disk: bool = True) -> Checked:
    """Check the job as `fastsvs.training.preflight` does for training with rewards."""
    check_example_length(job)
    hf_config = check_policy(job.model, job.policy, processes, job.run.steps)
    main = distributed.is_main()
    folder = RunFolder(job, Path(job.run.dir), writable=main)
    check_resumption(folder.checkpoints, job.model, job.policy, hf_config)
    if at_disk:
        check_room(job, folder.checkpoints, hf_config)
    if main and job.export is not None:
        check_folder("export", Path(job.export))
    tokenizer = load_tokenizer(job.model.tokenizer or job.model.path, job.data)
    check_tokenizer(tokenizer, hf_config)
    examples, facts = load_examples(job, tokenizer)
    check_positions(job, examples, hf_config)
    digests = {"data": fingerprints.of_examples(examples, reads_clock(tokenizer, job.data.template))}
    folder.check_inputs({**digests, **first_inputs(folder.checkpoints, job.model)})
    return Checked(examples, tokenizer, hf_config, folder, facts)


def load_examples(job: SftJob, tokenizer: PreTrainedTokenizerBase) -> tuple[list[Example], list[str]]:
    """Return encoded examples, and facts about what was left out. Raises UserError when nothing remains."""
    dialogues, loaded = load_dialogues(job.data)
    encoded, kept = encode_dialogues(dialogues, tokenizer, job.data.max_tokens, job.data.path, job.data.template)
    return [(np.asarray(ids), np.asarray(mask)) for ids, mask in encoded], [*loaded.describe(), *kept.describe()]


def check_example_length(job: SftJob) -> None:
    """Check that the longest example fits one micro-batch. Raises UserError where it does not."""
    if job.data.max_tokens > job.policy.tokens_per_micro_batch:
        raise UserError(
            f"data.max_tokens ({job.data.max_tokens}) is over policy.tokens_per_micro_batch "
            f"({job.policy.tokens_per_micro_batch}): raise the latter or lower the former"
        )


def check_positions(job: SftJob, examples: Sequence[Example], hf: PretrainedConfig) -> None:
    """Check that the model has positions for the longest of the examples. Raises UserError where it does not."""
    longest = max(len(ids) for ids, _ in examples)
    if longest > hf.max_position_embeddings:
        raise UserError(
            f"{job.data.path} has an example of {longest} tokens, but {job.model.path} has positions for "
            f"{hf.max_position_embeddings}: lower data.max_tokens to that, which leaves longer ones out"
        )


def supervised_batch(examples: Sequence[Example]) -> Batch:
    """Build a batch in which an example's response begins with its first learned token; the advantage is 1 on learned
    tokens, else 0."""
    firsts = [int(mask.argmax()) for _, mask in examples]
    responses = [ids[first:] for (ids, _), first in zip(examples, firsts, strict=True)]
    learned = [mask[first:] for (_, mask), first in zip(examples, firsts, strict=True)]
    flat = torch.from_numpy(np.concatenate(learned)).float()
    return Batch(
        prompt_ids=[ids[:first] for (ids, _), first in zip(examples, firsts, strict=True)],
        response_ids=responses,
        kinds=["supervised"] * len(examples),
        groups=torch.arange(len(examples)),
        rewards=torch.zeros(len(examples)),
        advantages=flat,
        rollout_logprobs=torch.zeros_like(flat),
    )


@token_level
def negative_log_likelihood(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
    """Return -log p of each learned token."""
    return TokenLoss(loss=-terms.logprobs * terms.advantages, metrics={})
