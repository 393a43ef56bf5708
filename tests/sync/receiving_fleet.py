"""A fleet of `receiving_server` processes, forked (forking.py), and restarted when they are reported."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Collection
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from urllib.parse import quote

import receiving_server
import torch
from forking import FORKS
from torch import Tensor

KEY = "a key"


@dataclass(frozen=True)
class Endpoint:
    name: str
    url: str
    api_key: str
    incarnation: int


class Fleet:
    def __init__(self, *workers: int, kind: str = "broadcast") -> None:
        """One server for each number, with so many workers."""
        self.kind = kind
        self.workers = {f"server {index}": count for index, count in enumerate(workers)}
        self.processes: dict[str, BaseProcess] = {}
        self.lines: dict[str, Connection] = {}
        """A server ends when its line is closed."""
        self.failures: list[tuple[str, str]] = []
        self.loaded: dict[str, int] = {}
        self.running = {name: self._start(name, 0) for name in self.workers}

    def endpoints(self, timeout: float) -> list[Endpoint]:
        return list(self.running.values())

    def report_failure(self, endpoint: Endpoint, reason: str) -> None:
        self.failures.append((endpoint.name, reason))
        self.stop(endpoint.name)
        self.running[endpoint.name] = self._start(endpoint.name, endpoint.incarnation + 1)

    def weights_loaded(self, endpoint_names: Collection[str], version: int) -> None:
        self.loaded |= dict.fromkeys(endpoint_names, version)

    def stale(self) -> bool:
        return False

    def misbehave(self, name: str, how: str) -> None:
        self._post(name, f"/misbehave?how={quote(how)}")

    def tensors(self, name: str, folder: Path) -> list[dict[str, Tensor]]:
        """What each of the server's workers holds."""
        path = folder / f"{name} tensors.pt"
        self._get(name, f"/tensors{quote(str(path))}".replace("%2F", "/").replace("%20", "_"))
        return torch.load(str(path).replace(" ", "_"))

    def calls(self, name: str) -> list[str]:
        return self._get(name, "/calls")

    def version(self, name: str) -> str:
        return self._get(name, "/weight_info")["weight_version"]

    def stop(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].join()
        self.lines[name].close()

    def close(self) -> None:
        for name in self.processes:
            self.stop(name)

    def restart(self, name: str) -> None:
        """As an operator would: nobody reported it."""
        self.stop(name)
        self.running[name] = replace(self._start(name, self.running[name].incarnation + 1))

    def _start(self, name: str, incarnation: int) -> Endpoint:
        self.lines[name], theirs = FORKS.Pipe()
        with theirs:
            arguments = self.kind, self.workers[name], KEY, theirs
            self.processes[name] = FORKS.Process(target=receiving_server.serve, args=arguments, daemon=True)
            self.processes[name].start()
        return Endpoint(name, f"http://127.0.0.1:{self.lines[name].recv()}", KEY, incarnation)

    def _get(self, name: str, path: str):  # type: ignore[no-untyped-def]
        with self._ask(name, path, "GET") as response:
            return json.load(response)

    def _post(self, name: str, path: str) -> None:
        self._ask(name, path, "POST").close()

    def _ask(self, name: str, path: str, method: str):  # type: ignore[no-untyped-def]
        url, headers = self.running[name].url + path, {"Authorization": f"Bearer {KEY}"}
        return urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers), timeout=30)
