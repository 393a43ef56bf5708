"""Disturbances of a job while it runs."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.kills.host import Host

KILL, TERM, INT, STOP = "KILL", "TERM", "INT", "STOP and CONT"
DISK, NETWORK, PORT = "full disk", "network down", "connections cut"
EVENTS = (KILL, KILL, KILL, KILL, TERM, INT, STOP, STOP, DISK, NETWORK, PORT)
"""Events, of which each is equally likely; some stand here more than once."""
LONGEST_SECONDS = 4.0
"""Longest time for which a process is stopped, the disk full or the network down, in seconds."""


@dataclass(frozen=True, slots=True)
class Event:
    what: str
    role: str
    """Role of the process that it happened to, or "host"."""


def disturb(host: Host, moments: random.Random) -> Event | None:
    """Do something to a process of a random role, or to the host. Returns None where there is nothing to do it to."""
    processes = host.processes()
    if not processes:
        return None
    what = moments.choice(EVENTS)
    if what in (DISK, NETWORK):
        with full_disk(host) if what == DISK else no_network(host):
            time.sleep(moments.uniform(0.2, LONGEST_SECONDS))
        return Event(what, "host")
    if what == PORT:
        ports = host.ports()
        if not ports:
            return None
        port = moments.choice(ports)
        host.do("ss", "--kill", "--no-header", f"sport = :{port} or dport = :{port}")
        return Event(what, "host")
    role = moments.choice(sorted(set(processes.values())))
    victim = str(moments.choice(sorted(pid for pid, found in processes.items() if found == role)))
    if what == STOP:
        host.do("kill", "-STOP", victim)
        time.sleep(moments.uniform(0.2, LONGEST_SECONDS))
        host.do("kill", "-CONT", victim)
    else:
        host.do("kill", f"-{what}", victim)
    return Event(what, role)


@contextmanager
def full_disk(host: Host) -> Iterator[None]:
    """Fill the host's disk to the last byte, and make room again."""
    filler = str(host.disk / "filler")
    host.do("dd", "if=/dev/zero", f"of={filler}", "bs=1M")
    try:
        yield
    finally:
        host.do("rm", "-f", filler)


@contextmanager
def no_network(host: Host) -> Iterator[None]:
    """Take the host's network away and bring it back. What is on its way meanwhile is lost."""
    host.do("ip", "link", "set", "lo", "down")
    try:
        yield
    finally:
        host.do("ip", "link", "set", "lo", "up")
