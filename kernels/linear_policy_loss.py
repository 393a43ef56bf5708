"""A token-level policy loss and its gradient straight from hidden states and the (vocab-parallel) output weight.

For one piece of the tokens at a time: logits -> row statistics -> loss and its slopes -> gradient of the logits. For
several pieces together: gradient of the logits -> gradients of hidden states and weight. A token's slopes need only its
own log-prob and entropy, so nothing is computed twice: this takes three matrix products, where a loss that is
differentiated afterwards takes four. `policy_pass` is that pass; here are what callers and torch see of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, library

from .arguments import detached, operands
from .dispatch import scale
from .head import Head
from .left_out import METRIC
from .operators import NAMESPACE
from .pieces import check_workspace
from .policy_pass import PassOptions, policy_pass
from .rows_torch import IGNORE_INDEX, accumulation_dtype
from .settings import PolicyLossSettings
from .token_loss import TokenInputs, TokenLossFunction, check, check_name, metric_names
from .truncation import Truncation
from .vocabulary import share


class PolicyLossResult(NamedTuple):
    """The objective, and what it was computed from."""

    loss: Tensor
    """Scalar sum of weight * loss over tokens, differentiable once, in `hidden`, `weight` and the bias."""
    logprobs: Tensor
    """Log-probs of the targets, [tokens]; like everything below without gradient, and 0 for tokens left out."""
    entropy: Tensor
    """Entropies in nats, [tokens]."""
    metrics: dict[str, Tensor]
    """Metrics of the loss, [tokens] each; by the same names for any number of tokens."""


def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor | Head,
    targets: Tensor,
    inputs: TokenInputs,
    loss: PolicyLossSettings | TokenLossFunction,
    *,
    temperature: float | Tensor = 1.0,
    truncation: Truncation | None = None,
    ignore_index: int = IGNORE_INDEX,
    vocab_size: int | None = None,
    vocab_start: int | None = None,
    group: dist.ProcessGroup | None = None,
    weight_grad: Tensor | None = None,
    workspace_bytes: int | None = None,
    validate: bool = True,
    exact: bool = True,
    tau: float = 2.0**-9,
) -> PolicyLossResult:
    """Return the objective sum_t weights[t] * loss[t] of the policy softmax(hidden @ weight.T / temperature).

    Args:
        hidden, weight, targets, temperature, truncation, ignore_index, vocab_size, vocab_start, group, workspace_bytes,
            validate: as in `linear_logprob_entropy`.
        inputs: what the loss needs of each token, of the shape of `targets` each.
        loss: settings of a known loss, or the caller's own function, which must give each token's loss from that
            token's log-prob and entropy alone. It is called with no tokens where none has a target; torch.compile
            cannot look into it.
        weight_grad: [vocab_shard, hidden] in the accumulation dtype, e.g. Megatron's `main_grad`. The gradient of
            `weight` is added to it during this call, autograd gets none, and the upstream gradient must be 1.
        exact: whether all tokens enter the gradients. Without it those of each piece whose gradients are least are left
            out of the products, as long as they add up to at most a share `tau` of S, the sum over the tokens of
            2 (|g| (1 - p_t) + |h| entropy) / temperature with g = dL/dlog p and h = dL/dentropy (`left_out`). By that
            the gradient of the weight is off by at most tau S max_t |hidden_t| (Frobenius norm), that of the bias by
            tau S (sum of sizes), and those of the hidden states by tau S max_v |weight_v| (sum of the tokens' norms).
            Loss, log-probs, entropies and metrics stay as they are; the metric `left_out` is 1 for such a token. Their
            number is waited for: `validate` must be True.
        tau: share in [0, 1) that may be left out with `exact=False`; with 0, tokens alone that have no gradient.

    Returns:
        Results that are equal, bit for bit, on all ranks of `group`. The gradient of `hidden` is this rank's partial
        sum: the caller reduces it over `group`. Those of weight and bias are complete for the shard.

    Raises:
        ValueError: shapes, dtypes, devices, temperature, targets or settings do not fit.
    """
    of = operands(hidden, weight, targets, temperature, ignore_index, vocab_size, vocab_start, group)
    inputs.check(targets.shape, hidden.device)
    _check_weight_grad(weight_grad, of.head.weight)
    given = inputs.in_one_row()
    leaves = of.hidden, of.head.weight, of.head.bias
    needed = [torch.is_grad_enabled() and leaf is not None and leaf.requires_grad for leaf in leaves]
    cut, workspace = truncation or Truncation(), check_workspace(workspace_bytes)
    share_out = _share_left_out(exact, tau, validate)
    head, x = detached(of.head), of.hidden.detach()
    if isinstance(loss, PolicyLossSettings):
        check_name(loss)
        check(loss, given.rollout_logprobs, given.reference_logprobs)
        value, logprobs, entropy, stacked, *gradients = policy_loss(
            x,
            head.weight,
            head.bias,
            of.targets,
            of.inverse,
            given.advantages,
            given.weights,
            given.old_logprobs,
            given.rollout_logprobs,
            given.reference_logprobs,
            weight_grad,
            *loss.packed(),
            head.softcap,
            cut.top_k,
            cut.top_p,
            of.size,
            of.first,
            of.group,
            workspace,
            validate,
            share_out,
            *needed,
        )
        metrics = dict(zip(_names(loss, given, share_out), stacked.unbind(), strict=True))
        made = needed[0], needed[1] and weight_grad is None, needed[2]
        gradients = [gradient if wanted else None for gradient, wanted in zip(gradients, made, strict=True)]
    else:
        part = share(len(head.weight), of.size, of.first, of.group)
        options = PassOptions(cut, part, workspace, validate, share_out, *needed)
        passed = policy_pass(x, head, of.targets, of.inverse, given, loss, weight_grad, options)
        value, logprobs, entropy, metrics, *gradients = passed
    objective = with_gradients(*leaves, value, *gradients, weight_grad is not None)
    shaped = {name: values.view(of.shape) for name, values in metrics.items()}
    return PolicyLossResult(objective, logprobs.view(of.shape), entropy.view(of.shape), shaped)


@library.custom_op(f"{NAMESPACE}::policy_loss", mutates_args=("main_grad",))
def policy_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    inverse: Tensor | None,
    advantages: Tensor,
    weights: Tensor,
    old_logprobs: Tensor | None,
    rollout_logprobs: Tensor | None,
    reference_logprobs: Tensor | None,
    main_grad: Tensor | None,
    names: str,
    numbers: list[float],
    softcap: float | None,
    top_k: int | None,
    top_p: float | None,
    size: int,
    first: int,
    group: str | None,
    workspace: int | None,
    validate: bool,
    tau: float | None,
    needs_hidden: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the objective [], log-probs, entropies [tokens], metrics [metrics, tokens], and the gradients of hidden
    states, weight and bias, [0] for one that is not needed or goes into `main_grad`."""
    options = PassOptions(
        Truncation(top_k, top_p),
        share(len(weight), size, first, group),
        workspace,
        validate,
        tau,
        needs_hidden,
        needs_weight,
        needs_bias,
    )
    passed = policy_pass(
        hidden,
        Head(weight, bias, softcap),
        targets,
        inverse,
        TokenInputs(advantages, weights, old_logprobs, rollout_logprobs, reference_logprobs),
        PolicyLossSettings.unpacked(names, numbers),
        main_grad,
        options,
    )
    hidden_grad, weight_grad, bias_grad = (
        hidden.new_empty(0) if gradient is None else gradient
        for gradient in (passed.hidden_grad, passed.weight_grad, passed.bias_grad)
    )
    metrics = torch.stack(list(passed.metrics.values()))
    return passed.loss, passed.logprobs.clone(), passed.entropy.clone(), metrics, hidden_grad, weight_grad, bias_grad


@policy_loss.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    inverse: Tensor | None,
    advantages: Tensor,
    weights: Tensor,
    old_logprobs: Tensor | None,
    rollout_logprobs: Tensor | None,
    reference_logprobs: Tensor | None,
    main_grad: Tensor | None,
    names: str,
    numbers: list[float],
    *options: Any,
) -> tuple[Tensor, ...]:
    tokens, dtype = len(hidden), accumulation_dtype(hidden)
    inputs = TokenInputs(advantages, weights, old_logprobs, rollout_logprobs, reference_logprobs)
    tau, needs_hidden, needs_weight, needs_bias = options[-4:]
    metrics = _names(PolicyLossSettings.unpacked(names, numbers), inputs, tau)
    shapes = (
        hidden.shape if needs_hidden else (0,),
        weight.shape if needs_weight and main_grad is None else (0,),
        weight.shape[:1] if needs_bias else (0,),
    )
    values = (hidden.new_empty(shape, dtype=dtype) for shape in ((), (tokens,), (tokens,), (len(metrics), tokens)))
    return *values, *(hidden.new_empty(shape) for shape in shapes)


@library.custom_op(f"{NAMESPACE}::with_gradients", mutates_args=())
def with_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    value: Tensor,
    hidden_grad: Tensor | None,
    weight_grad: Tensor | None,
    bias_grad: Tensor | None,
    unit: bool,
) -> Tensor:
    """Return a `value` [] whose gradients in hidden states, weight and bias are known already. With `unit` part of them
    has gone elsewhere, so nothing may scale them."""
    return value.clone()


@with_gradients.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, value: Tensor, *_gradients: Any) -> Tensor:
    return torch.empty_like(value)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *_leaves, hidden_grad, weight_grad, bias_grad, ctx.unit = inputs
    ctx.save_for_backward(hidden_grad, weight_grad, bias_grad)
    ctx.spent = False


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.unit:
        torch._assert_async(upstream == 1, "with weight_grad the loss must be differentiated as it is, not scaled")
    if ctx.spent:
        raise RuntimeError("linear_policy_loss can be differentiated once: it made its gradients with the loss")
    ctx.spent = True
    gradients: list[Tensor | None] = []
    for needed, gradient in zip(ctx.needs_input_grad[:3], ctx.saved_tensors, strict=True):
        if needed and gradient is not None and not ctx.unit:
            scale_(gradient, upstream)
        gradients.append(gradient if needed else None)
    return *gradients, *(None,) * 5


with_gradients.register_autograd(_backward, setup_context=_keep_for_backward)


@library.custom_op(f"{NAMESPACE}::scale_", mutates_args=("values",))
def scale_(values: Tensor, factor: Tensor) -> None:
    """Multiply `values` by `factor` [] in place."""
    scale(values, factor)


def _share_left_out(exact: bool, tau: float, validate: bool) -> float | None:
    if not 0 <= tau < 1:
        raise ValueError(f"tau must lie in [0, 1), got {tau}")
    if not exact and not validate:
        raise ValueError("exact=False waits for the number of tokens that it leaves out: validate must be True")
    return None if exact else tau


def _names(settings: PolicyLossSettings, inputs: TokenInputs, tau: float | None) -> list[str]:
    return [*metric_names(settings, inputs), *([] if tau is None else [METRIC])]


def _check_weight_grad(weight_grad: Tensor | None, weight: Tensor) -> None:
    dtype = accumulation_dtype(weight)
    if weight_grad is not None and (weight_grad.shape != weight.shape or weight_grad.dtype != dtype):
        raise ValueError(
            f"weight_grad must be {dtype} {list(weight.shape)} like weight, got {weight_grad.dtype} "
            f"{list(weight_grad.shape)}"
        )
