"""Checks of an engine's modes that concern the trainer: where it computes the policy's bits, and where other ones."""

from __future__ import annotations

from fastsvs.config import TrainJob
from fastsvs.errors import UserError
from fastsvs.training.checks import takes_turns


def check_deterministic(job: TrainJob) -> None:
    """Check that the policy can compute the engine's log-probs bit for bit, if they are the local engine's. Raises
    UserError where it cannot."""
    rollout, policy = job.rollout, job.policy
    if not rollout.deterministic or rollout.engine != "local":
        return
    asks = "rollout.deterministic=true with rollout.engine=local gives policy and engine the same log-probs"
    if policy.tensor_parallel > 1:
        raise UserError(
            f"{asks}, but policy.tensor_parallel={policy.tensor_parallel} adds parts of products that the engine "
            "computes whole: set it to 1"
        )
    if policy.backend != "local":
        raise UserError(f"{asks}, but policy.backend={policy.backend} computes otherwise: set it to local")
    if policy.lora.rank:
        raise UserError(
            f"{asks}, but policy.lora.rank={policy.lora.rank} computes adapters beside the weights, and the engine has "
            "them merged: set it to 0"
        )
    if rollout.top_p < 1 or rollout.top_k > 0:
        raise UserError(
            f"{asks}, but with rollout.top_p={rollout.top_p} and top_k={rollout.top_k} the engine's are of a cut-off "
            "distribution: set top_p to 1 and top_k to -1"
        )


def check_quantization(job: TrainJob) -> None:
    """Check that the loss corrects for an engine that computes with other weights than the policy, or in another
    precision, if it does. Raises UserError where it does not."""
    algorithm = job.algorithm
    uncorrected = algorithm.rollout_correction == "none" and algorithm.old_logprobs == "trainer"
    if job.rollout.quantization != "none" and uncorrected:
        raise UserError(
            f"rollout.quantization={job.rollout.quantization} samples with rounded weights, from another distribution "
            "than the policy's, which the loss must correct: set algorithm.rollout_correction to tis or icepop, or "
            "algorithm.old_logprobs=engine"
        )
    if job.policy.fp8 is not None and uncorrected:
        raise UserError(
            f"policy.fp8={job.policy.fp8} rounds what the policy multiplies, and the engine samples without that, from "
            "another distribution, which the loss must correct: set algorithm.rollout_correction to tis or icepop, or "
            "algorithm.old_logprobs=engine"
        )


def check_draft(job: TrainJob) -> None:
    """Check that a draft keeps its weights while the policy learns, if servers have one. Raises UserError where it does
    not."""
    if job.rollout.speculative.method == "draft" and takes_turns(job):
        raise UserError(
            "rollout.speculative.method=draft: servers on the trainer's GPUs drop their weights while it trains, and "
            "nobody sends a draft its own again: set rollout.placement=dedicated or rollout.speculative.method=ngram"
        )
