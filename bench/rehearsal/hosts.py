"""The hosts of a rehearsal: a network namespace for each node, joined by a switch, where the system permits it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
NAMESPACES = Path("/var/run/netns")


@dataclass(frozen=True, slots=True)
class Hosts:
    """The nodes' places on the network."""

    names: tuple[str, ...]
    """Namespace of each node; none where all nodes are in this process's own."""

    @property
    def main_address(self) -> str:
        """Return the address of node 0."""
        return _address(0) if self.names else "127.0.0.1"

    def enter(self, node: int) -> None:
        """Move the calling thread, and what it starts from now on, to a node."""
        if not self.names:
            return
        with (NAMESPACES / self.names[node]).open() as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"cannot enter network namespace {namespace.name}")

    def processes(self, node: int) -> list[int]:
        """Return the ids of all processes on a node, which only namespaces tell; none without them."""
        if not self.names:
            return []
        own = (NAMESPACES / self.names[node]).stat().st_ino
        found = []
        for place in Path("/proc").glob("[0-9]*/ns/net"):
            try:
                if place.stat().st_ino == own:
                    found.append(int(place.parts[2]))
            except OSError:  # gone by now
                continue
        return found


@contextmanager
def open_hosts(nodes: int) -> Iterator[Hosts]:
    """Make the nodes' namespaces, and remove them in the end. Where they are not permitted, all nodes share this
    one."""
    mark = uuid.uuid4().hex[:6]
    switch = f"fsvs-{mark}-switch"
    names = tuple(f"fsvs-{mark}-{node}" for node in range(nodes))
    setup = [
        *(["netns", "add", name] for name in (switch, *names)),
        ["-n", switch, "link", "add", "bridge", "type", "bridge"],
        ["-n", switch, "link", "set", "bridge", "up"],
    ]
    for node, name in enumerate(names):
        port = f"port{node}"
        setup += [
            ["link", "add", port, "netns", switch, "type", "veth", "peer", "data", "netns", name],
            ["-n", switch, "link", "set", port, "master", "bridge", "up"],
            ["-n", name, "addr", "add", f"{_address(node)}/24", "dev", "data"],
            *(["-n", name, "link", "set", link, "up"] for link in ("lo", "data")),
        ]
    try:
        permitted = shutil.which("ip") and all(_ip(words) for words in setup)
        yield Hosts(names if permitted else ())
    finally:
        for name in (switch, *names) if shutil.which("ip") and os.geteuid() == 0 else ():
            _ip(["netns", "del", name])


def _address(node: int) -> str:
    return f"10.79.0.{node + 1}"


def _ip(words: list[str]) -> bool:
    return subprocess.run(["ip", *words], capture_output=True).returncode == 0
