"""The jobs of the commands, each put together from sections."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import Field, model_validator

from fastsvs.config.learning import AlgorithmConfig, PolicyConfig
from fastsvs.config.methods import MergingConfig, SamplerConfig, SelfConfig
from fastsvs.config.rollout import RolloutConfig, SyncConfig
from fastsvs.config.running import DynamicsConfig, LoggingConfig, RunConfig
from fastsvs.config.section import AnyPath, Section, Timeout
from fastsvs.config.sections import (
    DataConfig,
    EvaluationConfig,
    EvaluationSet,
    ModelConfig,
    SandboxConfig,
    ScheduleConfig,
    SelfPlayConfig,
    SftDataConfig,
    TrainedModelConfig,
    VerifierConfig,
)
from fastsvs.stored_evaluation import TAKEN

_FILE_NAME = re.compile(r"\w[\w.+ -]{0,99}")


def _refuse_offload(job: Any) -> Any:
    """Raise ValueError for a job of fine-tuning whose policy is to make room for rollouts."""
    if job.policy.offload != "none":
        raise ValueError("policy.offload makes room for rollouts, and fine-tuning has none: leave it out")
    return job


class TrainJob(Section):
    """`fastsvs train`: reinforcement learning with verifiable rewards, with self-play or without."""

    model: TrainedModelConfig
    data: DataConfig
    sampler: SamplerConfig = SamplerConfig()
    rollout: RolloutConfig = RolloutConfig()
    selfplay: SelfPlayConfig = SelfPlayConfig()
    verifier: VerifierConfig = VerifierConfig()
    sandbox: SandboxConfig = SandboxConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    policy: PolicyConfig = PolicyConfig()
    merging: MergingConfig = MergingConfig()
    sync: SyncConfig = SyncConfig()
    train: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    dynamics: DynamicsConfig = DynamicsConfig()
    logging: LoggingConfig = LoggingConfig()
    run: RunConfig


class SftJob(Section):
    """`fastsvs sft`: supervised fine-tuning of the same policy on dialogues."""

    model: TrainedModelConfig
    data: SftDataConfig
    policy: PolicyConfig = PolicyConfig()
    logging: LoggingConfig = LoggingConfig()
    run: RunConfig
    """The fine-tuning as a whole; `prompts_per_step` counts examples."""
    export: AnyPath | None = None
    """Folder to write the final Hugging Face model to; null writes none."""

    _makes_no_room = model_validator(mode="after")(_refuse_offload)


class SelfJob(Section):
    """`fastsvs self`: rounds of sampling, feedback, refinement and fine-tuning on what the model approves of. See
    docs/methods.md#self."""

    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    evolution: SelfConfig = SelfConfig()
    verifier: VerifierConfig = VerifierConfig()
    policy: PolicyConfig = PolicyConfig()
    logging: LoggingConfig = LoggingConfig()
    run: RunConfig
    """The folder of all rounds (`dir`, with a folder for each round), and the fine-tuning of each round, where
    `prompts_per_step` counts examples."""

    _makes_no_room = model_validator(mode="after")(_refuse_offload)

    @model_validator(mode="after")
    def _examples_fit_micro_batches(self) -> SelfJob:
        if self.evolution.max_example_tokens > self.policy.tokens_per_micro_batch:
            raise ValueError(
                f"evolution.max_example_tokens ({self.evolution.max_example_tokens}) is over "
                f"policy.tokens_per_micro_batch ({self.policy.tokens_per_micro_batch}): raise the latter or lower the "
                "former"
            )
        return self

    @property
    def link_tokens(self) -> int:
        """Return the longest prompt for feedback or a refinement, in tokens."""
        return self.evolution.max_prompt_tokens or self.data.max_prompt_tokens + 2 * self.rollout.max_response_tokens


class EvalJob(Section):
    """`fastsvs eval`: pass@k, maj@k and more of a model on problem sets. See docs/evaluation.md."""

    model: ModelConfig
    """The model to evaluate; `path` may also be a run folder, for its newest checkpoint, or one checkpoint."""
    sets: dict[str, EvaluationSet]
    """Problem sets by name; `<set>` stands for a name of your own."""
    suites: tuple[str, ...] = ()
    """Names of the sets to evaluate; empty evaluates all."""
    rollout: RolloutConfig = RolloutConfig()
    """The engine that answers; of the sampling keys only `max_response_tokens` is read, as the limit of sets without
    one."""
    verifier: VerifierConfig = VerifierConfig()
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the model: `fp32`, `bf16`, or `auto` for the one that it was trained or stored in."""
    output: AnyPath
    """Folder for the responses and the figures."""
    seed: int = 0
    """Seed of sampling."""
    token_share: float = Field(0.01, ge=0, le=1)
    """Share of the problems whose responses are kept token by token in the folder: text and log-probs of the engine,
    about 17 bytes a token, and the rendered prompts. 0 keeps none."""
    timeout_seconds: Timeout = 1800.0
    """Longest wait of one process for another, in seconds."""

    @model_validator(mode="after")
    def _suites_are_known(self) -> EvalJob:
        for name in self.suites:
            if name not in self.sets:
                near = get_close_matches(name, self.sets, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"suites: there is no set {name!r} (sets: {', '.join(sorted(self.sets))}){hint}")
        if not self.sets:
            raise ValueError("sets: name at least one problem set")
        return self

    @model_validator(mode="after")
    def _sets_name_files(self) -> EvalJob:
        for name in self.sets:
            if not _FILE_NAME.fullmatch(name) or name in TAKEN:
                raise ValueError(
                    f"sets: {name!r} cannot name the files of a set: use letters, digits, '_', '-', '.', '+' and "
                    f"blanks, a letter or a digit first, at most 100 of them, and none of {', '.join(TAKEN)}"
                )
        return self

    @property
    def chosen(self) -> dict[str, EvaluationSet]:
        """Return the sets to evaluate, by name."""
        return {name: self.sets[name] for name in self.suites or self.sets}
