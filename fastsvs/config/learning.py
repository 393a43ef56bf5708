"""The sections of the algorithm, the optimizer and the trained model. Defaults are the constants of the SvS paper and
its code."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from fastsvs.config.methods import CovoConfig, MajorityConfig, VerlConfig
from fastsvs.config.section import Decay, InputPath, Section


class AlgorithmConfig(Section):
    """The algorithm: how rewards become advantages, and advantages a loss. See docs/algorithms.md."""

    reward: str = "verified"
    """RewardFn that gives each response its reward: `verified` takes the rewards of the stage; `majority`,
    `self_certainty`, `negative_entropy`, `log_prob` and `covo` need no labels; or `module:object`."""
    majority: MajorityConfig = MajorityConfig()
    covo: CovoConfig = CovoConfig()
    advantage: str = "grpo"
    """AdvantageFn that turns rewards into advantages: `grpo`, `rloo`, `trr`, `verl` or `module:object`."""
    verl: VerlConfig = VerlConfig()
    overlong_buffer: int = Field(0, ge=0)
    """Number of tokens before the limit of an answer over which its reward falls (DAPO's soft overlong punishment); at
    most `rollout.max_response_tokens`. 0 turns it off."""
    overlong_factor: float = Field(1.0, gt=0)
    """Reward that an answer at its token limit loses, with an `overlong_buffer`."""
    normalize_by_std: bool = True
    """Division of GRPO's advantages by the standard deviation of the group (ddof 1); false is the choice of Dr.GRPO."""
    loss: str = "ppo"
    """PolicyLoss of a token: `ppo`, `cispo`, `gspo`, `sapo` or `module:object`."""
    clip_low: float = Field(0.2, ge=0)
    """Distance below 1 at which the probability ratio is clipped, to 1 - `clip_low` (`ppo`, `gspo`)."""
    clip_high: float = Field(0.28, ge=0)
    """Distance above 1 at which the probability ratio is clipped, to 1 + `clip_high` (`ppo`, `gspo`)."""
    dual_clip: float | None = Field(3.0, gt=1)
    """Bound c of the loss where the advantage is negative: the loss is at most c times the size of the advantage
    (`ppo`, `gspo`); null sets no bound."""
    ratio_min: float = Field(0.0, ge=0)
    """Lower bound of the probability ratio (`cispo`)."""
    ratio_max: float = Field(5.0, gt=0)
    """Upper bound of the probability ratio (`cispo`)."""
    sapo_temperature_positive: float = Field(1.0, gt=0)
    """Temperature tau where the advantage is positive (`sapo`)."""
    sapo_temperature_negative: float = Field(1.05, gt=0)
    """Temperature tau where the advantage is not positive (`sapo`)."""
    aggregation: Literal["token_mean", "sequence_mean", "dr_grpo"] = "token_mean"
    """Weight of a token in the loss of an update: `token_mean` is the same for all tokens; `sequence_mean` is the same
    for all responses; `dr_grpo` divides by `rollout.max_response_tokens` instead of the length of the response."""
    old_logprobs: Literal["trainer", "engine"] = "trainer"
    """Log-probs that the probability ratio of the loss compares with: `trainer` takes those of the policy before the
    step's first update; `engine` those with which the tokens were sampled, which needs no pass, and corrects what the
    engine computes otherwise and older weights by the ratio itself."""
    rollout_correction: Literal["none", "tis", "icepop"] = "none"
    """Importance weight of the trainer's probabilities against those of the rollout engine: `none`, `tis` (truncated),
    or `icepop` (0 outside a range)."""
    tis_cap: float = Field(2.0, gt=0)
    """Upper bound of the importance weight (`tis`)."""
    icepop_range: tuple[float, float] = (0.5, 5.0)
    """Range of the importance weight, outside of which a token is left out of the loss (`icepop`)."""
    kl_coefficient: float = Field(0.0, ge=0)
    """Weight of the KL divergence to the reference model in the loss; 0 turns it off, and no reference model is
    kept."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL divergence at each token: `k1`, `k2` or `k3`; docs/algorithms.md has the formulas."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus, which is subtracted from the loss; 0 turns it off."""
    denominator: Literal["kept", "all"] = "kept"
    """Responses that the loss is a mean over: `kept` counts those that are learned from; `all` counts those of the
    groups that the filters left out too, as if they had been learned from with an advantage of 0. Terms of KL and
    entropy are those of the former alone."""
    samples_per_update: int = Field(2048, ge=1)
    """Maximum number of responses in one optimizer step; a larger batch takes several steps, off-policy after the
    first."""
    updates: Literal["even", "filled"] = "even"
    """Sizes of a step's optimizer steps: `even` deals the responses to steps of equal size and weight; `filled` fills
    all but the last with `samples_per_update`, and weights that one by how full it is, as the reference code of SvS
    does. Either way groups stay together as far as the sizes allow."""


class OptimizerConfig(Section):
    """The optimizer, AdamW, and its learning rate schedule."""

    learning_rate: float = Field(1e-6, gt=0)
    """Peak of the learning rate."""
    min_learning_rate: float = Field(0.0, ge=0)
    """Learning rate at the end of the `linear` and `cosine` schedules; at most `learning_rate`."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate schedule over `run.steps`: `constant`, `linear` or `cosine`; all updates of one training step have
    the same learning rate."""
    warmup_steps: int = Field(0, ge=0)
    """Number of training steps with linear warm-up, fewer than `run.steps`; 0 begins at the peak."""
    weight_decay: float = Field(0.01, ge=0)
    """Coefficient of decoupled weight decay; 0 turns it off."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of the first and the second moment."""
    epsilon: float = Field(1e-8, gt=0)
    """Number added to the denominator of an update, against division by 0."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Largest global norm of the gradient; larger gradients are scaled down to it."""


Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)


def _in_order(targets: tuple[Projection, ...]) -> tuple[Projection, ...]:
    """Return the targets, each once, in the order of a layer: the same ones are equal, however they are listed."""
    if not targets:
        raise ValueError("at least one projection must have adapters")
    return tuple(projection for projection in PROJECTIONS if projection in targets)


class LoraConfig(Section):
    """Adapters of low rank (LoRA, arXiv 2106.09685), which alone learn, beside frozen weights. See docs/lora.md."""

    rank: int = Field(0, ge=0)
    """Rank r of the adapters; 0 has none, and all weights learn."""
    alpha: float = Field(32.0, gt=0)
    """Numerator of the scale: a weight W of the model acts as W + alpha / r * B A."""
    targets: Annotated[tuple[Projection, ...], AfterValidator(_in_order)] = PROJECTIONS
    """Projections of every layer that have adapters, by their Hugging Face names: `q_proj`, `k_proj`, `v_proj`,
    `o_proj`, `gate_proj`, `up_proj`, `down_proj`. Experts have none, so that models with experts take the first
    four."""
    adapter: InputPath | None = None
    """Folder of an adapter in PEFT's format (adapter_config.json, adapter_model.safetensors) that the run begins with,
    of this rank, alpha and targets; null begins with adapters that change nothing: A uniform in +-1/sqrt(inputs), as
    PEFT draws it, and B 0."""

    @model_validator(mode="after")
    def _adapter_has_a_rank(self) -> LoraConfig:
        if self.adapter is not None and not self.rank:
            raise ValueError(
                "adapter begins with adapters, but rank is 0: set rank, alpha and targets to the adapter's"
            )
        return self


class PolicyConfig(Section):
    """The trained model on its devices: layout, precision, memory and optimizer."""

    tensor_parallel: int = Field(1, ge=1)
    """Number of ranks that share each layer; it must divide attention heads, key/value heads and feed-forward width (of
    an expert only where it computes every token)."""
    pipeline_parallel: int = Field(1, ge=1)
    """Number of pipeline stages; it must divide the number of layers."""
    context_parallel: int = Field(1, ge=1)
    """Number of ranks that share out the tokens of each packed row, and the heads in attention, for sequences that are
    too long for one. It must divide the attention heads of a tensor-parallel rank, and divide or be a multiple of its
    key/value heads. `tokens_per_micro_batch` are those of a row, of all its ranks together. `backend: local` only."""
    sequence_parallel: bool = True
    """Sharding of activations along the sequence; with `tensor_parallel: 1` it has no effect. Experts need it."""
    expert_parallel: int = Field(1, ge=1)
    """Number of ranks that share out the experts of each layer, of those that hold the stage; it must divide the number
    of experts. Each token goes to the ranks of its experts and back (all-to-all)."""
    expert_tensor_parallel: int = Field(1, ge=1)
    """Number of ranks that share each expert, of those that hold the stage; it must divide the feed-forward width of an
    expert. With `expert_parallel` the stage's ranks must be a multiple of both together. `tensor_parallel` is about
    everything else, a shared expert included."""
    aux_loss_coefficient: float = Field(0.0, ge=0)
    """Weight of the loss that evens out the experts' load (Switch Transformer; 1 is the loss of an even load), averaged
    over layers' tokens and summed over layers; 0 turns it off. Only for models with experts."""
    router_replay: Literal["none", "rollout"] = "none"
    """Experts that compute a token in log-prob and training passes: `none` takes those of the policy's own router;
    `rollout` those with which the engine sampled it, weighted by the policy's router, which goes on to learn. Only for
    models with experts and `fastsvs train`; vLLM servers say the experts on GPUs (docs/models.md)."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """Precision of weights and activations: `bf16`, with fp32 master weights in the optimizer, or `fp32`."""
    recompute: Literal["none", "all_but_attention", "full"] = "full"
    """Activations that the backward pass computes again: `full` keeps one activation of each layer; `all_but_attention`
    keeps the output of attention too, which then runs once; `none` keeps all. The next two keys say of which layers."""
    recompute_method: Literal["uniform", "block"] = "uniform"
    """Layers of a pipeline stage that are computed again, with `recompute: full` or `all_but_attention`: `uniform` all
    of them, `recompute_layers` at a time; `block` the first `recompute_layers` of them, one at a time, while the others
    keep all their activations."""
    recompute_layers: int = Field(1, ge=1)
    """Number of layers: with `recompute_method: uniform`, of those that share one kept input, a divisor of the stage's
    layers (more save inputs and take the insides of as many layers at once); with `block`, of those that are computed
    again, at most the stage's (fewer take more memory and less time)."""
    backend: Literal["local", "te"] = "local"
    """Parts of a layer: `local` is our own norm and attention with Megatron's linear layers; `te` is Transformer
    Engine's norm, linear layers and attention, which must be installed and needs a GPU and bf16."""
    fp8: Literal["hybrid", "e4m3"] | None = None
    """Format of the products of the layers' linear parts, forward and backward, with `backend: te` on a GPU that has
    FP8: `e4m3`, or `hybrid`, which has gradients in e5m2. Each product scales its tensors by their own largest values.
    Weights, their gradients, attention, embeddings, log-probs and the optimizer stay as they are. Null computes in
    `dtype`. Rollouts need a correction then (docs/train.md)."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """State that leaves the device for page-locked host memory while rollouts run: `optimizer` the moments and the
    masters (gradients are freed and made anew); `all` the weights too, once they are published; `none` nothing. For
    servers on the trainer's GPUs (`rollout.placement: colocated`); host memory holds it once more."""
    tokens_per_micro_batch: int = Field(12288, ge=1)
    """Maximum number of tokens of one packed micro-batch; no prompt with its response may be longer."""
    shared_prefix: bool | None = None
    """Packing of the samples of a group as their prompt once and their responses, each of which attends to the prompt
    and to itself. It is exact. Null does so on a CPU, and not on a GPU, where it has not been measured. Where no
    attention serves such rows (a GPU with `dtype: fp32`, `backend: te`, a GPU without torch's FlashAttention 2), each
    response has its own prompt, and the log says so."""
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig = LoraConfig()

    @model_validator(mode="after")
    def _parts_go_together(self) -> PolicyConfig:
        if self.recompute == "none" and (self.recompute_method, self.recompute_layers) != ("uniform", 1):
            raise ValueError(
                "recompute_method and recompute_layers say how layers are computed again, but recompute is none: set "
                "it to full or all_but_attention, or leave them out"
            )
        if self.backend == "te" and (self.dtype != "bf16" or self.recompute == "all_but_attention"):
            raise ValueError("backend: te needs dtype: bf16, and recompute: full or none")
        if self.fp8 is not None and self.backend != "te":
            raise ValueError(f"fp8: {self.fp8} is computed by Transformer Engine: set backend to te, or fp8 to null")
        if self.backend == "te" and self.context_parallel > 1:
            raise ValueError("context_parallel is served by backend: local alone")
        return self
