"""Plug-ins by name: each extension point keeps one `Registry`; `module:object` names a user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from difflib import get_close_matches
from typing import Generic, TypeVar

from fastsvs.errors import UserError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to plug-ins of one kind, e.g. `LOSSES = Registry[LossFn]("policy loss")`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> list[str]:
        return sorted(self._entries)

    def get(self, name: str) -> T:
        """Return the plug-in called `name`, or the object at `module:object`. Raises UserError for an unknown one."""
        if ":" in name:
            return self._load(name)
        if name not in self._entries:
            near = get_close_matches(name, self._entries, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"unknown {self.kind} {name!r}.{hint} Known: {', '.join(self.names())}, or `module:object` of your own"
            )
        return self._entries[name]

    def _load(self, path: str) -> T:
        module, _, attribute = path.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"{self.kind} {path!r} cannot be imported: {error}") from error
