"""Everything that a training run holds open, checked before the first token is made and closed at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from fastsvs import checkpoint_hooks, distributed
from fastsvs.algorithms import CompleteLoss, needs_labels, policy_loss
from fastsvs.checks import (
    check_fits_model,
    check_lengths,
    check_names,
    check_staleness,
    longest_request,
    longest_sequence,
)
from fastsvs.config import RolloutConfig, SyncConfig, TrainJob
from fastsvs.data import NO_PROBLEMS, PROMPTS, encode_prompt
from fastsvs.errors import UserError
from fastsvs.inputs import EncodedProblem, Inputs, read_inputs, stop_token_ids
from fastsvs.nodes import read_nodes
from fastsvs.policy import Policy, checkpoint, load_hf_config
from fastsvs.rollout import ENGINES, Engine, EngineSpec, RemoteEngine, SamplingParams
from fastsvs.rollouts import Rollouts
from fastsvs.selfplay import (
    JUDGES,
    SAMPLERS,
    STAGES,
    Draw,
    Judge,
    Sampler,
    SamplerTools,
    Stage,
    StageTools,
    Task,
    original_tasks,
)
from fastsvs.sync import BroadcastSync, LocalSync, ServerFleet, WeightSync, server_arguments, transport_for
from fastsvs.telemetry import RunFolder, StepProgress, give_back
from fastsvs.verify import Verifier

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Session:
    job: TrainJob
    inputs: Inputs
    folder: RunFolder
    progress: StepProgress
    sampler: Sampler
    stage: Stage
    verifier: Verifier
    judges: Mapping[str, Judge]
    """Beside the verifier."""
    engine: Engine
    policy: Policy
    reference: Policy | None
    sync: WeightSync
    rollouts: Rollouts
    loss: CompleteLoss
    sampling: SamplingParams
    memory: dict[str, Any] = field(default_factory=dict)
    """What stage, sampler and plug-ins carry from step to step, as of the last step that was learned from."""

    @property
    def held_out(self) -> Sequence[EncodedProblem]:
        return self.inputs.held_out

    def tasks(self, step: int) -> list[Task]:
        """What a step begins with; steps count from 0."""
        draws = self.sampler.draw(step)
        asked = [self.inputs.problems[draw.index] for draw in draws]
        tasks = original_tasks(asked, self.job.rollout.samples_per_prompt)
        originals = [self._as_drawn(task, draw) for task, draw in zip(tasks, draws, strict=True)]
        return self.stage.begin(step, originals)

    def _as_drawn(self, task: Task, draw: Draw) -> Task:
        prefix = self.encode(draw.prefix)
        limit = self.job.rollout.max_response_tokens - len(prefix)
        if limit < 1:
            raise UserError(
                f"sampler {self.job.sampler.name!r} begins a response to {task.problem.id} with {len(prefix)} tokens, "
                f"which leaves none of rollout.max_response_tokens ({self.job.rollout.max_response_tokens})"
            )
        return replace(
            task,
            samples=draw.samples,
            prompt_ids=task.prompt_ids + prefix,
            max_tokens=limit if prefix else None,
            prefix=draw.prefix,
        )

    def decode(self, ids: Sequence[int]) -> str:
        return self.inputs.tokenizer.decode(ids, skip_special_tokens=True)

    def encode(self, text: str) -> tuple[int, ...]:
        return encode_text(self.inputs.tokenizer, text)

    def resume(self) -> int:
        """Load the newest checkpoint; the number of steps already done."""
        newest = distributed.agree(checkpoint.latest(self.folder.checkpoints))
        state: dict[str, Any] = checkpoint.load(self.policy, newest) if newest else {"step": 0}
        start = state["step"]
        self.memory.update(state.get("memory", {}))
        for name, part in (("stage", self.stage), ("sampler", self.sampler)):
            if self.memory.get(name) is not None:
                part.recall(self.memory[name])
        self.folder.begin(start)
        if start:
            self.progress.say(f"resuming {self.folder.root} after step {start}")
        return start

    def save_is_due(self, step: int) -> bool:
        run = self.job.run
        return step % run.save_every == 0 or step == run.steps or checkpoint_hooks.is_due(self.job, step)

    def save(self, step: int) -> None:
        """Write the checkpoint of a step, unless it is there; of the weights that a checkpoint hook makes, where one is
        due."""
        checkpoints, state = self.folder.checkpoints, {"step": step, "memory": self.memory}
        newest = distributed.agree(checkpoint.latest(checkpoints))
        if newest and checkpoint.step_of(newest) == step:
            return
        if checkpoint_hooks.is_due(self.job, step):
            checkpoint_hooks.apply(self.job, self.policy, self.folder.root / ".before_hook", step)
        checkpoint.save(self.policy, checkpoints, step, state, self.job.run.keep_checkpoints)
        give_back()

    def make_room(self) -> None:
        """For the update, where rollout servers share the trainer's GPUs."""
        if distributed.is_main() and not self.engine.collective:
            cast(RemoteEngine, self.engine).sleep()

    def evaluated(self, step: int) -> bool:
        return distributed.agree(step in self.folder.evaluations())


@contextmanager
def open_session(job: TrainJob) -> Iterator[Session]:
    """Check the job's inputs, build all parts, and close them in the end. Raises UserError for what cannot work."""
    distributed.initialize(job.run.timeout_seconds, read_nodes(job.rollout).trainers)
    main = distributed.is_main()
    check_lengths(job)
    check_names(job)
    check_staleness(job)
    inputs = read_inputs(job)
    check_fits_model(job, load_hf_config(job.model.path), inputs.tokenizer)
    stage = build_stage(job, inputs.tokenizer)
    sampler = build_sampler(job, inputs)
    folder = RunFolder(job, Path(job.run.dir), writable=main)
    with ExitStack() as stack:
        stack.enter_context(closing(folder))
        verifier = stack.enter_context(Verifier(job.verifier))
        judges = {name: stack.enter_context(JUDGES.get(name)(job)) for name in stage.judges}
        policy = build_policy(job, total_updates=job.run.steps)
        reference = build_policy(job, total_updates=0) if job.algorithm.kl_coefficient else None
        stop = stop_token_ids(job.model.path, inputs.tokenizer)
        spec = training_spec(job, policy.hf_config, stop)
        engine = ENGINES.get(job.rollout.engine).build(spec)
        stack.enter_context(closing(engine))
        sync = stack.enter_context(closing(build_sync(policy, engine, job.rollout, job.sync)))
        rollouts = stack.enter_context(closing(Rollouts(engine, sync, job.run.timeout_seconds)))
        progress = stack.enter_context(StepProgress("train", job.run.steps, 0, enabled=main))
        loss = policy_loss(job.algorithm)
        said = [fact for judge in judges.values() for fact in judge.facts]
        for fact in (*inputs.facts, *verifier.facts, *said, loss.describe()):
            progress.say(fact)
        yield Session(
            job=job,
            inputs=inputs,
            folder=folder,
            progress=progress,
            sampler=sampler,
            stage=stage,
            verifier=verifier,
            judges=judges,
            engine=engine,
            policy=policy,
            reference=reference,
            sync=sync,
            rollouts=rollouts,
            loss=loss,
            sampling=sampling_params(job.rollout),
        )


def build_policy(job: TrainJob, total_updates: int) -> Policy:
    return Policy(
        job.model,
        job.policy,
        seed=job.run.seed,
        total_updates=total_updates,
        max_sequence_tokens=longest_sequence(job),
    )


def training_spec(job: TrainJob, hf_config: PretrainedConfig, stop: Sequence[int]) -> EngineSpec:
    folder = Path(job.run.dir) / "servers"
    return engine_spec(job.rollout, hf_config, stop, DTYPES[job.policy.dtype], longest_request(job), folder)


def engine_spec(
    rollout: RolloutConfig,
    hf_config: PretrainedConfig,
    stop: Sequence[int],
    dtype: torch.dtype,
    max_sequence_tokens: int,
    folder: Path,
) -> EngineSpec:
    return EngineSpec(
        hf_config,
        dtype=dtype,
        device=distributed.device(),
        eos_token_ids=stop,
        rollout=rollout,
        max_sequence_tokens=max_sequence_tokens,
        folder=folder,
        server_arguments=server_arguments(transport_for(rollout.placement, distributed.device())),
    )


def build_sync(policy: Policy, engine: Engine, rollout: RolloutConfig, config: SyncConfig) -> WeightSync:
    if not isinstance(engine, ServerFleet):
        return LocalSync(policy, engine)
    return BroadcastSync(policy, engine, config, transport_for(rollout.placement, distributed.device()))


def build_stage(job: TrainJob, tokenizer: PreTrainedTokenizerBase) -> Stage:
    """The experience stage by name; its questions go through the same PromptFn as the data set's."""
    prompt = PROMPTS.get(job.data.prompt)
    tools = StageTools(
        encode_question=lambda question: encode_prompt(tokenizer, prompt(question, job.data, "train")),
        encode_message=lambda text: encode_prompt(tokenizer, [{"role": "user", "content": text}]),
        max_prompt_tokens=job.data.max_prompt_tokens,
        max_response_tokens=job.rollout.max_response_tokens,
        seed=job.run.seed,
        needs_labels=needs_labels(job.algorithm.reward),
    )
    stage = STAGES.get(job.selfplay.stage)(job.selfplay, tools)
    if stage.reads_problems == (job.data.path == NO_PROBLEMS):
        wanted = "a data set" if stage.reads_problems else f"{NO_PROBLEMS!r}: it makes its own tasks"
        raise UserError(f"data.path={job.data.path}, but for selfplay.stage={job.selfplay.stage} it must be {wanted}")
    return stage


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()


def build_sampler(job: TrainJob, inputs: Inputs) -> Sampler:
    tools = SamplerTools(
        [problem for problem, _ in inputs.problems],
        job.run.prompts_per_step,
        job.rollout.samples_per_prompt,
        job.run.seed,
        encode=lambda text: encode_text(inputs.tokenizer, text),
        max_response_tokens=job.rollout.max_response_tokens,
        needs_labels=needs_labels(job.algorithm.reward),
    )
    return SAMPLERS.get(job.sampler.name)(job.sampler, tools)


def sampling_params(rollout: RolloutConfig) -> SamplingParams:
    return SamplingParams(rollout.temperature, rollout.top_p, rollout.top_k, rollout.max_response_tokens)
