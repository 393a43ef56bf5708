"""RMSNorm, SwiGLU and rotary positions as single autograd steps: Liger's kernels on CUDA, in-place torch elsewhere.

Built from autograd's own operations, they would take several times as many passes over memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fastsvs.kernels.invariant import elementwise, is_batch_invariant


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, *, centred: bool = False) -> Tensor:
    """Return x / sqrt(mean(x^2) + epsilon) * weight over the last dimension of `x` [..., hidden], normalised in
    fp32. A `centred` norm multiplies by 1 + weight instead, in fp32 too."""
    if x.is_cuda:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction

        offset, casting = (1.0, "gemma") if centred else (0.0, "llama")
        return LigerRMSNormFunction.apply(x, weight, epsilon, offset, casting, False)
    return _RMSNorm.apply(x, weight, epsilon, centred)


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up [..., width] of `gate_up` [..., 2 * width], which holds the gate first."""
    if gate_up.is_cuda:
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction

        return LigerSiLUMulFunction.apply(*gate_up.chunk(2, dim=-1))
    return _SwiGLU.apply(gate_up)


def rotate(query: Tensor, key: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor]:
    """Return `query` [tokens, heads, head_dim] and `key` [tokens, groups, head_dim], with the first dimensions of each
    head rotated by the token's angles. `rotary` [2, tokens, rotary_dim] holds the cosines and sines of the angles."""
    dim = rotary.shape[-1]
    if dim < query.shape[-1]:
        turned = rotate(query[..., :dim], key[..., :dim], rotary)
        first, second = (torch.cat([x, y[..., dim:]], dim=-1) for x, y in zip(turned, (query, key), strict=True))
        return first, second
    if query.is_cuda:
        from liger_kernel.ops.rope import LigerRopeFunction

        turned = LigerRopeFunction.apply(query.transpose(0, 1)[None], key.transpose(0, 1)[None], *rotary.unsqueeze(1))
        return turned[0][0].transpose(0, 1), turned[1][0].transpose(0, 1)
    return _Rotation.apply(query, rotary), _Rotation.apply(key, rotary)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, centred: bool) -> Tensor:
        wide = x.float()
        inverse = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        ctx.centred = centred
        if centred:
            return (wide * inverse).mul_(weight.float() + 1).to(x.dtype)
        return (wide * inverse).to(x.dtype) * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        factor = weight.float() + 1 if ctx.centred else weight.float()
        normalized = x.float() * inverse
        wide = gradient.float()
        product = (wide * normalized).flatten(0, -2)
        along = torch.mv(product, factor).view_as(inverse) / x.shape[-1]
        gradient_x = (wide * factor).sub_(normalized.mul_(along)).mul_(inverse)
        return gradient_x.to(x.dtype), product.sum(0).to(weight.dtype), None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return elementwise(F.silu, gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        gradient_gate, gradient_up = result.chunk(2, dim=-1)
        torch.mul(F.silu(gate), gradient, out=gradient_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=gradient_gate)
        return result


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rotary: Tensor) -> Tensor:
        ctx.save_for_backward(rotary)
        return _turn(x, rotary, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (rotary,) = ctx.saved_tensors
        return _turn(gradient, rotary, -1.0), None


def _turn(x: Tensor, rotary: Tensor, direction: float) -> Tensor:
    cosine, sine = rotary.unsqueeze(2)
    half = x.shape[-1] // 2
    turned = x * cosine
    for into, of, value in ((slice(half), slice(half, None), -direction), (slice(half, None), slice(half), direction)):
        if is_batch_invariant():
            turned[..., into] += x[..., of] * sine[..., into] * value
        else:  # one pass less, of which the last elements may be rounded once where the others are twice
            turned[..., into].addcmul_(x[..., of], sine[..., into], value=value)
    return turned
