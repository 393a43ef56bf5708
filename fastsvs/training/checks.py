"""Checks of a training job beyond its single keys, made before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig

from fastsvs import distributed, fingerprints
from fastsvs.algorithms import ADVANTAGES, REWARDS, needs_labels
from fastsvs.architecture import load_hf_config, trained_architecture
from fastsvs.config import ModelConfig, PolicyConfig, TrainedModelConfig, TrainJob
from fastsvs.data import PROMPTS
from fastsvs.dynamics import METRICS
from fastsvs.errors import UserError
from fastsvs.layout_checks import check_layout
from fastsvs.policy import (
    check_backend,
    check_base,
    check_schedule,
    check_weights,
    checkpoint,
    find_checkpoint,
    open_adapters,
)
from fastsvs.rollout import ENGINES, check_dedicated
from fastsvs.selfplay import SAMPLERS, STAGES, PlainStage, Sampler, ShuffledEpochs, Stage, SvsStage, gives_spares
from fastsvs.sync import shares_gpus
from fastsvs.training import checkpoint_hooks
from fastsvs.verify import check_verifier


def longest_sequence(job: TrainJob) -> int:
    """Return the number of tokens in training's longest prompt with its longest response."""
    responses = (job.rollout.max_response_tokens, job.selfplay.max_synthesis_tokens or 0)
    return job.data.max_prompt_tokens + max(responses)


def longest_request(job: TrainJob) -> int:
    """Return the number of tokens in the longest prompt with its longest response, of training and of evaluation."""
    return max(longest_sequence(job), job.data.max_prompt_tokens + (job.evaluation.max_response_tokens or 0))


def check_lengths(job: TrainJob) -> None:
    """Check that every prompt with its longest response fits one micro-batch. Raises UserError where it does not."""
    if longest_sequence(job) > job.policy.tokens_per_micro_batch:
        raise UserError(
            f"data.max_prompt_tokens ({job.data.max_prompt_tokens}) + longest response make sequences of "
            f"{longest_sequence(job)} tokens, over policy.tokens_per_micro_batch "
            f"({job.policy.tokens_per_micro_batch}): raise the latter or lower the former"
        )


def check_overlong(job: TrainJob) -> None:
    """Check that the tokens over which an answer's reward falls lie within the longest answer. Raises UserError where
    they do not."""
    if job.algorithm.overlong_buffer > job.rollout.max_response_tokens:
        raise UserError(
            f"algorithm.overlong_buffer ({job.algorithm.overlong_buffer}) is longer than the longest answer, "
            f"rollout.max_response_tokens ({job.rollout.max_response_tokens}), so that all answers would lose reward: "
            "lower the former (DAPO: a fifth of the latter)"
        )


def check_policy(
    model: ModelConfig, policy: PolicyConfig, processes: int | None, updates: int, *, samples: bool = False
) -> PretrainedConfig:
    """Return the model's configuration. Raises UserError where no policy can be built: for the model or the weights of
    it that are on this machine, for its layout on `processes` processes (None: on as many as it takes, wherever they
    are), for a schedule of `updates` updates, with its backend here, or for what it learns from, which is its own
    `samples` or not."""
    hf_config = load_hf_config(model.path)
    architecture = trained_architecture(hf_config, policy)
    check_layout(architecture, policy, processes)
    if policy.router_replay == "rollout" and not samples:
        raise UserError(
            "policy.router_replay=rollout takes the experts that computed each token of a rollout, and nothing that is "
            "learned from is sampled here: set it to none, or use `fastsvs train`"
        )
    check_schedule(policy.optimizer, updates)
    check_weights(model, architecture)
    open_adapters(policy.lora, architecture, seed=0)
    if processes is not None:
        check_backend(policy.backend, policy.fp8)
    return hf_config


def check_resumption(
    checkpoints: Path, model: TrainedModelConfig, policy: PolicyConfig, hf_config: PretrainedConfig
) -> None:
    """Check the checkpoint that a run would go on from or begin with, if there is one, by its manifest and the sizes of
    its files. Raises UserError where it is damaged or of another model or other adapters, where `model.from_run` names
    none, and where the run would begin with two adapters."""
    if model.from_run is not None and policy.lora.adapter is not None:
        raise UserError(
            "model.from_run and policy.lora.adapter both say what the adapters begin with: leave one of them out"
        )
    own = checkpoint.latest(checkpoints)
    if found := own or first_checkpoint(model):
        checkpoint.check(found, trained_architecture(hf_config, policy))
        if policy.lora.rank and not own and distributed.is_main():  # a run's own inputs are compared by its folder
            check_base(found, model)


def first_inputs(checkpoints: Path, model: TrainedModelConfig) -> fingerprints.Inputs:
    """Return the digest of the checkpoint that a run begins with, as long as it has none of its own."""
    first = None if checkpoint.latest(checkpoints) else first_checkpoint(model)
    return {"from_run": fingerprints.of_weights([first / checkpoint.MANIFEST])} if first else {}


def first_checkpoint(model: TrainedModelConfig) -> Path | None:
    """Return the checkpoint of another run that a run begins with, or None. Raises UserError where there is none at
    `model.from_run`."""
    if model.from_run is None:
        return None
    try:
        return find_checkpoint(Path(model.from_run))
    except UserError as error:
        raise UserError(f"model.from_run: {error}") from error


def check_names(job: TrainJob) -> None:
    """Check that every plug-in that the job names exists, and that they go together. Raises UserError for those that do
    not."""
    check_dedicated(job.rollout)
    check_verifier(job.verifier)
    ENGINES.get(job.rollout.engine)
    ADVANTAGES.get(job.algorithm.advantage)
    if ADVANTAGES.get(job.algorithm.verl.base) is ADVANTAGES.get("verl"):
        raise UserError("algorithm.verl.base is the advantage that verl shapes: name another one, such as grpo")
    REWARDS.get(job.algorithm.reward)
    PROMPTS.get(job.data.prompt)
    SAMPLERS.get(job.sampler.name)
    checkpoint_hooks.check(job)
    for name in job.dynamics.metrics:
        METRICS.get(name)
        if job.dynamics.metrics.count(name) > 1:
            raise UserError(f"dynamics.metrics names {name!r} twice: once is enough")
    if STAGES.get(job.selfplay.stage) is not PlainStage and not needs_labels(job.algorithm.reward):
        raise UserError(
            f"algorithm.reward={job.algorithm.reward} looks at responses alone, but selfplay.stage="
            f"{job.selfplay.stage} goes by what is correct: set selfplay.stage=none, or algorithm.reward=verified"
        )


def check_staleness(job: TrainJob) -> None:
    """Check that rollouts beside the update have an engine with processes of its own, a correction for their older
    weights, and where they run further ahead than a step nothing that waits for whole steps. Raises UserError where
    they do not."""
    ahead = f"train.staleness={job.train.staleness}"
    if not job.train.staleness:
        return
    if ENGINES.get(job.rollout.engine).collective:
        raise UserError(
            f"{ahead} lets rollouts overlap the update, but rollout.engine={job.rollout.engine} works in the "
            "trainer's own processes, which are busy then: use servers (rollout.engine=vllm) or train.staleness=0"
        )
    if takes_turns(job):
        raise UserError(
            f"{ahead} keeps servers and trainer at work together, but with rollout.placement=colocated they "
            "take turns on the same GPUs: give the servers nodes of their own (rollout.placement=dedicated)"
        )
    if job.policy.offload != "none":
        raise UserError(
            f"policy.offload={job.policy.offload} moves state away while rollouts run, but with {ahead} the "
            "policy learns at the same time: set policy.offload=none or train.staleness=0"
        )
    if job.algorithm.rollout_correction == "none" and job.algorithm.old_logprobs == "trainer":
        raise UserError(
            f"{ahead} learns from responses of older weights, which the loss must correct: set "
            "algorithm.rollout_correction to tis or icepop, or algorithm.old_logprobs=engine"
        )
    if job.train.staleness > 1 and (whole := why_whole_steps(job)):
        raise UserError(
            f"{ahead} begins steps before the experience of earlier ones is complete, but {whole.reason}: set "
            f"train.staleness=1, or {whole.remedy}"
        )


def takes_turns(job: TrainJob) -> bool:
    """Return True where servers and trainer use the same GPUs, one after the other."""
    return shares_gpus(job.rollout.placement, distributed.device())


def check_old_logprobs(job: TrainJob) -> None:
    """Check that the engine's log-probs are not to be corrected twice. Raises UserError where they are."""
    if job.algorithm.old_logprobs == "engine" and job.algorithm.rollout_correction != "none":
        raise UserError(
            f"algorithm.rollout_correction={job.algorithm.rollout_correction} weighs the policy's old log-probs "
            "against the engine's, but with algorithm.old_logprobs=engine both are the same, and the loss's ratio "
            "corrects: set algorithm.rollout_correction=none or algorithm.old_logprobs=trainer"
        )


def check_waves(job: TrainJob) -> None:
    """Check that a step can be learned from in parts, if it is to be. Raises UserError where it cannot."""
    waves = job.train.waves
    if waves == 1:
        return
    if waves > job.run.prompts_per_step:
        raise UserError(
            f"train.waves={waves} are more than the problems of a step (run.prompts_per_step="
            f"{job.run.prompts_per_step}): a wave has at least one"
        )
    if job.algorithm.old_logprobs == "trainer":
        raise UserError(
            f"train.waves={waves} learns from later waves when the policy has moved on, and its own log-probs from "
            "before are gone: set algorithm.old_logprobs=engine"
        )
    if whole := why_whole_steps(job):
        raise UserError(
            f"train.waves={waves} learns from a part of a step, but {whole.reason}: set train.waves=1, or "
            f"{whole.remedy}"
        )


@dataclass(frozen=True, slots=True)
class WholeSteps:
    """A part of the job that looks at the experience of a step as a whole, before anything is learned from it and
    before the next step begins."""

    reason: str
    remedy: str


def why_whole_steps(job: TrainJob) -> WholeSteps | None:
    """Return what asks for the experience of whole steps, or None where families are enough."""
    if not getattr(STAGES.get(job.selfplay.stage), "by_family", False):
        return WholeSteps(
            f"selfplay.stage={job.selfplay.stage} judges a step as a whole",
            "take a stage that goes by families (none, svs or rise)",
        )
    if SAMPLERS.get(job.sampler.name) is not ShuffledEpochs:
        return WholeSteps(f"sampler.name={job.sampler.name} looks at whole steps", "set sampler.name=epochs")
    return None


def check_refills(job: TrainJob, stage: Stage, sampler: Sampler, problems: int) -> None:
    """Check that other problems can be asked in the place of those that teach nothing, if they are to be; the data set
    has this number of `problems`. Raises UserError where they cannot."""
    refills = job.sampler.refills
    if not refills:
        return
    asks = f"sampler.refills={refills} asks another problem where the answers to one are all right or all wrong"
    if not needs_labels(job.algorithm.reward):
        raise UserError(
            f"{asks}, but algorithm.reward={job.algorithm.reward} looks at responses alone, and learns from such "
            "answers too: set sampler.refills=0 or algorithm.reward=verified"
        )
    if getattr(type(stage), "begin", None) is not PlainStage.begin:
        raise UserError(
            f"{asks}, but selfplay.stage={job.selfplay.stage} makes a step's first tasks itself: set "
            "sampler.refills=0, or a stage that takes the data set's (none, svs or rise)"
        )
    if job.algorithm.denominator == "all":
        raise UserError(
            f"{asks}, but algorithm.denominator=all counts such answers in the loss's mean, so that each problem asked "
            "would weaken the others: set sampler.refills=0 or algorithm.denominator=kept"
        )
    if not gives_spares(sampler):
        raise UserError(
            f"{asks}, but sampler.name={job.sampler.name} draws problems in a way of its own and has no method `spare` "
            "that draws others so: set sampler.refills=0 or sampler.name=epochs"
        )
    if problems <= job.run.prompts_per_step:
        raise UserError(
            f"{asks}, but a step asks all of the {problems} problems that there are (run.prompts_per_step="
            f"{job.run.prompts_per_step}): set sampler.refills=0, a smaller run.prompts_per_step, or more data"
        )


def check_budget(job: TrainJob, stage: Stage) -> None:
    """Check that there are variants to be solved in two parts, if they are to be. Raises UserError where there are
    none."""
    first = job.selfplay.budget.first_samples
    if first and not isinstance(stage, SvsStage):
        raise UserError(
            f"selfplay.budget.first_samples={first} solves variants only as far as they promise to teach, but "
            f"selfplay.stage={job.selfplay.stage} is not that of SvS and writes no variants: set "
            "selfplay.budget.first_samples=0 or selfplay.stage=svs"
        )


def check_fits_model(job: TrainJob, hf: PretrainedConfig) -> None:
    """Check that the model has positions for the longest sequence. Raises UserError where it does not."""
    if longest_sequence(job) > hf.max_position_embeddings:
        raise UserError(
            f"sequences of up to {longest_sequence(job)} tokens, but {job.model.path} has positions for "
            f"{hf.max_position_embeddings}: lower data.max_prompt_tokens or rollout.max_response_tokens"
        )
