"""The sections of a configuration: defaults are the constants of the SvS paper and its code."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fastsvs.config.azr import AzrConfig
from fastsvs.config.methods import CovoConfig, MajorityConfig, RiseConfig, SelfVerificationConfig, VerlConfig
from fastsvs.config.section import InputPath, Section

MATH_SUFFIX = " Please reason step by step, and put your final answer within \\boxed{}."


class ModelConfig(Section):
    path: InputPath
    """Hugging Face folder or hub id: config.json, weights, tokenizer."""
    tokenizer: InputPath | None = None
    """Where the tokenizer is, if not at `path`."""
    initialize: Literal["pretrained", "random"] = "pretrained"
    """`random` needs only config.json and draws the weights from the run's seed."""


class DataConfig(Section):
    path: str
    """A .parquet, .json or .jsonl file, a folder of them, a hub id (`name` or `name:config`), `tiny:train`, or
    `none` for a stage that makes its own tasks."""
    split: str = "train"
    """Split of a hub data set."""
    question_column: str | None = None
    """Column of the question; found by its usual names when not set."""
    answer_column: str | None = None
    """Column of the answer; found by its usual names when not set."""
    prompt: str = "chat"
    """PromptFn, how a problem becomes chat messages: `chat`, `merf`."""
    suffix: str = MATH_SUFFIX
    """Appended to every question, also to those that the policy wrote."""
    system_prompt: str | None = None
    rules: str | None = None
    """`prompt: merf`: what the reward is, told in training only."""
    rules_in: Literal["system", "user"] = "system"
    """Message that tells the rules: the system's, as in the paper, or for templates without one the user's."""
    max_prompt_tokens: int = Field(4096, ge=1)
    """Longer prompts are left out, counted and shown."""
    deduplicate: bool = True
    """Of problems with the same question only the first stays; the rest are counted and shown."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many problems (for `tiny:`, how many are made)."""


class ServerConfig(Section):
    """vLLM servers: how they are started, reached and watched (`rollout.engine: vllm`)."""

    urls: tuple[str, ...] = ()
    """`rollout.placement: external`: servers that somebody else runs, e.g. `http://10.0.0.5:8000`."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs (on a CPU: processes) of one server."""
    count: int | None = Field(None, ge=1)
    """Servers a node; as many as its GPUs hold when not set, one on a CPU."""
    host: str = "127.0.0.1"
    """Address that servers bind to; with more than one node a private interface's, or `auto` for the one that reaches
    the main node."""
    api_key_variable: str = "FASTSVS_API_KEY"
    """Environment variable with the servers' API key; a random key for servers of our own when it is not set."""
    arguments: dict[str, str | int | float | bool] = {}  # noqa: RUF012 (pydantic copies it)
    """Further vLLM options, `max-model-len: 8192` for `--max-model-len 8192`."""
    start_timeout_seconds: float = Field(900.0, gt=0)
    stall_timeout_seconds: float = Field(120.0, gt=0)
    """A server that answers no health check for so long counts as hung and is restarted."""
    max_restarts: int = Field(3, ge=0)
    """Of one server within a run; then it is given up, and when none is left the run ends with a checkpoint."""


class RolloutConfig(Section):
    engine: str = "local"
    """`local` (inside the trainer's processes), `vllm`."""
    placement: Literal["colocated", "dedicated", "external"] = "colocated"
    """vLLM servers on the trainer's own nodes and GPUs, on the job's last `nodes` nodes, or run by somebody else."""
    nodes: int = Field(1, ge=1)
    """`dedicated`: nodes of the job that run servers alone."""
    server: ServerConfig = ServerConfig()
    samples_per_prompt: int = Field(8, ge=1)
    """G: responses to each problem of the data set."""
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(-1, ge=-1)
    """-1 keeps the whole vocabulary."""
    max_response_tokens: int = Field(8192, ge=1)
    max_sequences: int = Field(256, ge=1)
    """Sequences that one engine decodes at a time."""

    @model_validator(mode="after")
    def _urls_are_of_external_servers(self) -> RolloutConfig:
        urls = self.server.urls
        if bool(urls) != (self.placement == "external"):
            raise ValueError("server.urls and placement: external go together, found one without the other")
        if len(set(urls)) < len(urls):
            raise ValueError(f"server.urls names a server twice: {', '.join(urls)}")
        return self


class ShapingConfig(Section):
    """Reward of a synthetic problem from the mean accuracy of its solutions."""

    rule: Literal["band", "solvable"] = "band"
    """`band`: 1 inside `selfplay.positive_range`. `solvable`: 1[acc > 0] (appendix G), which invites hint leaks."""
    negative: bool = False
    """Problems without reward get -1 instead of 0: the wording of the paper's text; its algorithm box says 0."""


class SelfPlayConfig(Section):
    stage: str = "svs"
    """ExperienceStage: `svs`, `rise`, `azr`, or `none` for plain RLVR."""
    schedule: Literal["streaming", "phased"] = "streaming"
    """`streaming`: a group that is complete goes on at once. `phased`: solving, synthesis and solving of synthetic
    problems wait for one another. Both give the same experience."""
    context_range: tuple[float, float] = (0.125, 0.5)
    """Mean accuracy, both ends included, of the problems whose correct responses become contexts."""
    variants_per_context: int = Field(8, ge=1)
    samples_per_variant: int = Field(8, ge=1)
    positive_range: tuple[float, float] = (0.125, 0.625)
    """Mean accuracy, both ends included, of the variants whose synthesis is rewarded."""
    shaping: ShapingConfig = ShapingConfig()
    template: InputPath | None = None
    """Text file with the synthesis prompt, `{response}` where the context goes; the built-in one when not set."""
    max_synthesis_tokens: int | None = Field(None, ge=1)
    """Response limit for synthesis; the rollout's when not set."""
    rise: RiseConfig = RiseConfig()
    azr: AzrConfig = AzrConfig()

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> SelfPlayConfig:
        for name in ("context_range", "positive_range"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1:
                raise ValueError(f"{name} must be [low, high] with 0 <= low <= high <= 1, got [{low}, {high}]")
        return self


class VerifierConfig(Section):
    workers: int = Field(2, ge=1)
    """Processes a rank."""
    timeout_seconds: float = Field(10.0, gt=0)
    """Limit for one answer, measured while it is being checked; its worker is then killed and replaced."""


class SandboxConfig(Section):
    """Where programs that a model wrote are run."""

    workers: int = Field(2, ge=2)
    """Processes a rank; half of them hash texts in another order, to find programs that depend on it."""
    timeout_seconds: float = Field(5.0, gt=0)
    """Limit for one program with all its inputs."""
    memory_bytes: int = Field(256 << 20, ge=128 << 20)
    """Address space of a program, Python's own included."""
    output_characters: int = Field(10_000, ge=1)
    """Of a program's result; of what it prints the rest is counted and left out."""
    allow_unisolated: bool = False
    """Run programs also where the system cannot isolate them."""


class AlgorithmConfig(Section):
    reward: str = "verified"
    """RewardFn: `verified` (the stage's own), or without labels `majority`, `self_certainty`, `negative_entropy`,
    `log_prob`, `covo`."""
    majority: MajorityConfig = MajorityConfig()
    covo: CovoConfig = CovoConfig()
    advantage: str = "grpo"
    """AdvantageFn: `grpo`, `rloo`, `trr`, `verl`."""
    verl: VerlConfig = VerlConfig()
    normalize_by_std: bool = True
    """Divide group advantages by the group's standard deviation (ddof 1); false is Dr.GRPO's choice."""
    loss: str = "ppo"
    """`ppo`, `cispo`, `gspo`, `sapo`."""
    clip_low: float = Field(0.2, ge=0)
    clip_high: float = Field(0.28, ge=0)
    dual_clip: float | None = Field(3.0, gt=1)
    """Bound c of the loss for negative advantages; null turns it off."""
    ratio_min: float = Field(0.0, ge=0)
    """CISPO: lower bound of the ratio itself."""
    ratio_max: float = Field(5.0, gt=0)
    """CISPO: upper bound of the ratio itself."""
    sapo_temperature_positive: float = Field(1.0, gt=0)
    sapo_temperature_negative: float = Field(1.05, gt=0)
    aggregation: Literal["token_mean", "sequence_mean", "dr_grpo"] = "token_mean"
    rollout_correction: Literal["none", "tis", "icepop"] = "none"
    """Importance weight of the trainer against the rollout engine: truncated, or masked outside a range."""
    tis_cap: float = Field(2.0, gt=0)
    icepop_range: tuple[float, float] = (0.5, 5.0)
    kl_coefficient: float = Field(0.0, ge=0)
    """A reference model is kept only when this is not 0."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    entropy_coefficient: float = 0.0
    samples_per_update: int = Field(2048, ge=1)
    """Responses in one optimizer step; a batch with more takes several, off-policy after the first."""


class OptimizerConfig(Section):
    learning_rate: float = Field(1e-6, gt=0)
    min_learning_rate: float = Field(0.0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Over `run.steps`; all updates of one training step have the same learning rate."""
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)


class PolicyConfig(Section):
    tensor_parallel: int = Field(1, ge=1)
    pipeline_parallel: int = Field(1, ge=1)
    sequence_parallel: bool = True
    """Shard activations along the sequence too, when tensor_parallel > 1."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    recompute: Literal["none", "all_but_attention", "full"] = "full"
    tokens_per_micro_batch: int = Field(12288, ge=1)
    """Token budget of one packed micro-batch; no sequence may be longer."""
    optimizer: OptimizerConfig = OptimizerConfig()


class SyncConfig(Section):
    """Weights from the policy to vLLM servers."""

    bucket_bytes: int = Field(512 << 20, ge=1)
    """Size of one broadcast; the sender holds two of them."""
    timeout_seconds: float = Field(300.0, gt=0)
    """Limit for one whole update; after it the group is torn down and built again."""
    attempts: int = Field(3, ge=1)
    verify: bool = False
    """Compare checksums of every tensor on both sides after each update."""


class ScheduleConfig(Section):
    staleness: Literal[0, 1] = 0
    """1: the rollouts of a step overlap the update of the step before; they come from weights one version old."""


class SamplingPlan(Section):
    """How often and how every problem of a set is answered."""

    samples: int = Field(8, ge=1)
    k: tuple[int, ...] = (1, 8)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_response_tokens: int | None = Field(None, ge=1)
    """The rollout's when not set."""

    @model_validator(mode="after")
    def _k_within_samples(self) -> SamplingPlan:
        if max(self.k, default=1) > self.samples or min(self.k, default=1) < 1:
            raise ValueError(f"every k of pass@k must lie in 1..samples ({self.samples}), got {list(self.k)}")
        return self


class EvaluationConfig(SamplingPlan):
    """Held-out problems while a run trains."""

    path: str | None = None
    """Held-out problems, read like `data.path`; null turns evaluation off."""
    limit: int | None = Field(None, ge=1)
    every: int = Field(0, ge=0)
    """Steps between evaluations; 0 is before and after training only."""


class EvaluationSet(SamplingPlan):
    """One problem set of `fastsvs eval`."""

    data: DataConfig
    verify: SelfVerificationConfig | None = None
    """The model judges its own responses: for the generation-verification gap."""


class DynamicsConfig(Section):
    """What a run looks at beside its metrics: `dynamics/` in metrics.jsonl."""

    every: int = Field(10, ge=0)
    """Steps between two examinations, the first and the last step among them; 0 turns them off."""
    ranked_responses: int = Field(256, ge=0)
    """Responses of a step whose hidden states are examined, dealt evenly over the kinds; 0 examines none."""
    rank_window: int = Field(512, ge=2)
    """Only so many last tokens of a response."""
    rank_stride: int = Field(40, ge=1)
    """Tokens between two prefixes whose effective ranks are compared."""


class LoggingConfig(Section):
    """Where metrics go beside metrics.jsonl."""

    loggers: tuple[str, ...] = ()
    """`tensorboard`, `wandb`, `mlflow`, each an extra of the package: `pip install fastsvs[wandb]`."""
    project: str = "fastsvs"
    name: str | None = None
    """Of the run; its folder's name when not set."""


class RunConfig(Section):
    dir: str
    """Run folder: resolved config, metrics, samples, checkpoints, summary, curves."""
    seed: int = 0
    steps: int = Field(300, ge=0)
    prompts_per_step: int = Field(256, ge=1)
    save_every: int = Field(4, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    timeout_seconds: float = Field(1800.0, gt=0)
    """Longest wait for another process."""


class SftDataConfig(Section):
    path: str
    """jsonl or parquet with `messages`, or `prompt` and `completion`; a hub id; or `tiny:sft`, `tiny:skills`,
    `tiny:azr_sft`, `tiny:train`."""
    split: str = "train"
    limit: int | None = Field(None, ge=1)
    max_tokens: int = Field(4096, ge=2)
    """Longer examples are left out, counted and shown."""
