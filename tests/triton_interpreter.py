"""Loads Triton and our Triton kernels for its interpreter where there is no GPU.

Triton reads TRITON_INTERPRET when it is imported, its own library included: this module must come before anything else
that imports Triton, as parts of transformers do. Afterwards the variable is gone again, for the sake of subprocesses.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil

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
    return True


LOADED = _load()
