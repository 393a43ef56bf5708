"""What a command takes: sections put together."""

from __future__ import annotations

from pydantic import Field

from fastsvs.config.sections import (
    AlgorithmConfig,
    DataConfig,
    DynamicsConfig,
    EvaluationConfig,
    LoggingConfig,
    ModelConfig,
    PolicyConfig,
    RolloutConfig,
    RunConfig,
    ScheduleConfig,
    Section,
    SelfPlayConfig,
    SftDataConfig,
    SyncConfig,
    VerifierConfig,
)


class TrainJob(Section):
    """`fastsvs train`: one file of configs/."""

    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    selfplay: SelfPlayConfig = SelfPlayConfig()
    verifier: VerifierConfig = VerifierConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    policy: PolicyConfig = PolicyConfig()
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


class EvalJob(Section):
    """`fastsvs eval`: pass@k of a Hugging Face folder or of a run's newest checkpoint on one file."""

    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    verifier: VerifierConfig = VerifierConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    output: str
    """JSON file with the figures; the responses go to the same name with .samples.jsonl."""
    seed: int = 0
    timeout_seconds: float = Field(1800.0, gt=0)
