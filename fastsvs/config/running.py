"""The sections of a run as a whole: its length and folder, and what is watched and logged."""

from __future__ import annotations

from pydantic import Field

from fastsvs.config.section import AnyPath, Section, Timeout


class DynamicsConfig(Section):
    """Diagnostics of a run beside its metrics: `dynamics/...` in metrics.jsonl. See docs/dynamics.md."""

    every: int = Field(10, ge=0)
    """Number of steps between two diagnostics; the first and the last step always have them, and 0 turns them off."""
    metrics: tuple[str, ...] = ("samples", "updates", "rank", "entropy")
    """MetricFns that diagnostics call, in this order: `samples` (figures of the step's samples), `updates` (the change
    of the weights), `rank` (the effective rank of hidden states), `entropy` (that of tokens), or `module:object`. With
    `rank` before `entropy`, one pass over the batch serves both."""
    ranked_responses: int = Field(256, ge=0)
    """Number of responses of a step whose hidden states `rank` looks at, dealt evenly over the kinds; 0 looks at
    none."""
    rank_window: int = Field(512, ge=2)
    """Number of tokens at the end of a response whose hidden states `rank` looks at."""
    rank_stride: int = Field(40, ge=1)
    """Number of tokens between two prefixes whose effective ranks are compared."""


class LoggingConfig(Section):
    """The loggers that get metrics beside metrics.jsonl. See docs/train.md#loggers."""

    loggers: tuple[str, ...] = ()
    """Names of loggers: `tensorboard`, `wandb`, `mlflow`, each an extra of the package (`pip install
    'fastsvs[wandb]'`), or `module:object`; empty writes metrics.jsonl alone."""
    project: str = "fastsvs"
    """Project or experiment to log under."""
    name: str | None = None
    """Name of the run in the loggers; null takes the name of its folder."""
    sample_every: int = Field(0, ge=0)
    """Number of steps between two tables of samples in the loggers; 0 sends none. The run folder has the samples of
    every step."""
    sampled_groups: int = Field(8, ge=1)
    """Number of groups in a table of samples, dealt evenly over the kinds."""
    token_share: float = Field(0.01, ge=0, le=1)
    """Share of the problems whose responses are kept token by token in the run folder, each with all that self-play
    made of it: text, log-probs of engine and policy, and entropy, about 30 bytes a token, and the rendered prompts. Of
    held-out problems the same share, without figures of the policy, about 17 bytes a token. 0 keeps none."""
    alert: str | None = None
    """AlertFn that looks at the metrics of every step, as `module:object`; null looks at none."""


class RunConfig(Section):
    """The run as a whole: its folder, length, batch and checkpoints."""

    dir: AnyPath
    """Run folder, for the resolved configuration, metrics, samples, checkpoints, summary and curves."""
    seed: int = 0
    """Seed of data order, sampling and random weights."""
    steps: int = Field(300, ge=0)
    """Number of steps of the whole run, over all its sessions."""
    prompts_per_step: int = Field(256, ge=1)
    """Number of problems of the data set in one step; for fine-tuning, of examples."""
    save_every: int = Field(4, ge=1)
    """Number of steps between checkpoints; the last step is always saved."""
    save_minutes: float = Field(0.0, ge=0)
    """Number of minutes since the last checkpoint, by the main rank's clock, after which a step that ends is saved,
    too; 0 goes by `run.save_every` alone."""
    keep_checkpoints: int = Field(2, ge=1)
    """Number of checkpoints to keep; older ones are removed."""
    timeout_seconds: Timeout = 1800.0
    """Longest wait of one process for another, in seconds."""
