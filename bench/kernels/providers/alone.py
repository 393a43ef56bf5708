"""Import of one module of a package, without the rest of the package and what that imports."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.kernels.providers.base import AbsentError


def load(name: str, stand_ins: Mapping[str, Mapping[str, Any]]) -> ModuleType:
    """Import the module `name` alone.

    The packages around it become empty shells for good, and so do the `stand_ins` (module -> what it holds) inside the
    package. Stand-ins for other packages are removed after the import. Raises AbsentError when the package is not
    installed, ImportError when the module cannot be imported.
    """
    package = name.partition(".")[0]
    _shells(name)
    modules = {name: _module(name, values) for name, values in stand_ins.items()}
    sys.modules.update({name: module for name, module in modules.items() if name.startswith(f"{package}.")})
    with _borrowed({name: module for name, module in modules.items() if not name.startswith(f"{package}.")}):
        return importlib.import_module(name)


@cache
def _shells(name: str) -> None:
    package, *inner = name.split(".")[:-1]
    spec = PathFinder.find_spec(package)
    if spec is None or spec.origin is None:
        raise AbsentError(f"{package} is not installed")
    folder = Path(spec.origin).parent
    path = package
    for part in (None, *inner):
        if part is not None:
            path, folder = f"{path}.{part}", folder / part
        if path not in sys.modules:
            sys.modules[path] = _module(path, {"__path__": [str(folder)]})


def _module(name: str, values: Mapping[str, Any]) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(values)
    return module


@contextmanager
def _borrowed(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
