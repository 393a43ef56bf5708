"""Checks of what a plug-in returned."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsvs.errors import UserError


def as_tensor(what: str, returned: object) -> Tensor:
    """Return a plug-in's result as fp32. Raises UserError where it is no tensor."""
    if not isinstance(returned, Tensor):
        raise UserError(f"{what} returned a {type(returned).__name__}; it must return a torch.Tensor")
    return returned.to(torch.float32)


def first_fault(values: Tensor) -> str:
    """Say which of `values`, one-dimensional, is the first that is not finite."""
    place = int((~values.isfinite()).nonzero()[0])
    return f"place {place}: {values[place]}"
