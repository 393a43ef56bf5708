"""What a command takes: sections put together."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Literal

from pydantic import Field, model_validator

from fastsvs.config.methods import MergingConfig, SamplerConfig, SelfConfig
from fastsvs.config.section import Section
from fastsvs.config.sections import (
    AlgorithmConfig,
    DataConfig,
    DynamicsConfig,
    EvaluationConfig,
    EvaluationSet,
    LoggingConfig,
    ModelConfig,
    PolicyConfig,
    RolloutConfig,
    RunConfig,
    SandboxConfig,
    ScheduleConfig,
    SelfPlayConfig,
    SftDataConfig,
    SyncConfig,
    VerifierConfig,
)


class TrainJob(Section):
    """`fastsvs train`: one file of configs/."""

    model: ModelConfig
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
    """`fastsvs sft`: supervised fine-tuning of the same policy on chat or prompt/completion data."""

    model: ModelConfig
    data: SftDataConfig
    policy: PolicyConfig = PolicyConfig()
    logging: LoggingConfig = LoggingConfig()
    run: RunConfig
    """`prompts_per_step` counts examples."""
    export: str | None = None
    """Folder for the Hugging Face model at the end."""


class SelfJob(Section):
    """`fastsvs self`: rounds of sampling, feedback, refinement and fine-tuning on what the model approves of."""

    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    evolution: SelfConfig = SelfConfig()
    verifier: VerifierConfig = VerifierConfig()
    policy: PolicyConfig = PolicyConfig()
    logging: LoggingConfig = LoggingConfig()
    run: RunConfig
    """`dir` holds a folder a round; the rest is each round's fine-tuning, where `prompts_per_step` counts examples."""

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
        """Longest prompt for feedback or refinement."""
        return self.evolution.max_prompt_tokens or self.data.max_prompt_tokens + 2 * self.rollout.max_response_tokens


class EvalJob(Section):
    """`fastsvs eval`: a model on problem sets."""

    model: ModelConfig
    """Hugging Face folder or hub id; a run folder, for its newest checkpoint; or one checkpoint."""
    sets: dict[str, EvaluationSet]
    suites: tuple[str, ...] = ()
    """Of `sets`, only these."""
    rollout: RolloutConfig = RolloutConfig()
    verifier: VerifierConfig = VerifierConfig()
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: the one that the model was trained or stored in."""
    output: str
    """Folder for the responses and the figures."""
    seed: int = 0
    timeout_seconds: float = Field(1800.0, gt=0)
    """Longest wait for another process."""

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

    @property
    def chosen(self) -> dict[str, EvaluationSet]:
        return {name: self.sets[name] for name in self.suites or self.sets}
