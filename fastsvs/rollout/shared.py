"""One engine that several pieces of work use at a time, each through a view of its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import count
from threading import Condition
from time import monotonic
from weakref import WeakValueDictionary

from fastsvs.rollout.engine import Inference, Request, Rollout

Finished = list[tuple[str, list[Rollout]]]


class SharedEngine:
    """An engine that is not collective, and its views. Each view is used by one thread at a time."""

    def __init__(self, engine: Inference) -> None:
        self._engine = engine
        self._views: WeakValueDictionary[str, EngineView] = WeakValueDictionary()
        self._names = map(str, count())
        self._changed = Condition()
        """Guards the views' finished groups and `_polling`."""
        self._polling = False
        """True while a thread waits for the engine; what comes for other views, it hands to them."""

    def view(self) -> EngineView:
        name = next(self._names)
        view = self._views[name] = EngineView(self, self._engine, name)
        return view

    def poll(self, view: EngineView, timeout: float) -> Finished:
        """Return the groups of `view` that have finished. Waits up to `timeout` seconds for the first one."""
        deadline = monotonic() + timeout
        while True:
            with self._changed:
                self._changed.wait_for(lambda: view.finished or not self._polling, max(0.0, deadline - monotonic()))
                if view.finished or self._polling:
                    return view.take()
                self._polling = True
            finished: Finished = []
            try:
                finished = self._engine.poll(max(0.0, deadline - monotonic()))
            finally:
                with self._changed:
                    self._polling = False
                    for key, rollouts in finished:
                        name, _, own = key.partition(":")
                        if owner := self._views.get(name):  # else its work was given up
                            owner.finished.append((own, rollouts))
                    self._changed.notify_all()
            if monotonic() >= deadline:
                with self._changed:
                    return view.take()


class EngineView:
    """An engine for one piece of work, which sees its own requests alone."""

    collective = False

    def __init__(self, shared: SharedEngine, engine: Inference, name: str) -> None:
        self._shared = shared
        self._engine = engine
        self._name = name
        self._open: set[str] = set()
        """Keys of the requests whose groups `poll` has not returned."""
        self.finished: Finished = []

    def submit(self, requests: Sequence[Request]) -> None:
        self._engine.submit([replace(request, key=self._shown(request.key)) for request in requests])
        self._open |= {request.key for request in requests}

    def abort(self, keys: Collection[str]) -> None:
        self._engine.abort([self._shown(key) for key in keys])
        self._open -= set(keys)

    def poll(self, timeout: float) -> Finished:
        return self._shared.poll(self, timeout)

    def pending(self) -> int:
        return len(self._open)

    def take(self) -> Finished:
        """Return the finished groups, each once."""
        taken, self.finished = [(key, rollouts) for key, rollouts in self.finished if key in self._open], []
        self._open -= {key for key, _ in taken}
        return taken

    def _shown(self, key: str) -> str:
        return f"{self._name}:{key}"
