"""Everything that a training run holds open, checked before the first token is made and closed at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from fastsvs import distributed, rank_log
from fastsvs.algorithms import CompleteLoss
from fastsvs.config import SftJob, TrainJob
from fastsvs.data import EncodedProblem, Inputs
from fastsvs.errors import UserError
from fastsvs.policy import DTYPES, FrozenBase, Offload, Policy, checkpoint, keep_base
from fastsvs.rollout import (
    Engine,
    EngineSpec,
    Rollouts,
    SamplingParams,
    announced,
    engine_spec,
    open_rollouts,
    read_nodes,
    sampling_params,
)
from fastsvs.selfplay import JUDGES, Draw, Judge, Sampler, Savings, Stage, Task, original_tasks, substitutes_of
from fastsvs.stored_run import RunLayout
from fastsvs.sync import BroadcastSync, LocalSync, WeightSync, transport_for
from fastsvs.telemetry import RunFolder, StepProgress, give_back
from fastsvs.training import checkpoint_hooks
from fastsvs.training.checks import (
    longest_request,
    longest_sequence,
    takes_turns,
    why_whole_steps,
)
from fastsvs.training.machine import record_plan
from fastsvs.training.offloading import OffloadingSync
from fastsvs.training.preflight import encode_text, preflight
from fastsvs.training.saving import SaveSchedule, frozen_base
from fastsvs.training.start import load_start
from fastsvs.verify import AnswerVerifier, open_verifier


@dataclass(frozen=True)
class Session:
    """Everything that a training run holds open."""

    job: TrainJob
    inputs: Inputs
    folder: RunFolder
    progress: StepProgress
    sampler: Sampler
    stage: Stage
    savings: Savings
    """Samples that earlier steps have saved under `selfplay.budget`."""
    verifier: AnswerVerifier
    judges: Mapping[str, Judge]
    """Judges besides the verifier, by name."""
    policy: Policy
    reference: Policy | FrozenBase | None
    rollouts: Rollouts
    saver: checkpoint.Saver
    save_schedule: SaveSchedule
    offloads: Sequence[Offload]
    """Movement of the state of policy and reference."""
    loss: CompleteLoss
    sampling: SamplingParams
    plugin_state: dict[str, Any] = field(default_factory=dict)
    """State that stage, sampler and plug-ins carry from step to step, as of the last step that was learned from."""

    @property
    def engine(self) -> Engine:
        return self.rollouts.engine

    @property
    def sync(self) -> WeightSync:
        return self.rollouts.sync

    @property
    def held_out(self) -> Sequence[EncodedProblem]:
        return self.inputs.held_out

    @property
    def plays(self) -> bool:
        """Return True on the ranks that drive the engine."""
        return self.engine.collective or distributed.is_main()

    @property
    def rolls_out_beside(self) -> bool:
        """Return True where rollouts go on while the policy learns."""
        return not self.engine.collective and not takes_turns(self.job)

    @property
    def updates_at_work(self) -> bool:
        """Return True where the rollouts of later steps may begin, and weights be published, while others are under
        way."""
        return self.engine.fleet is not None and why_whole_steps(self.job) is None

    def tasks(self, step: int) -> list[Task]:
        """Return the tasks that a step begins with; steps count from 0."""
        return self.stage.begin(step, self._originals(step, self.sampler.draw(step)))

    def substitutes(self, step: int, tasks: Sequence[Task]) -> dict[str, Task]:
        """Return what is asked where one of the step's `tasks` teaches nothing, by the key of what taught nothing."""
        most = self.job.sampler.refills * len(tasks)
        spares = self.sampler.spare(step, self.sampler.draw(step), most) if most else []
        return substitutes_of(tasks, self._originals(step, spares))

    def _originals(self, step: int, draws: Sequence[Draw]) -> list[Task]:
        if not all(0 <= draw.index < len(self.inputs.problems) and draw.samples > 0 for draw in draws):
            raise UserError(
                f"sampler {self.job.sampler.name!r} draws at step {step} what there is not: an index outside the "
                f"{len(self.inputs.problems)} problems, or no samples"
            )
        asked = [self.inputs.problems[draw.index] for draw in draws]
        tasks = original_tasks(asked, self.job.rollout.samples_per_prompt)
        return [self._as_drawn(task, draw) for task, draw in zip(tasks, draws, strict=True)]

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
        """Load the newest checkpoint, and return the number of steps already done."""
        start = load_start(self.policy, self.job.model, self.folder.layout)
        if start.step:
            self._load_plugins(self.folder.layout.checkpoint(start.step), start.state.get("plugins", {}))
        self.folder.begin(start.step)
        if distributed.is_main():
            keep_base(self.job.model, self.inputs.tokenizer, self.folder.root)
            record_plan(self.policy.architecture, self.job, self.folder.layout.plan)
        links = [f"{name}: {link}" for name, link in self.folder.links.items()]
        for fact in (*links, *start.facts):
            self.progress.say(fact)
        return start.step

    def _load_plugins(self, path: Path, states: Any) -> None:
        """Take the state of all plug-ins from a checkpoint. Raises UserError for one that they did not write."""
        where = f"state.plugins in {path / checkpoint.MANIFEST}"
        if not isinstance(states, dict):
            raise UserError(f"{where} is no object with the state of each plug-in: move the checkpoint away")
        self.plugin_state.update(states)
        parts: Mapping[str, Any] = {"stage": self.stage, "sampler": self.sampler, "budget": self.savings}
        for name, kept in states.items():
            if name not in parts and not isinstance(kept, dict):
                raise UserError(f"{where} holds no object for the {name}: move the checkpoint away")
            if name not in parts or kept is None:
                continue
            try:
                parts[name].load_state_dict(kept)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                raise UserError(
                    f"{where} holds for the {name} what it did not write ({type(error).__name__}: {error}): move the "
                    "checkpoint away to go on from an earlier one"
                ) from error

    def save(self, step: int) -> None:
        """Begin to write the checkpoint of a step, unless it is there or under way. Where a checkpoint hook is due, it
        holds the weights that the hook makes."""
        newest = distributed.broadcast(checkpoint.latest(self.folder.checkpoints))
        if self.saver.step == step or newest == self.folder.layout.checkpoint(step):
            return
        if checkpoint_hooks.is_due(self.job, step):
            checkpoint_hooks.apply(self.job, self.policy, self.folder.root / ".before_hook", step)
        self.saver.begin(self.policy, step, {"plugins": self.plugin_state, **frozen_base(self.job, self.folder)})
        give_back()

    def put_engine_to_sleep(self) -> None:
        """Have rollout servers that share the trainer's GPUs free their memory for the update, and bring the state back
        that left for them. Collective."""
        if distributed.is_main():
            self.engine.sleep()
        distributed.barrier()  # servers of all nodes sleep before any rank needs their memory
        for offload in self.offloads:
            offload.return_all()

    def evaluated(self, step: int) -> bool:
        return distributed.broadcast(step in self.folder.evaluations())


@contextmanager
def open_session(job: TrainJob) -> Iterator[Session]:
    """Check the job's inputs, build all parts, and close them in the end. Raises UserError for what cannot work."""
    with ExitStack() as stack:
        stack.enter_context(announced(job.rollout))
        distributed.initialize(job.run.timeout_seconds, read_nodes(job.rollout).trainers)
        checked = preflight(job, distributed.world_size())
        inputs, stage, loss = checked.inputs, checked.stage, checked.loss
        rank_log.start(checked.folder.layout.logs)
        stack.enter_context(closing(checked.folder))
        verifier = stack.enter_context(open_verifier(job.verifier))
        judges = {name: stack.enter_context(JUDGES.make(name, job)) for name in stage.judges}
        policy = build_policy(job, total_updates=job.run.steps)
        saver = stack.enter_context(closing(build_saver(job, checked.folder)))
        reference = build_reference(job, policy)
        offloads = [Offload(one) for one in (policy, reference) if isinstance(one, Policy)]
        spec = training_spec(job, policy.hf_config, checked.stop)
        rollouts = stack.enter_context(
            open_rollouts(
                spec,
                lambda engine: OffloadingSync(build_sync(policy, engine, job), offloads[0], offloads[1:]),
                job.run.timeout_seconds,
            )
        )
        progress = stack.enter_context(StepProgress("train", job.run.steps, 0, enabled=distributed.is_main()))
        said = [fact for judge in judges.values() for fact in judge.facts]
        for fact in (*inputs.facts, *checked.advice, *policy.facts, *verifier.facts, *said, loss.describe()):
            progress.say(fact)
        yield Session(
            job=job,
            inputs=inputs,
            folder=checked.folder,
            progress=progress,
            sampler=checked.sampler,
            stage=stage,
            savings=Savings(job.selfplay),
            verifier=verifier,
            judges=judges,
            policy=policy,
            reference=reference,
            rollouts=rollouts,
            saver=saver,
            save_schedule=SaveSchedule(job),
            offloads=offloads,
            loss=loss,
            sampling=sampling_params(job.rollout),
        )


def build_policy(job: TrainJob, total_updates: int) -> Policy:
    """Return the job's policy; with `total_updates` 0 a frozen one."""
    return Policy(
        job.model,
        job.policy,
        seed=job.run.seed,
        total_updates=total_updates,
        max_sequence_tokens=longest_sequence(job),
        deterministic=job.rollout.deterministic and job.rollout.engine == "local",
    )


def build_reference(job: TrainJob, policy: Policy) -> Policy | FrozenBase | None:
    """Return the reference model of the KL term, if the loss has one. With adapters it takes no memory of its own."""
    if not job.algorithm.kl_coefficient:
        return None
    return FrozenBase(policy) if job.policy.lora.rank else build_policy(job, total_updates=0)


def build_saver(job: TrainJob | SftJob, folder: RunFolder) -> checkpoint.Saver:
    """Return what writes the run's checkpoints in the background."""
    return checkpoint.Saver(folder.checkpoints, job.run.keep_checkpoints, job.run.timeout_seconds)


def training_spec(job: TrainJob, hf_config: PretrainedConfig, stop: Sequence[int]) -> EngineSpec:
    """Return the specification of the engine that a run samples with; tokens with the ids `stop` end a response."""
    folder = RunLayout(Path(job.run.dir)).servers
    replays = job.policy.router_replay == "rollout"
    dtype, longest = DTYPES[job.policy.dtype], longest_request(job)
    return engine_spec(job.rollout, hf_config, stop, dtype, longest, folder, tells_experts=replays)


def build_sync(policy: Policy, engine: Engine, job: TrainJob) -> WeightSync:
    """Return what brings the policy's weights to the engine: through memory, or to its servers."""
    if engine.fleet is None:
        return LocalSync(policy, engine)
    transport = transport_for(job.rollout.placement, distributed.device())
    beside = job.train.staleness > 0
    staged = beside if job.sync.staged is None else job.sync.staged
    return BroadcastSync(policy, engine.fleet, job.sync, transport, staged=staged)
