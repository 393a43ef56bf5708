"""The policy: one Hugging Face model as a Megatron job over all ranks, with log-probs, updates and weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fastsvs import distributed
from fastsvs.algorithms import Batch, Metric, PolicyLoss, combine, joined
from fastsvs.architecture import load_hf_config, rotary_table, trained_architecture
from fastsvs.buckets import Bucket, TensorSpec
from fastsvs.config import AlgorithmConfig, ModelConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.layout_checks import check_layout
from fastsvs.policy.adapter_files import open_adapters
from fastsvs.policy.adapters import MergedWeights, attach_adapters
from fastsvs.policy.attention import chosen, shares
from fastsvs.policy.away import Away
from fastsvs.policy.blocks import WeightBlocks
from fastsvs.policy.bundles import Sizes
from fastsvs.policy.export import save_hf
from fastsvs.policy.imports import accelerators, enable_fp8
from fastsvs.policy.model import DTYPES, PolicyModel, experts_obstacle, transformer_config
from fastsvs.policy.modules import layer_parts
from fastsvs.policy.parallel import (
    build_optimizer,
    clip_gradients,
    distribute_gradients,
    gradient_norm,
    initialize_model_parallel,
    megatron_device,
)
from fastsvs.policy.passes import Pass, plan_pass
from fastsvs.policy.shares import compared_weights
from fastsvs.policy.statistics import HiddenLook, PolicyStatistics, StatisticsHead
from fastsvs.policy.step import Objective, run_pipeline, speaks_for_its_row
from fastsvs.policy.stream import stream_buckets, weight_specs
from fastsvs.policy.watch import TokenWatch
from fastsvs.policy.weights import WeightSource, hf_weights, load_weights, open_source


class Policy:
    """The policy of a run. Every method is collective: all ranks call it with the same arguments and get the same
    results."""

    def __init__(
        self,
        model: ModelConfig,
        config: PolicyConfig,
        *,
        seed: int,
        total_updates: int,
        max_sequence_tokens: int,
        weights: WeightSource | None = None,
        deterministic: bool = False,
    ) -> None:
        """Build the model and load its weights. With `total_updates` 0 the policy is frozen (a reference): it has no
        gradients and no optimizer.

        `max_sequence_tokens` bounds prompt + response. `weights` replace the model's own. A `deterministic` policy
        gives log-probs of the same bits however samples are packed, those of an equally deterministic local engine; it
        is dense, in fp32, on CPUs, with `tensor_parallel` 1. Raises UserError when the model or its weights cannot be
        read, when its architecture is unknown, or when it does not fit the layout.
        """
        distributed.initialize()
        self.config = config
        self.hf_config = load_hf_config(model.path)
        self.architecture = trained_architecture(self.hf_config, config)
        self.updates = 0
        self.away = Away()
        check_layout(self.architecture, config, distributed.world_size())
        self.max_sequence_tokens = max_sequence_tokens
        self._attention = (distributed.device(), DTYPES[config.dtype], self.architecture.head_dim)
        self._can_share = config.backend == "local" and shares(*self._attention)
        self._invariant = deterministic
        with megatron_device(deterministic):
            table = rotary_table(self.hf_config, max_sequence_tokens)
            self._rotary = table.to(distributed.device(), DTYPES[config.dtype])
            initialize_model_parallel(config)
            self.transformer = transformer_config(self.architecture, config)
            if config.fp8:
                enable_fp8()
            self.stage = PolicyModel(self.architecture, self.transformer, layer_parts(config.backend))
            self.first_weights = weights or open_source(model, self.architecture, seed)
            attach_adapters(self.stage, self.architecture)
            self.weights = MergedWeights(self.stage)
            adapters = open_adapters(config.lora, self.architecture, seed)
            load_weights(self.stage, self.architecture, self.first_weights, adapters)
            if total_updates:
                self.model = distribute_gradients(self.stage, self.transformer)
                self.optimizer, self.scheduler = build_optimizer(
                    self.model, config.optimizer, self.transformer, total_updates
                )

    @property
    def facts(self) -> list[str]:
        """Return what the policy computes with, for the log."""
        prompts = "once for all its samples in a row" if self._shares_prompts else "with each of its samples"
        if self.config.shared_prefix and not self._can_share:
            prompts += ", as no attention here serves policy.shared_prefix"
        experts = [self._experts] if self.architecture.experts else []
        return [self._parts, *experts, f"policy: a prompt is computed {prompts}"]

    @property
    def _parts(self) -> str:
        if self.config.backend == "te":
            linear = f"linear layers in FP8 ({self.config.fp8})" if self.config.fp8 else "linear layers"
            return f"policy: norms, {linear} and attention of Transformer Engine, AdamW of torch"
        attention = chosen(*self._attention)
        unused = f"; {' and '.join(found)} not used, though installed" if (found := accelerators()) else ""
        return f"policy: own layers, attention {attention}, AdamW of torch{unused}"

    @property
    def _experts(self) -> str:
        parts = self.config.expert_tensor_parallel
        reason = experts_obstacle(self.architecture, DTYPES[self.config.dtype], parts)
        return f"experts: {'grouped products' if reason is None else f'one after another, as {reason}'}"

    @property
    def _shares_prompts(self) -> bool:
        wanted = self.config.shared_prefix
        return self._can_share and (distributed.device().type == "cpu" if wanted is None else wanted)

    @property
    def learning_rate(self) -> float:
        """Return the peak of the schedule of the learning rate, as `policy.optimizer.learning_rate` sets it. A value
        that is assigned holds from the next update on; a policy that is built again begins with the configuration's.
        Raises ValueError for a value that is no positive number."""
        return float(self.scheduler.max_lr)

    @learning_rate.setter
    def learning_rate(self, peak: float) -> None:
        if not 0 < peak < math.inf:
            raise ValueError(f"a learning rate must be a positive number, not {peak}")
        self.scheduler.max_lr = peak
        for group in self.optimizer.param_groups:
            group["max_lr"] = peak

    def log_probs(self, batch: Batch, temperature: float) -> Tensor:
        """Return the log-probs of the response tokens, [response_tokens] fp32 on the CPU."""
        return self.statistics(batch, temperature).logprobs

    @torch.no_grad()
    def statistics(
        self,
        batch: Batch,
        temperature: float,
        samples: Collection[int] = (),
        look: HiddenLook | None = None,
        certainty: bool = False,
    ) -> PolicyStatistics:
        """Return figures of the batch under the policy as it is. `look` gets the hidden states of each of `samples`, on
        the rank that has them, and its figures come back in the result. `certainty` asks for the mean log-probs."""
        head = StatisticsHead(
            temperature,
            self.architecture.vocabulary,
            samples,
            look,
            certainty,
            flat=torch.zeros(3, int(batch.response_lengths.sum())),
        )
        planned = self._plan(batch)
        with megatron_device(self._invariant):
            run_pipeline(self.stage, planned.rows, planned.count, head, forward_only=True)
        return head.gathered()

    def update(
        self,
        batch: Batch,
        loss: PolicyLoss,
        algorithm: AlgorithmConfig,
        token_weights: Tensor,
        temperature: float,
        schedule_step: int | None = None,
        watch: TokenWatch | None = None,
    ) -> dict[str, Metric]:
        """Make one optimizer step on the sum over samples and tokens of token_weights[sample] * loss[token].

        `token_weights` are [samples]. The learning rate is the schedule's at `schedule_step`, by default the number of
        updates so far: a training step of several updates is one step of the schedule. Returns the metrics of
        `accumulate_gradients`, grad_norm (before clipping) and learning_rate. `watch` gets what is found for the tokens
        of the batch's watched samples. Raises FloatingPointError, with unchanged weights, when the gradient is not
        finite.
        """
        metrics = self.accumulate_gradients(batch, loss, algorithm, token_weights, temperature, watch)
        self.scheduler.num_steps = self.updates if schedule_step is None else schedule_step
        self.scheduler.step(0)
        with megatron_device(self._invariant):
            self.optimizer.prepare_grads()
            norm = gradient_norm(self.optimizer)
            if not math.isfinite(norm):
                raise FloatingPointError(
                    f"the gradient norm is {norm} (loss {metrics['loss']}): no update was made; lower "
                    "policy.optimizer.learning_rate, look for rewards and losses that overflow, or go back to an "
                    "earlier checkpoint"
                )
            clip_gradients(self.optimizer, norm, self.config.optimizer.max_grad_norm)
            self.optimizer.step_with_ready_grads()
        self.updates += 1
        own = {"learning_rate": self.optimizer.param_groups[0]["lr"], "grad_norm": norm}
        return joined(metrics, {name: Metric(value) for name, value in own.items()})

    def accumulate_gradients(
        self,
        batch: Batch,
        loss: PolicyLoss,
        algorithm: AlgorithmConfig,
        token_weights: Tensor,
        temperature: float,
        watch: TokenWatch | None = None,
    ) -> dict[str, Metric]:
        """Compute the gradient for `update`, reduced over all ranks, in Megatron's buffers.

        Returns the loss; as means over the response tokens, entropy (nats) and entropy/<kind>; the loss's metrics, each
        reduced in its own way; tokens_saved, the share of the tokens of prompts and responses that shared prompts do
        without; and the load of experts (`policy.expert_load`). For `watch` see `update`.
        """
        objective = Objective(batch, loss, algorithm, token_weights, temperature, self.architecture.vocabulary, watch)
        planned = self._plan(batch, keep_attention=self.config.recompute == "all_but_attention")
        with megatron_device(self._invariant):
            self.model.zero_grad_buffer()
            self.optimizer.zero_grad()
            reports = run_pipeline(self.model, planned.rows, planned.count, objective, forward_only=False)
        whole = combine(distributed.gather(combine(reports if speaks_for_its_row() else [])))
        metrics = {name: part.over_update() for name, part in whole.items()}
        # The weights normalise every update on its own, so that the losses of several make a mean and no sum.
        load = planned.routings.metrics() if planned.routings else {}
        return joined(metrics | {"loss": Metric(metrics["loss"])}, {"tokens_saved": Metric(planned.saved)}, load)

    def hf_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield whole tensors under their Hugging Face names, layer by layer, on every rank, in the policy's dtype.
        They may share memory with the policy: copy what must outlive the next update."""
        return hf_weights(self.weights, self.architecture)

    def compared_weights(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield (name, first, now) of this rank's share of the weights, as parts of Hugging Face tensors on its device:
        as the policy was built, and as they are. Every value of the model is on one rank."""
        return compared_weights(self.weights, self.architecture, self.first_weights)

    def weight_specs(self) -> list[TensorSpec]:
        """Return the specs of the tensors that `stream_weights` sends. They follow from the model's configuration
        alone."""
        return weight_specs(self.architecture, DTYPES[self.config.dtype])

    def stream_weights(self, buckets: Sequence[Bucket], slots: Sequence[Tensor] = ()) -> Iterator[list[Tensor] | None]:
        """Yield every bucket's pieces on the main rank, which passes two `slots`, and None elsewhere; see
        `policy.stream`."""
        return stream_buckets(self.weights, self.architecture, buckets, slots)

    def weight_blocks(self) -> WeightBlocks | None:
        """Return what this rank holds of the tensors, without a copy, and what a vLLM server's workers load of them;
        None where tensor parallelism cuts linear attention, so that a rank's part of a tensor is no block."""
        if self.architecture.delta_net and self.config.tensor_parallel > 1:
            return None
        return WeightBlocks(self.weights, self.architecture)

    def export(self, folder: str | Path, write_others: Callable[[Path], None] = lambda draft: None) -> None:
        """Write a Hugging Face model folder (config, safetensors, and what `write_others` adds) that
        AutoModelForCausalLM loads."""
        dtype = DTYPES[self.config.dtype]
        save_hf(self.hf_weights(), self.hf_config, self.architecture, dtype, Path(folder), write_others)

    def _plan(self, batch: Batch, *, keep_attention: bool = False) -> Pass:
        """Return the rows of a batch. Raises UserError for a sequence that is too long."""
        if self.config.router_replay == "none":
            batch = replace(batch, experts=None)
        sizes = Sizes.of(batch, share=self._shares_prompts)
        longest = int((sizes.prompts + sizes.responses).max())
        if longest > self.max_sequence_tokens:
            raise UserError(
                f"a sequence of {longest} tokens is longer than the {self.max_sequence_tokens} that the policy "
                "was built for (prompt limit + response limit)"
            )
        if not sizes.prompts.all():
            raise UserError("a prompt without tokens: nothing predicts the first token of its response")
        return plan_pass(batch, sizes, self.architecture, self.config, self._rotary, keep_attention=keep_attention)
