"""Imports Megatron-core so that it is the same everywhere: without packages that would change its path or cost time.

Wherever Transformer Engine or Apex is installed, as in every NGC container, Megatron-core 0.16.1 takes its optimizers
(their state is not that of torch's AdamW), norms and smaller parts from there, and fails where they were built for
another torch. It is imported without both. `policy.backend: te` asks for Transformer Engine's layers, and for nothing
else of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any
from unittest import mock

import torch

from fastsvs.errors import UserError

ACCELERATORS = {"transformer_engine": "Transformer Engine", "apex": "Apex"}
"""Packages that Megatron takes parts from wherever they are installed, and their names in messages."""
WRAPPERS = "megatron.core.extensions.transformer_engine"
FP8_VERSION = "2.2.0"
"""Version of Transformer Engine from which it scales a tensor by its own largest value."""
LOGGERS = ("tensorboard", "wandb")
"""Names of packages that Megatron imports wherever they are installed; ours are imported when a run asks for them."""


@contextmanager
def lean_imports() -> Iterator[None]:
    """Hide accelerators and loggers inside, and make `torch.compile` return functions unchanged. Megatron compiles only
    fusions that the policy's configuration turns off, and compiling any of them imports the whole of inductor."""
    roots = {*ACCELERATORS, *LOGGERS}
    loaded = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in roots}
    hidden = roots | set(loaded)
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: not to be found
    try:
        with _uncompiled():
            yield
    finally:
        for name in hidden:
            del sys.modules[name]
        sys.modules.update(loaded)


def accelerators() -> list[str]:
    """Return the names of the accelerators that are installed, working or not."""
    return [name for package, name in ACCELERATORS.items() if find_spec(package)]


def check_backend(backend: str, fp8: str | None = None) -> None:
    """Raise UserError where this process cannot compute with `policy.backend`, or in the format `policy.fp8`."""
    if backend != "te":
        return
    if not torch.cuda.is_available():
        raise UserError("policy.backend=te needs a GPU, and torch sees none here: set policy.backend=local")
    transformer_engine()
    if fp8 is not None:
        enable_fp8()
        served, reason = import_module("transformer_engine.pytorch.fp8").FP8GlobalStateManager.is_fp8_available()
        if not served:
            raise UserError(
                f"policy.fp8={fp8}: this GPU or its libraries do not compute in it ({reason}); set it to null"
            )


@cache
def transformer_engine() -> ModuleType:
    """Return Megatron's wrappers of Transformer Engine's layers. They are a copy of the module that Megatron itself has
    imported without it. Raises UserError where they do not import."""
    cure = "install the build for this torch (pip install transformer-engine[pytorch]), or set policy.backend=local"
    try:
        import_module("transformer_engine.pytorch")
        wrappers = _copy_of(WRAPPERS)
    except Exception as error:  # whatever a library raises that was built for another torch or driver
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"policy.backend=te: Transformer Engine does not import here ({reason}); {cure}") from error
    if not wrappers.HAVE_TE:
        raise UserError(f"policy.backend=te: this Transformer Engine lacks what Megatron-core's wrappers use; {cure}")
    return wrappers


@cache
def enable_fp8() -> None:
    """Give Megatron's blocks its functions for FP8, as it has empty ones where it was imported without Transformer
    Engine. They act where the model's configuration says `fp8`. Raises UserError where Transformer Engine does not
    import, or is too old."""
    wrappers = transformer_engine()
    if not wrappers.is_te_min_version(FP8_VERSION):
        raise UserError(
            f"policy.fp8 needs Transformer Engine {FP8_VERSION} or newer, and this is older: set it to null"
        )
    own = sys.modules[WRAPPERS]
    sys.modules[WRAPPERS] = wrappers
    try:
        functions = _copy_of("megatron.core.fp8_utils")
    except ImportError as error:
        raise UserError(f"policy.fp8: this Transformer Engine lacks what it takes ({error}); set it to null") from error
    finally:
        sys.modules[WRAPPERS] = own
    block = import_module("megatron.core.transformer.transformer_block")
    vars(block).update(get_fp8_context=functions.get_fp8_context, te_checkpoint=wrappers.te_checkpoint)


def _copy_of(name: str) -> ModuleType:
    """Return a copy of a module of Megatron that sees Transformer Engine."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with _uncompiled():
        spec.loader.exec_module(module)
    return module


def _uncompiled() -> Any:
    return mock.patch.object(torch, "compile", _leave)


def _leave(function: Callable[..., Any] | None = None, **options: object) -> Callable[..., Any]:
    return _leave if function is None else function
