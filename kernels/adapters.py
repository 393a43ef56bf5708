"""The operators in the shape of other libraries' functions, so that a trainer takes them by one assignment.

Each function has the arguments and the results of the one that its docstring names, and refuses by name what it does
not compute. Results are in the accumulation dtype, which is wider than what some of those give.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .head import Head
from .linear_logprob import linear_logprob_entropy
from .rows_torch import IGNORE_INDEX, accumulation_dtype

REDUCTIONS = ("none", "sum", "mean")


def verl_linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    reduction: str = "none",
    dist_process_group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """Return log-probs ([tokens], or [] when reduced) and entropies [tokens], as verl's
    `verl.utils.kernel.linear_cross_entropy.linear_cross_entropy` does. Raises ValueError for an unknown reduction."""
    _check_reduction(reduction)
    logprobs, entropy = linear_logprob_entropy(
        hidden, weight, labels, temperature=temperature, group=dist_process_group
    )
    logprobs = logprobs.flatten()
    return {"none": logprobs, "sum": logprobs.sum(), "mean": logprobs.mean()}[reduction], entropy.flatten()


def trl_chunked_logprob(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    chunk_size: int,
    final_logit_softcapping: float | None = None,
    logit_scale: float = 1.0,
    outputs: tuple[str, ...] = ("entropy",),
) -> tuple[Tensor, Tensor | None, None, None, None]:
    """Return log-probs and, where `outputs` has it, entropies [tokens], as TRL's
    `trl.kernels.ChunkedLogProbFunction.apply` does. The chunk is ours to choose, and `chunk_size` means nothing.

    With a scale s and a softcap c, s before c, the logits are s (c/s) tanh(z / (c/s)). Raises ValueError for an output
    other than the entropy.
    """
    if set(outputs) - {"entropy"}:
        raise ValueError(f"of the optional outputs there is the entropy alone, got {', '.join(outputs)}")
    softcap = None if final_logit_softcapping is None else final_logit_softcapping / logit_scale
    logprobs, entropy = linear_logprob_entropy(
        hidden, Head(weight, bias, softcap), targets, temperature=temperature / logit_scale
    )
    return logprobs, entropy if "entropy" in outputs else None, None, None, None


def prime_rl_logprob_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, inv_temperature: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Return log-probs and entropies [tokens], as prime-rl's
    `prime_rl.trainer.models.layers.lm_head._SequenceChunkedLogProbEntropyFn.apply` does, but with a gradient of the
    entropy. The chunk is ours to choose, and `chunk_size` means nothing."""
    return linear_logprob_entropy(hidden, weight, labels, temperature=1 / inv_temperature)


def liger_scaled_cross_entropy(
    _input: Tensor,
    weight: Tensor,
    target: Tensor,
    temperature: float = 1.0,
    ignore_index: int = IGNORE_INDEX,
    m_tiles_per_cluster: int = 1,
    return_entropy: bool = False,
    selected_token_ids: Tensor | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Return negative log-probs [tokens], and where asked for entropies [tokens] and log-probs [tokens, selected] of
    `selected_token_ids`, as Liger's `LigerFusedLinearScaledCrossEntropyFunction.apply` does."""
    logprobs, entropy, lse = linear_logprob_entropy(
        _input, weight, target, temperature=temperature, ignore_index=ignore_index, return_lse=True
    )
    results = [-logprobs]
    if return_entropy:
        results.append(entropy)
    if selected_token_ids is not None:
        dtype = accumulation_dtype(weight)
        logits = _input.to(dtype) @ weight[selected_token_ids].to(dtype).t() / temperature
        results.append((logits - lse[:, None]).masked_fill((target == ignore_index)[:, None], 0.0))
    return tuple(results) if len(results) > 1 else results[0]


def liger_fused_linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    ce_weight: None = None,
    ignore_index: int = IGNORE_INDEX,
    lse_square_scale: float = 0.0,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    softcap: float | None = None,
    return_z_loss: bool = False,
    accum_dtype: torch.dtype | None = None,
    **others: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the cross entropy, with label smoothing and z-loss in it, and where asked for the z-loss too, as Liger's
    `liger_kernel.transformers.functional.liger_fused_linear_cross_entropy` does.

    Smoothing needs the mean of the log-probs over the vocabulary, which is that of the logits, one inner product, less
    the logsumexp. Gradients are always accumulated in fp32 or wider, whatever `accum_dtype` says. Raises ValueError for
    smoothing under a softcap, weights of classes, an unknown reduction, and options that are not above.
    """
    wanted = [name for name, value in {"ce_weight": ce_weight, **others}.items() if value]
    if wanted:
        raise ValueError(f"{', '.join(wanted)}: not computed here")
    if label_smoothing and softcap is not None:
        raise ValueError("the mean of logits under a softcap is not that of a product: no label_smoothing with softcap")
    _check_reduction(reduction)
    head = Head(weight, bias, softcap)
    logprobs, _, lse = linear_logprob_entropy(input, head, target, ignore_index=ignore_index, return_lse=True)
    kept = target != ignore_index
    loss = -logprobs
    if label_smoothing:
        dtype = accumulation_dtype(weight)
        mean = input.to(dtype) @ (weight.sum(0, dtype=dtype) / len(weight))
        mean = mean if bias is None else mean + bias.to(dtype).mean()
        loss = (1 - label_smoothing) * loss + label_smoothing * (lse - mean).where(kept, 0.0)
    z_loss = lse_square_scale * lse.square()
    count = kept.sum().clamp(min=1) if reduction == "mean" else 1
    loss, z_loss = (part if reduction == "none" else part.sum() / count for part in (loss + z_loss, z_loss))
    return (loss, z_loss) if return_z_loss else loss


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
