"""Checks of a training run before anything is built or written, made by the run and by its dry run alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from fastsvs import distributed, fingerprints
from fastsvs.algorithms import CompleteLoss, needs_labels, policy_loss
from fastsvs.architecture import trained_architecture
from fastsvs.config import TrainJob
from fastsvs.data import (
    NO_PROBLEMS,
    Inputs,
    check_tokenizer,
    encode_prompt,
    lone_message,
    longest_prompt,
    messages_of,
    read_inputs,
    reads_clock,
    stop_token_ids,
)
from fastsvs.errors import UserError
from fastsvs.policy import DTYPES
from fastsvs.rollout import ENGINES, Asked, EnginePlan
from fastsvs.selfplay import JUDGES, SAMPLERS, STAGES, Sampler, SamplerTools, Stage, StageTools
from fastsvs.telemetry import RunFolder
from fastsvs.training.checks import (
    check_budget,
    check_fits_model,
    check_lengths,
    check_names,
    check_old_logprobs,
    check_overlong,
    check_policy,
    check_refills,
    check_resumption,
    check_staleness,
    check_waves,
    first_inputs,
)
from fastsvs.training.comparison import advice, check_group_size
from fastsvs.training.engine_modes import check_deterministic, check_draft, check_quantization
from fastsvs.training.machine import check_machine
from fastsvs.training.saving import check_room


@dataclass(frozen=True)
class Checked:
    """A job that can begin, with what was read and made to find that out."""

    inputs: Inputs
    hf_config: PretrainedConfig
    stop: Sequence[int]
    """Token ids that end a response."""
    loss: CompleteLoss
    stage: Stage
    sampler: Sampler
    folder: RunFolder
    advice: Sequence[str]
    """Lines about what is allowed but will hardly be meant."""


def preflight(job: TrainJob, processes: int | None, *, at_disk: bool = True) -> Checked:
    """Check the job on `processes` training processes (None: on as many as its layout takes, wherever they are), and
    the room for checkpoints only `at_disk`, where `run.dir` names the disk of the run. Raises UserError for the first
    thing that would stop it. Needs no weights and no accelerator, and writes nothing."""
    check_names(job)
    check_lengths(job)
    check_overlong(job)
    check_old_logprobs(job)
    check_staleness(job)
    check_waves(job)
    check_deterministic(job)
    check_quantization(job)
    check_draft(job)
    check_group_size(job)
    loss = policy_loss(job.algorithm)
    hf_config = check_policy(job.model, job.policy, processes, job.run.steps, samples=True)
    folder = RunFolder(job, Path(job.run.dir), writable=distributed.is_main())
    check_resumption(folder.checkpoints, job.model, job.policy, hf_config)
    if at_disk:
        check_room(job, folder.checkpoints, hf_config)
    inputs = read_inputs(job)
    read = {"data": inputs.problems, "evaluation": inputs.held_out}
    dated = reads_clock(inputs.tokenizer, job.data.template)
    digests = {name: fingerprints.of_problems(problems, dated) for name, problems in read.items() if problems}
    folder.check_inputs({**digests, **first_inputs(folder.checkpoints, job.model)})
    check_fits_model(job, hf_config)
    check_tokenizer(inputs.tokenizer, hf_config)
    stop = stop_token_ids(job.model.path, inputs.tokenizer)
    stage = build_stage(job, inputs.tokenizer)
    for judge in stage.judges:
        JUDGES.get(judge)
    check_budget(job, stage)
    sampler = build_sampler(job, inputs)
    check_refills(job, stage, sampler, len(inputs.problems))
    asked = requests(job, inputs)
    plan = EnginePlan(
        hf_config,
        stop,
        DTYPES[job.policy.dtype],
        job.rollout,
        asked,
        here=processes is not None,
        tells_experts=job.policy.router_replay == "rollout",
    )
    ENGINES.get(job.rollout.engine).check(plan)
    tight = check_machine(trained_architecture(hf_config, job.policy), job) if processes is not None else []
    return Checked(inputs, hf_config, stop, loss, stage, sampler, folder, [*advice(job), *tight])


def requests(job: TrainJob, inputs: Inputs) -> dict[str, Asked]:
    """Return what training and evaluation ask of the engine, by section of the configuration."""
    rollout, evaluation = job.rollout, job.evaluation
    asked = {"rollout": Asked(rollout.temperature, longest_prompt(inputs.problems) + rollout.max_response_tokens)}
    if inputs.held_out:
        limit = evaluation.max_response_tokens or rollout.max_response_tokens
        asked["evaluation"] = Asked(evaluation.temperature, longest_prompt(inputs.held_out) + limit)
    return asked


def build_stage(job: TrainJob, tokenizer: PreTrainedTokenizerBase) -> Stage:
    """Build the experience stage that the job names; its questions go through the same PromptFn as the data set's.
    Raises UserError where stage and `data.path` do not go together."""
    tools = StageTools(
        encode_problem=lambda problem: encode_prompt(
            tokenizer, messages_of(problem.question, job.data, "train", problem.system), job.data.template
        ),
        encode_message=lambda text: encode_prompt(tokenizer, lone_message(text), job.data.template),
        max_prompt_tokens=job.data.max_prompt_tokens,
        max_response_tokens=job.rollout.max_response_tokens,
        seed=job.run.seed,
    )
    stage = STAGES.make(job.selfplay.stage, job.selfplay, tools)
    if stage.reads_problems == (job.data.path == NO_PROBLEMS):
        wanted = "a data set" if stage.reads_problems else f"{NO_PROBLEMS!r}: it makes its own tasks"
        raise UserError(f"data.path={job.data.path}, but for selfplay.stage={job.selfplay.stage} it must be {wanted}")
    return stage


def build_sampler(job: TrainJob, inputs: Inputs) -> Sampler:
    """Build the sampler that the job names. Raises UserError where it needs verdicts that the rewards do without."""
    tools = SamplerTools(
        [problem for problem, _ in inputs.problems],
        job.run.prompts_per_step,
        job.rollout.samples_per_prompt,
        job.run.seed,
        encode=lambda text: encode_text(inputs.tokenizer, text),
        max_response_tokens=job.rollout.max_response_tokens,
    )
    sampler = SAMPLERS.make(job.sampler.name, job.sampler, tools)
    if sampler.reads_verdicts and not needs_labels(job.algorithm.reward):
        raise UserError(
            f"sampler.name={job.sampler.name} goes by which responses are correct, but "
            f"algorithm.reward={job.algorithm.reward} looks at responses alone: set algorithm.reward=verified, or "
            "sampler.name=epochs or consensus_curriculum"
        )
    return sampler


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Return the token ids of a text that continues another one, without special tokens."""
    return tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()
