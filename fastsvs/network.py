"""The network interface over which the nodes of a job talk to one another.

Gloo takes the interface that the host's name leads to, NCCL the first one that is up. Both go wrong where /etc/hosts
maps the name to 127.0.1.1, as Debian and Ubuntu do, or where a host has several networks. It needs the standard library
alone.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastsvs.variables import whole_number

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
SIOCGIFCONF = 0x8912
"""Number of the request for the IPv4 addresses of all interfaces (Linux)."""
ENTRY_BYTES = 40
"""Bytes of an entry of the answer on 64-bit machines: 16 of the name; the address begins at byte 20."""
MOST_ENTRIES = 1024


class Store(Protocol):
    """Store of keys and values that all nodes of the job share."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes:
        """Return the value of `key`, for which it waits."""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface with one of its IPv4 addresses."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Place:
    """Place of a process in a job of several nodes, as torchrun tells it."""

    node: int
    nodes: int
    leads: bool
    """True for the first process of its node."""
    main: str
    """Name or address of the main node."""


def read_place(environment: Mapping[str, str]) -> Place | None:
    """Return the place of this process, or None where one node does all or torchrun did not start the job. Raises
    UserError for a variable of torchrun's that is no number."""
    sizes, places = ("WORLD_SIZE", "LOCAL_WORLD_SIZE"), ("GROUP_RANK", "LOCAL_RANK")
    if not environment.keys() >= {*sizes, *places}:
        return None
    world, local = (whole_number(name, 1, least=1, environment=environment) for name in sizes)
    node, rank = (whole_number(name, 0, environment=environment) for name in places)
    return Place(node, world // local, rank == 0, environment["MASTER_ADDR"]) if world > local else None


def announce_address(store: Store, place: Place) -> None:
    """Tell the other nodes this node's address, which its first process does."""
    if place.leads:
        store.set(f"address/{place.node}", _address_towards(place.main))


def choose_interface(store: Store, place: Place) -> Interface:
    """Return the interface that leads to the job's main node; on the main node, whose name may lead to loopback there,
    the one that leads to another node. Waits for that node to announce its address. Raises LookupError where there is
    no such interface, or where all nodes are on this host.
    """
    own = _address_towards(place.main)
    if is_loopback(own):
        own = _address_towards(store.get(f"address/{(place.node + 1) % place.nodes}").decode())
    if is_loopback(own):
        raise LookupError("all nodes of the job are on this host")
    return interface_of(own, interfaces())


def settings(interface: Interface, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that have gloo and NCCL take the interface; those that `environment` sets stay as they
    are."""
    wanted = {GLOO: interface.name, NCCL: f"={interface.name}"}  # NCCL would take every name that begins so
    return {name: value for name, value in wanted.items() if not environment.get(name)}


def local_address(remote: str) -> str:
    """Return this machine's IPv4 address on the way to `remote`. Raises OSError when there is no way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((socket.gethostbyname(remote), 9))  # a datagram socket sends nothing here
        return probe.getsockname()[0]


def is_loopback(address: str) -> bool:
    return address.startswith("127.")


def interface_of(address: str, known: Sequence[Interface]) -> Interface:
    """Return the interface of `known` that has the address. Raises LookupError when none has it."""
    for interface in known:
        if interface.address == address:
            return interface
    raise LookupError(f"no interface of this machine has the address {address}")


def interfaces() -> list[Interface]:
    """Return every IPv4 address of this machine with its interface; none where the system is not Linux."""
    if sys.platform != "linux":
        return []
    room = array.array("B", bytes(MOST_ENTRIES * ENTRY_BYTES))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("iL", len(room), room.buffer_info()[0])
        length, _ = struct.unpack("iL", fcntl.ioctl(probe.fileno(), SIOCGIFCONF, request))
    entries = [room[start : start + ENTRY_BYTES].tobytes() for start in range(0, length, ENTRY_BYTES)]
    return [_read(entry) for entry in entries]


def _address_towards(remote: str) -> str:
    """Return the address as `local_address` does, or an empty one where there is no IPv4 way."""
    try:
        return local_address(remote)
    except OSError:
        return ""


def _read(entry: bytes) -> Interface:
    name = entry[:16].partition(b"\0")[0].decode()
    return Interface(name.partition(":")[0], socket.inet_ntoa(entry[20:24]))  # an alias is no interface of its own
