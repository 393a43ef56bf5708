"""Provider: plain PyTorch, eager, compiled, and its own chunked linear cross entropy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.kernels.inputs import Inputs
from bench.kernels.providers.base import AbsentError, Outputs, Provider, Work, loss_of
from bench.kernels.suites import Operator


def providers(operator: Operator, gpu: bool) -> Iterator[Provider]:
    yield Provider(
        "torch eager",
        lambda: _work(operator, statistics),
        unequal="keeps fp32 log-probs of the whole vocabulary, from logits rounded to bf16",
        complete=True,
    )
    if gpu:
        yield Provider(
            "torch.compile",
            lambda: _work(operator, _compiled()),
            unequal="products by cuBLAS, the rest compiled; logits rounded to bf16",
            complete=True,
        )
    if operator == "linear_policy_loss":
        yield Provider(
            "F.linear_cross_entropy",
            _linear_cross_entropy,
            unequal="mean cross entropy only: no entropy, no policy loss",
        )


def statistics(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return (log-probs, entropies), each [tokens]."""
    logp = logits.float().log_softmax(-1)
    return logp.gather(-1, targets[:, None]).squeeze(-1), -(logp.exp() * logp).sum(-1)


def _compiled() -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return `statistics` compiled for one shape, and forget what was compiled for others.

    Past the recompile limit nothing would be compiled.
    """
    torch.compiler.reset()
    return torch.compile(statistics, dynamic=False)


def _work(operator: Operator, function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Work:
    def work(inputs: Inputs) -> Outputs:
        logits = inputs.hidden @ inputs.weight.t() if inputs.logits is None else inputs.logits
        logprobs, entropy = function(logits, inputs.targets)
        return (loss_of(logprobs, entropy, inputs),) if operator == "linear_policy_loss" else (logprobs, entropy)

    return work


def _linear_cross_entropy() -> Work:
    function = getattr(F, "linear_cross_entropy", None)
    if function is None:
        raise AbsentError(f"torch {torch.__version__} does not have it")
    return lambda inputs: (function(inputs.hidden, inputs.weight, inputs.targets),)
