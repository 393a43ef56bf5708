"""Cards with links of a set speed: network namespaces of Linux, each with one interface to a common bridge, shaped on
both ends by `tc`'s token bucket. It takes the right to make namespaces (root), `ip` and `tc`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

INTERFACE = "card"
SWITCH = "fastsvs-switch"
PREFIX = "10.251.0"
BURST = "256kb"
"""Bytes that may pass at once; a bucket that holds fewer than pass in a tick of the kernel is slower than told."""


@dataclass(frozen=True)
class Card:
    """Place of one rank or worker: a network card (processes that `prefix` starts see no other), or a GPU."""

    namespace: str
    """Name of the network namespace; empty for the machine's own network."""
    address: str
    device: str = "cpu"

    @property
    def prefix(self) -> list[str]:
        """Return the beginning of a command line that runs a program with this card."""
        return ["ip", "netns", "exec", self.namespace] if self.namespace else []


@contextmanager
def cards(count: int, megabits: float) -> Iterator[list[Card]]:
    """Open `count` cards that send and receive `megabits` (10^6 bits) per second each, at the same time. Raises OSError
    where the system does not permit it."""
    made = [Card(f"fastsvs-card-{number}", f"{PREFIX}.{number + 1}") for number in range(count)]
    try:
        _ip("netns", "add", SWITCH)
        _in(SWITCH, "ip", "link", "add", "bridge", "type", "bridge")
        _in(SWITCH, "ip", "link", "set", "bridge", "up")
        for number, card in enumerate(made):
            _ip("netns", "add", card.namespace)
            port = f"port{number}"
            _in(SWITCH, "ip", "link", "add", port, "type", "veth", "peer", "name", INTERFACE, "netns", card.namespace)
            _in(SWITCH, "ip", "link", "set", port, "master", "bridge", "up")
            _in(card.namespace, "ip", "address", "add", f"{card.address}/24", "dev", INTERFACE)
            for device in ("lo", INTERFACE):
                _in(card.namespace, "ip", "link", "set", device, "up")
            _shape(card.namespace, INTERFACE, megabits)
            _shape(SWITCH, port, megabits)
        yield made
    finally:
        for name in (SWITCH, *(card.namespace for card in made)):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def environment(card: Card, **settings: str) -> dict[str, str]:
    """Return the environment of a program that talks over its card."""
    own = {"GLOO_SOCKET_IFNAME": INTERFACE} if card.namespace else {}
    return os.environ | own | {"OMP_NUM_THREADS": "1"} | settings


def _shape(namespace: str, device: str, megabits: float) -> None:
    rate = ("rate", f"{megabits:g}mbit", "burst", BURST, "latency", "100ms")
    _in(namespace, "tc", "qdisc", "add", "dev", device, "root", "tbf", *rate)


def _in(namespace: str, *command: str) -> None:
    _ip("netns", "exec", namespace, *command)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
