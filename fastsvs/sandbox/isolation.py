"""Isolation of a process: builds as many walls around it as the system allows, and reports which of them stand."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from tempfile import gettempdir

from fastsvs.processes import die_with_parent
from fastsvs.sandbox import seccomp

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXECUTION, _REMOUNT, _RECURSIVE, _PRIVATE = 1, 2, 4, 8, 32, 16384, 1 << 18
_NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Walls:
    """The walls around every program that a process runs."""

    filter: bool
    """Filter that lets through only system calls for memory and clocks: no files, network, processes or signals."""
    network: bool
    """Network without interfaces."""
    processes: bool
    """Process space of its own, whose processes all end with the first."""
    files: bool
    """Empty, read-only root directory."""

    @property
    def isolated(self) -> bool:
        """Check whether programs are isolated: the filter of system calls stands."""
        return self.filter

    def describe(self) -> str:
        """Describe the walls in one line for the log of a run."""
        walls = {
            "system calls for memory and clocks only (seccomp)": self.filter,
            "an empty read-only file system": self.files,
            "a network without interfaces": self.network,
            "a process space of their own": self.processes,
            "limits on memory, time and output": True,
        }
        on = ", ".join(name for name, stands in walls.items() if stands)
        off = ", ".join(name for name, stands in walls.items() if not stands)
        return f"programs run behind: {on}" + (f"; this system does not give: {off}" if off else "")


def enclose() -> Walls:
    """Build the walls that the system allows around this process. In a process space of its own it goes on as a child,
    and the original process waits for it."""
    die_with_parent()
    namespaces = _leave_namespaces()
    files = bool(namespaces & _NEWNS) and _succeeds(_enter_empty_root)
    if namespaces & _NEWPID:
        _go_on_as_child()
    return Walls(seccomp.supported(), bool(namespaces & _NEWNET), bool(namespaces & _NEWPID), files)


def confine(memory_bytes: int, cpu_seconds: int) -> None:
    """Take from this process everything that it does not need to compute, and limit its memory and CPU time. This is
    the last thing that trusted code does in it."""
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_STACK, 64 << 20),
        *(((resource.RLIMIT_AS, memory_bytes),) if sys.platform == "linux" else ()),
    ):
        resource.setrlimit(limit, (value, value))
    if os.geteuid() == 0:
        _succeeds(_become_nobody)
    die_with_parent()
    if seccomp.supported():
        seccomp.install()


def _leave_namespaces() -> int:
    """Leave the shared namespaces, and return the flags of those that this process now has for itself (0 for none)."""
    if not hasattr(os, "fork") or sys.platform != "linux":
        return 0
    wanted = _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(wanted) == 0:
        return wanted
    if libc.unshare(wanted | _NEWUSER) != 0:
        return 0
    for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    return wanted


def _enter_empty_root() -> None:
    """Enter an empty root: a file system in memory, mounted where only this process sees it and made read-only while
    empty."""
    place = gettempdir().encode()
    flags = _NO_SUID | _NO_DEVICES | _NO_EXECUTION
    _mount(None, b"/", None, _RECURSIVE | _PRIVATE)
    _mount(b"empty", place, b"tmpfs", flags)
    _mount(None, place, None, flags | _READ_ONLY | _REMOUNT)
    os.chroot(place)
    os.chdir("/")


def _mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int) -> None:
    if ctypes.CDLL(None, use_errno=True).mount(source, target, kind, flags, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def _go_on_as_child() -> None:
    """Continue as the first process of the new process space. The original process waits for its end and takes its exit
    status."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    die_with_parent()


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _succeeds(action: Callable[[], None]) -> bool:
    try:
        action()
    except OSError:
        return False
    return True
