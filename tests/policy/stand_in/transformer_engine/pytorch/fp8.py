"""Products whose operands are rounded to e4m3, scaled by their own largest values; gradients are not rounded."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from transformer_engine.common.recipe import Float8CurrentScaling

MULTIPLE = 16


class FP8GlobalStateManager:
    recipe: Float8CurrentScaling | None = None
    rounds = True
    """False for products that have the demands of 8-bit ones and not their error."""
    products = 0

    @classmethod
    def is_fp8_available(cls) -> tuple[bool, str]:
        return True, ""


@contextmanager
def fp8_autocast(enabled: bool, fp8_recipe: Float8CurrentScaling, fp8_group: Any) -> Iterator[None]:
    assert enabled
    before, FP8GlobalStateManager.recipe = FP8GlobalStateManager.recipe, fp8_recipe
    try:
        yield
    finally:
        FP8GlobalStateManager.recipe = before


def operand(x: Tensor) -> Tensor:
    """Return what is multiplied in place of a tensor, which is itself outside of the context."""
    if FP8GlobalStateManager.recipe is None:
        return x
    rows, columns = x.numel() // x.shape[-1], x.shape[-1]
    assert rows % MULTIPLE == columns % MULTIPLE == 0, f"{rows} x {columns}"
    FP8GlobalStateManager.products += 1
    if not FP8GlobalStateManager.rounds:
        return x
    scale = 448 / x.detach().abs().max().clamp_min(1e-12)
    rounded = (x.detach() * scale).to(torch.float8_e4m3fn).to(x.dtype) / scale
    return x + (rounded - x.detach())
