"""Where the tests of this folder run the Triton kernels: on a GPU, or on CPU tensors under Triton's interpreter."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import triton_interpreter

from fastsvs.kernels import pieces, table


@pytest.fixture
def device(monkeypatch) -> torch.device:
    """Its tensors go through the Triton kernels, as they would on a GPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not triton_interpreter.LOADED:
        pytest.skip("the Triton kernels need a GPU or Triton's interpreter, and triton is not installed")
    for choice, name in (("row_kernels", "rows_triton"), ("policy_kernels", "token_loss_triton")):
        for module in list(sys.modules.values()):
            if module.__name__.startswith("fastsvs.kernels.") and hasattr(module, choice):
                monkeypatch.setattr(module, choice, lambda like, name=name: _kernels(name, like))
    return torch.device("cpu")


@pytest.fixture
def narrow(monkeypatch) -> None:
    """The gradient of the logits enters the products in the model's own dtype, as on a GPU."""
    for module in list(sys.modules.values()):
        if module.__name__.startswith("fastsvs.kernels.") and hasattr(module, "operand_dtype"):
            monkeypatch.setattr(module, "operand_dtype", lambda like: like.dtype)


@pytest.fixture
def cut(monkeypatch) -> Callable[..., None]:
    """Changes the limits by which rows and columns are cut, on every device."""

    def change(**limits: int) -> None:
        for device in ("CPU", "CUDA"):
            monkeypatch.setattr(pieces, device, replace(getattr(pieces, device), **limits))

    return change


@pytest.fixture
def split_rows(monkeypatch) -> Callable[[int], None]:
    """Has so many programs share a row, where it has columns for them."""

    def split(programs: int) -> None:
        monkeypatch.setattr(table, "splits", lambda *_: programs)
        monkeypatch.setattr(table, "row_config", lambda *_: table.RowConfig(1024, 4))

    return split


def _kernels(name: str, like: torch.Tensor):
    name = name if like.dtype != torch.float64 else name.replace("_triton", "").replace("rows", "rows_torch")
    return importlib.import_module(f"fastsvs.kernels.{name}")
