"""Plug-ins by name: each extension point keeps one `Registry`; `module:object` names a user's own."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any, Generic, TypeVar

from fastsvs.errors import UserError

T = TypeVar("T")
OWN = "`module:object` of your own"
CURE = "`module:object` is an importable module and a name in it: install the module, or put its folder on PYTHONPATH"


class Registry(Generic[T]):
    """Names to plug-ins of one kind, e.g. `LOSSES = Registry[LossFn]("policy loss", takes=("terms", "config"))`."""

    def __init__(
        self,
        kind: str,
        *,
        takes: Sequence[str] | None = None,
        has: Sequence[str] = (),
        makes: Sequence[str] = (),
        beside: Sequence[str] = (),
    ) -> None:
        """Describe the plug-ins of a kind: they are called with the arguments `takes` (None: they are not called
        themselves), they have the attributes `has`, and what they make has the attributes `makes`. A user may also
        write the names `beside`, which are no plug-ins."""
        self.kind = kind
        self._takes = takes
        self._has = has
        self._makes = makes
        self._beside = beside
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
        """Return the plug-in called `name`, or the object at `module:object`. Raises UserError for an unknown one, and
        for an object that is no such plug-in."""
        if ":" in name:
            return self._load(name)
        if name not in self._entries:
            known = sorted([*self._entries, *self._beside])
            near = get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            choice = ", or ".join([", ".join(known), OWN] if known else [OWN])
            raise UserError(f"unknown {self.kind} {name!r}.{hint} Known: {choice}")
        return self._entries[name]

    def make(self, name: str, *arguments: Any) -> Any:
        """Return what the plug-in called `name` makes of the arguments. Raises UserError where that is something
        else."""
        made = self.get(name)(*arguments)  # type: ignore[operator]
        missing = [attribute for attribute in self._makes if not hasattr(made, attribute)]
        if missing:
            raise UserError(
                f"{self.kind} {name!r} makes a {type(made).__name__} without {', '.join(missing)}: see docs/extend.md"
            )
        return made

    def _load(self, path: str) -> T:
        name, _, attribute = path.partition(":")
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever a module of a user's own does
            raise UserError(f"{self.kind} {path!r} cannot be imported: {_told(error)}; {CURE}") from error
        if not hasattr(module, attribute):
            raise UserError(f"{self.kind} {path!r} cannot be imported: {_lacks(module, attribute)}; {CURE}")
        found: T = getattr(module, attribute)
        self._check(path, found)
        return found

    def _check(self, path: str, found: T) -> None:
        """Raise UserError for an object that cannot be a plug-in of this kind."""
        missing = [attribute for attribute in self._has if not hasattr(found, attribute)]
        if missing:
            raise UserError(f"{self.kind} {path!r} has no {', '.join(missing)}: see docs/extend.md")
        if self._takes is None:
            return
        if not callable(found):
            raise UserError(f"{self.kind} {path!r} is of type {type(found).__name__}: name a function or a class")
        try:
            inspect.signature(found).bind(*self._takes)
        except TypeError as error:
            raise UserError(
                f"{self.kind} {path!r} cannot be called with ({', '.join(self._takes)}): {error}; see docs/extend.md"
            ) from error
        except ValueError:  # a builtin that does not tell its signature
            pass


def _lacks(module: ModuleType, attribute: str) -> str:
    near = get_close_matches(attribute, vars(module), n=1)
    return f"module {module.__name__!r} has no {attribute!r}" + (f", did you mean {near[0]!r}?" if near else "")


def _told(error: BaseException) -> str:
    """Return what an import raised, with the line of the user's code where it is known."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    known = "importlib" not in frame.filename and not isinstance(error, SyntaxError)
    return f"{type(error).__name__}: {error}" + (f" ({frame.filename}, line {frame.lineno})" if known else "")
