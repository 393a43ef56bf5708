"""Megatron's process groups over the job's ranks, and the gradient and optimizer machinery on top of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from math import ceil

import torch
import torch.distributed as dist
from megatron.core import parallel_state as mpu
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from fastsvs import distributed
from fastsvs.config import OptimizerConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.policy.degrees import Degrees, here


def megatron_device(invariant: bool = False) -> AbstractContextManager[None]:
    """Return the context that Megatron runs in: on a machine without CUDA its device calls go to the CPU, where passes
    are batch-invariant if they are to be."""
    if torch.cuda.is_available():
        return nullcontext()
    from fastsvs.policy import cpu

    return cpu.redirect(invariant)


def initialize_model_parallel(config: PolicyConfig) -> None:
    """Create Megatron's process groups for this layout, once per process. Raises UserError when an earlier policy of
    this process has another layout."""
    distributed.initialize()
    if not mpu.model_parallel_is_initialized():
        mpu.initialize_model_parallel(
            config.tensor_parallel,
            config.pipeline_parallel,
            context_parallel_size=config.context_parallel,
            expert_model_parallel_size=config.expert_parallel,
            expert_tensor_parallel_size=config.expert_tensor_parallel,
            create_gloo_process_groups=False,
            distributed_timeout_minutes=max(1, ceil(_world_timeout() / timedelta(minutes=1))),
        )
        # Nothing random happens in the model (no dropout, weights are loaded), but Megatron wants the states.
        model_parallel_cuda_manual_seed(0)
    has, wanted = here(), Degrees.of(config)
    if has != wanted:
        raise UserError(f"this process already runs a policy with {has}; another one cannot have {wanted}")


def distribute_gradients(model: nn.Module, config: TransformerConfig) -> DistributedDataParallel:
    """Wrap the model so that its gradients lie in one fp32 buffer, summed over data-parallel ranks when the schedule
    ends."""
    settings = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True)
    wrapped = DistributedDataParallel(config, settings, model)
    config.no_sync_func = wrapped.no_sync
    config.finalize_model_grads_func = _finalize
    return wrapped


def build_optimizer(
    model: DistributedDataParallel, config: OptimizerConfig, transformer: TransformerConfig, total_updates: int
) -> tuple[MegatronOptimizer, OptimizerParamScheduler]:
    """Return torch's AdamW on fp32 masters, sharded over data-parallel ranks, and its schedule over `total_updates`
    steps. Raises UserError as `check_schedule` does, and where Megatron-core was imported beforehand with another
    AdamW, whose state checkpoints do not know."""
    check_schedule(config, total_updates)
    optimizer = get_megatron_optimizer(
        MegatronOptimizerConfig(
            optimizer="adam",
            lr=config.learning_rate,
            min_lr=config.min_learning_rate,
            weight_decay=config.weight_decay,
            adam_beta1=config.betas[0],
            adam_beta2=config.betas[1],
            adam_eps=config.epsilon,
            clip_grad=config.max_grad_norm,
            bf16=transformer.bf16,
            params_dtype=transformer.params_dtype,
            use_distributed_optimizer=True,
        ),
        [model],
        use_gloo_process_groups=False,
    )
    for part in optimizer.chained_optimizers:
        if not isinstance(part.optimizer, torch.optim.AdamW | None):
            raise UserError(
                f"Megatron-core took its optimizer from {type(part.optimizer).__module__}, as something imported it "
                "before fastsvs.policy, which imports it without Transformer Engine and Apex: import that first"
            )
    if torch.cuda.is_available():
        for group in optimizer.param_groups:
            group["fused"] = (
                True  # one pass over memory where torch's default takes a dozen, with copies of the moments
            )
    scheduler = OptimizerParamScheduler(
        optimizer,
        init_lr=config.learning_rate / (config.warmup_steps + 1),  # the first of warmup_steps + 1 equal increments
        max_lr=config.learning_rate,
        min_lr=config.min_learning_rate,
        lr_warmup_steps=config.warmup_steps,
        lr_decay_steps=total_updates,
        lr_decay_style=config.schedule,
        start_wd=config.weight_decay,
        end_wd=config.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
    )
    return optimizer, scheduler


def gradient_norm(optimizer: MegatronOptimizer) -> float:
    """Return the 2-norm of the gradient over all ranks. Megatron's own function waits for the GPU once per
    parameter."""
    grads = [grad for part in optimizer.chained_optimizers for grad in part.get_main_grads_for_grad_norm()]
    square = torch.nn.utils.get_total_norm(grads).to(distributed.device()) ** 2
    dist.all_reduce(square, group=optimizer.get_grad_stats_parallel_group())
    return square.item() ** 0.5


def clip_gradients(optimizer: MegatronOptimizer, norm: float, limit: float) -> None:
    """Scale gradients whose 2-norm is `norm` down to `limit`, where they exceed it."""
    coefficient = limit / (norm + 1e-6)
    if coefficient < 1:
        grads = [p.grad for part in optimizer.chained_optimizers for p in part.get_parameters() if p.grad is not None]
        torch._foreach_mul_(grads, coefficient)


def _finalize(model: list[DistributedDataParallel], _token_count: Tensor | None, **groups: object) -> None:
    finalize_model_grads(model, None, **groups)


def check_schedule(config: OptimizerConfig, total_updates: int) -> None:
    """Raise UserError for learning rates that no schedule over `total_updates` steps can have. A policy that is not to
    learn has 0 of them, and passes."""
    if not total_updates:
        return
    if config.warmup_steps >= total_updates:
        raise UserError(
            f"policy.optimizer.warmup_steps={config.warmup_steps} must be less than the run's {total_updates} updates"
        )
    if config.min_learning_rate > config.learning_rate:
        raise UserError(
            f"policy.optimizer.min_learning_rate={config.min_learning_rate} must not exceed "
            f"learning_rate={config.learning_rate}"
        )


def _world_timeout() -> timedelta:
    assert dist.group.WORLD is not None
    return dist.group.WORLD._get_backend(distributed.device()).options._timeout
