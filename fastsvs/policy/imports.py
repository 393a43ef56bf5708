"""Imports Megatron-core without packages that FastSvS does not use, which would add seconds to the start of every
process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

LOGGERS = ("tensorboard", "wandb")
"""Names of packages that Megatron imports wherever they are installed; ours are imported when a run asks for them."""


@contextmanager
def lean_imports() -> Iterator[None]:
    """Hide the loggers inside, and make `torch.compile` return functions unchanged. Megatron compiles only fusions that
    the policy's configuration turns off, and compiling any of them imports the whole of inductor."""
    hidden = [name for name in LOGGERS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        with mock.patch.object(torch, "compile", _leave):
            yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _leave(function: Callable[..., Any] | None = None, **options: object) -> Callable[..., Any]:
    return _leave if function is None else function
