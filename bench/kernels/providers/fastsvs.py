"""Provider: our kernels."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.kernels.inputs import Inputs
from bench.kernels.ours import kernels
from bench.kernels.providers.base import SETTINGS, Outputs, Provider, Work
from bench.kernels.suites import Operator

PART = "fastsvs, exact=False"
WORKSPACES = {"1.8": 1800 << 20, "7.2": 7200 << 20}
"""Workspaces that are measured besides the default of 3600 MiB, in bytes."""


def providers(operator: Operator, gpu: bool) -> Iterator[Provider]:
    if operator == "logprob_entropy":
        yield Provider("fastsvs", lambda: _from_logits(False), complete=True)
        yield Provider("fastsvs, in place", lambda: _from_logits(True), overwrites=True)
        wide = torch.float32
        yield Provider("fastsvs, fp32 logits", lambda: _from_logits(False), logits_dtype=wide)
        yield Provider("fastsvs, fp32 logits, in place", lambda: _from_logits(True), logits_dtype=wide, overwrites=True)
    elif operator == "linear_logprob_entropy":
        yield Provider("fastsvs", lambda: _from_hidden(True), complete=True)
        note = "four products: keep_logits=False"
        yield Provider("fastsvs, logits made again", lambda: _from_hidden(False), unequal=note, complete=True)
    else:
        note = "adds dW to an fp32 buffer that is there already, as Megatron's is, and gives no bf16 dW"
        yield Provider("fastsvs", lambda: _policy_loss(True, None), unequal=note)
        yield Provider("fastsvs, dX and dW", lambda: _policy_loss(False, None), complete=True)
        part = "tokens that add least left out of dX and dW: tau=2^-9"
        yield Provider(PART, lambda: _policy_loss(False, None, exact=False), unequal=part, complete=True)
        for name, size in WORKSPACES.items() if gpu else ():
            work = _policy_loss(True, size)
            yield Provider(f"fastsvs, {name} GB workspace", lambda work=work: work, unequal=note)


def _from_logits(inplace: bool) -> Work:
    def work(inputs: Inputs) -> Outputs:
        assert inputs.logits is not None
        return kernels.logprob_entropy(inputs.logits, inputs.targets, inplace_backward=inplace)

    return work


def _from_hidden(keep: bool) -> Work:
    return lambda inputs: kernels.linear_logprob_entropy(inputs.hidden, inputs.weight, inputs.targets, keep_logits=keep)


def _policy_loss(into_buffer: bool, workspace: int | None, exact: bool = True) -> Work:
    """Return the work of the policy loss. With `into_buffer` the weight's gradient is added to an fp32 buffer that is
    there anyway, as Megatron's is."""
    buffers: dict[torch.Size, torch.Tensor] = {}

    def work(inputs: Inputs) -> Outputs:
        buffer = None
        if into_buffer:
            shape = inputs.weight.shape
            if shape not in buffers:
                buffers.clear()
                buffers[shape] = torch.zeros(shape, dtype=torch.float32, device=inputs.weight.device)
            buffer = buffers[shape]
        weights = torch.full_like(inputs.advantages, inputs.token_weight)
        terms = kernels.TokenInputs(inputs.advantages, weights, inputs.old_logprobs)
        result = kernels.linear_policy_loss(
            inputs.hidden,
            inputs.weight,
            inputs.targets,
            terms,
            SETTINGS,
            weight_grad=buffer,
            workspace_bytes=workspace,
            exact=exact,
        )
        return (result.loss,)

    return work
