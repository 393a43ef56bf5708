"""An engine that the main rank alone drives, as it drives servers: the local engine on that rank, given as the plug-in
`rollout.engine=remote_engine:MainRankEngine`.

Environment: REMOTE_ENGINE_FAILS_AT, REMOTE_ENGINE_KILLED_AT: a weight version. After a few groups from it the engine
fails for good, or the process is killed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterable, Sequence
from types import SimpleNamespace

from torch import Tensor

from fastsvs import distributed
from fastsvs.errors import EngineFailure
from fastsvs.rollout import EngineSpec, LocalEngine, Request, Rollout
from fastsvs.rollout.local import engine as local_engine

GROUPS = 3


class MainRankEngine:
    collective = False
    fleet = None

    def __init__(self, spec: EngineSpec) -> None:
        local_engine.distributed = SimpleNamespace(  # the others have no part in it
            rank=lambda: 0, world_size=lambda: 1, gather=lambda value: [value]
        )
        self._engine = LocalEngine.build(spec)
        self._version = -1
        self._groups = 0
        self._asked = 0

    check = LocalEngine.check

    @classmethod
    def build(cls, spec: EngineSpec) -> MainRankEngine:
        return cls(spec)

    def submit(self, requests: Sequence[Request]) -> None:
        self._on_main()
        self._engine.submit(requests)
        self._asked += len(requests)

    def abort(self, keys: Collection[str]) -> None:
        self._on_main()
        self._engine.abort(keys)

    def poll(self, timeout: float) -> list[tuple[str, list[Rollout]]]:
        self._on_main()
        groups = self._engine.poll(timeout)
        self._groups += len(groups)
        if self._groups >= GROUPS:
            if self._is("REMOTE_ENGINE_FAILS_AT"):
                raise EngineFailure("server 0 was restarted 3 times: see its log")
            if self._is("REMOTE_ENGINE_KILLED_AT"):
                os.kill(os.getpid(), signal.SIGKILL)
        return groups

    def pending(self) -> int:
        self._on_main()
        return self._engine.pending()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self._engine.load_weights(weights, version)
        self._version, self._groups = version, 0

    def stale(self) -> bool:
        self._on_main()
        return False

    def sleep(self) -> None: ...

    def metrics(self) -> dict[str, float]:
        self._on_main()
        asked, self._asked = self._asked, 0
        return {"rollout/servers": 1.0, "rollout/asked": float(asked)}

    def close(self) -> None:
        self._engine.close()

    def _is(self, variable: str) -> bool:
        return os.environ.get(variable) == str(self._version)

    def _on_main(self) -> None:
        if not distributed.is_main():
            raise AssertionError("only the main rank drives this engine")
