"""Filter of the system calls that a process may still make: for memory, clocks, and files that it has open.

It is a filter in classic BPF, installed with prctl(2). It cannot be taken off again, and needs no privilege. A call
that is neither allowed nor forbidden fails with EPERM. A forbidden call ends the process, so that the attempt is seen
as one.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Iterator

_GET_SECCOMP, _SET_SECCOMP, _SET_NO_NEW_PRIVS, _MODE_FILTER = 21, 22, 38, 2
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _PROTECTION = 0, 4, 32
"""Offsets in struct seccomp_data; the last is the low half of the third argument."""
_EXECUTABLE = 4
_X32 = 0x40000000
"""First number of the system calls of x86-64's other ABI."""

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOWED = {
    # name: (x86_64, aarch64)
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "exit": (60, 93),
    "getrusage": (98, 165),
    "sigaltstack": (131, 132),
    "futex": (202, 98),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}
NEVER_EXECUTABLE = {"mmap": (9, 222), "mprotect": (10, 226)}
"""System calls that are allowed for memory without code."""
FORBIDDEN = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "execve": (59, 221),
    "kill": (62, 129),
    "ptrace": (101, 117),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "mount": (165, 40),
    "umount2": (166, 39),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "unshare": (272, 97),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "memfd_create": (319, 279),
    "bpf": (321, 280),
    "execveat": (322, 281),
    "userfaultfd": (323, 282),
    "pidfd_send_signal": (424, 424),
    "io_uring_setup": (425, 425),
    "pidfd_open": (434, 434),
    "clone3": (435, 435),
    "pidfd_getfd": (438, 438),
}
FORBIDDEN_X86 = {"fork": 57, "vfork": 58}


def supported() -> bool:
    """Check whether this kernel and machine have filters, and whether we know the numbers for them."""
    return sys.platform == "linux" and platform.machine() in ARCHITECTURES and _libc().prctl(_GET_SECCOMP) >= 0


def install() -> None:
    """Install the filter for this process and what it becomes. Raises OSError when the kernel refuses."""
    code = b"".join(_program(platform.machine()))
    buffer = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer)))
    for arguments in ((_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)):
        if _libc().prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _program(machine: str) -> Iterator[bytes]:
    column = list(ARCHITECTURES).index(machine)
    yield _instruction(_LOAD, 0, 0, _ARCHITECTURE)
    yield _instruction(_EQUAL, 1, 0, ARCHITECTURES[machine])
    yield _instruction(_RETURN, 0, 0, _KILL)
    yield _instruction(_LOAD, 0, 0, _NUMBER)
    if machine == "x86_64":
        yield from _when(_AT_LEAST, _X32, _KILL)
        for number in FORBIDDEN_X86.values():
            yield from _when(_EQUAL, number, _KILL)
    for numbers in FORBIDDEN.values():
        yield from _when(_EQUAL, numbers[column], _KILL)
    for numbers in ALLOWED.values():
        yield from _when(_EQUAL, numbers[column], _ALLOW)
    for numbers in NEVER_EXECUTABLE.values():
        yield _instruction(_EQUAL, 0, 4, numbers[column])
        yield _instruction(_LOAD, 0, 0, _PROTECTION)
        yield from _when(_ANY_BIT, _EXECUTABLE, _FAIL)
        yield _instruction(_RETURN, 0, 0, _ALLOW)
    yield _instruction(_RETURN, 0, 0, _FAIL)


def _when(test: int, operand: int, action: int) -> Iterator[bytes]:
    yield _instruction(test, 0, 1, operand)
    yield _instruction(_RETURN, 0, 0, action)


def _instruction(code: int, if_true: int, if_false: int, operand: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, operand)
