"""Hand-written gradients against float64 autograd of the plain formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastsvs.elementwise import rms_norm, rotate, swiglu


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def plain_swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def plain_rotation(query: Tensor, key: Tensor, rotary: Tensor) -> Tensor:
    cosine, sine = rotary[:, :, None, : rotary.shape[-1] // 2]
    turned = []
    for x in (query, key):
        first, second = x.chunk(2, dim=-1)
        turned += [first * cosine - second * sine, second * cosine + first * sine]
    return torch.cat([part.flatten(1) for part in turned], dim=1)


def halves_side_by_side(query: Tensor, key: Tensor, rotary: Tensor) -> Tensor:
    turned = rotate(query, key, rotary)
    return torch.cat([half.flatten(1) for x in turned for half in x.chunk(2, dim=-1)], dim=1)


def partly_rotated(x: Tensor) -> Tensor:
    cosine, sine = ROTARY.double()[:, :, None, :4]
    first, second, rest = x.split([4, 4, 4], dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine, rest], dim=-1)


ANGLES = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)).repeat(1, 2)
ROTARY = torch.stack([ANGLES.cos(), ANGLES.sin()])
CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "rms_norm": (lambda x, w: rms_norm(x, w, 1e-6), plain_norm, [(7, 1, 24), (24,)]),
    "rms_norm of heads": (lambda x, w: rms_norm(x, w, 1e-6), plain_norm, [(7, 1, 3, 8), (8,)]),
    "centred rms_norm": (
        lambda x, w: rms_norm(x, w, 1e-6, centred=True),
        lambda x, w: plain_norm(x, 1 + w),
        [(7, 1, 24), (24,)],
    ),
    "swiglu": (swiglu, plain_swiglu, [(7, 1, 24)]),
    "rotate": (
        lambda q, k: halves_side_by_side(q, k, ROTARY.to(q.dtype)),
        lambda q, k: plain_rotation(q, k, ROTARY.double()),
        [(9, 4, 8), (9, 2, 8)],
    ),
    "rotate a part": (
        lambda q, k: torch.cat([x.flatten(1) for x in rotate(q, k, ROTARY.to(q.dtype))], dim=1),
        lambda q, k: torch.cat([partly_rotated(x).flatten(1) for x in (q, k)], dim=1),
        [(9, 4, 12), (9, 2, 12)],
    ),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients(case: str, dtype: torch.dtype, tolerance: float) -> None:
    ours, plain, shapes = CASES[case]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    actual, expected = ours(*inputs), plain(*exact)
    gradient = torch.randn(expected.shape, generator=generator).to(dtype)
    actual.backward(gradient)
    expected.backward(gradient.double())
    assert actual.dtype == dtype
    pairs = [(actual, expected), *((x.grad, e.grad) for x, e in zip(inputs, exact, strict=True))]
    for value, reference in pairs:
        assert (value.double() - reference).norm() < tolerance * reference.norm()
