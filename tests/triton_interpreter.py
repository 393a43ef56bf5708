"""Loads Triton and our Triton kernels for its interpreter where there is no GPU.

Triton reads TRITON_INTERPRET when it is imported, its own library included: this module must come before anything else
that imports Triton, as parts of transformers do. Afterwards the variable is gone again, for the sake of subprocesses.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
from typing import Any

import numpy as np
import torch

import fastsvs.kernels


def _load() -> bool:
    if torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        return False
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        importlib.import_module("triton.experimental.gluon")  # the first launch would, and it reads the variable too
        for module in pkgutil.iter_modules(fastsvs.kernels.__path__, "fastsvs.kernels."):
            if module.name.endswith("_triton"):
                importlib.import_module(module.name)
    finally:
        del os.environ["TRITON_INTERPRET"]
    _round_fma_once()
    return True


def _round_fma_once() -> None:
    """Make the interpreter's fma round once, as GPUs do: before Triton 3.9 it rounds the product as well, and what the
    kernels gain by an fma is lost."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    as_it_is = InterpreterBuilder.create_fma

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        if z.data.dtype != np.float32:
            return as_it_is(self, x, y, z)
        return TensorHandle(fma_fp32(x.data, y.data, z.data), z.dtype.scalar)

    a, b, c = (np.array([value], np.float32) for value in (1 + 2**-12, 1 + 2**-12, -1 - 2**-11))
    handles = [TensorHandle(value, importlib.import_module("triton.language").float32) for value in (a, b, c)]
    if as_it_is(InterpreterBuilder(), *handles).data != 2**-24:
        InterpreterBuilder.create_fma = create_fma


def fma_fp32(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return x * y + z, rounded once. In float64 the product is exact and the sum is rounded to odd: rounded again, to
    fp32, it goes where the exact sum would."""
    product, addend = np.broadcast_arrays(np.multiply(x, y, dtype=np.float64), z.astype(np.float64))
    total = product + addend
    rest = total - product
    error = (product - (total - rest)) + (addend - rest)
    even = total.view(np.int64) % 2 == 0
    towards = np.copysign(np.inf, error)
    return np.where(np.isfinite(error) & (error != 0) & even, np.nextafter(total, towards), total).astype(np.float32)


LOADED = _load()
