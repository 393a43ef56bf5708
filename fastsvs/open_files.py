"""The limit on the open files of a process, which sockets count against, and what else it may run short of."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress

from fastsvs.errors import UserError

RESERVED = 256
"""Open files that a process needs besides its connections: libraries, logs, pipes, checkpoints."""
FILES = (errno.EMFILE, errno.ENFILE)
"""Error numbers of a process, and of a machine, that can open no more files."""
EXHAUSTED = {
    **dict.fromkeys(FILES, "open no more files"),
    **dict.fromkeys((errno.ENOMEM, errno.ENOBUFS), "get no more memory"),
    errno.EAGAIN: "start no more processes or threads",
    errno.EADDRNOTAVAIL: "open no more local ports",
}
"""Words for what this process lacks, by the error numbers that say so. It is no fault of the other side."""


def raise_limit() -> None:
    """Raise the soft limit to the hard one, for this process and those that it starts from now on."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # systems that allow less than they say keep what they have
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def shortage(what: str, number: int) -> str:
    """Return the message of a process that cannot do `what`, with an error number of EXHAUSTED."""
    said = f"cannot {what}: this process can {EXHAUSTED[number]}"
    if number in FILES:
        return f"{said}, {limit()} at most; raise the limit before the start (`ulimit -n`)"
    return f"{said} ({os.strerror(number)}): look at the limits of this process and at what else runs here"


def limit() -> int:
    """Return the number of files that this process may open once `raise_limit` was called."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if hard == resource.RLIM_INFINITY else hard


def check() -> None:
    """Raise UserError where a job of any kind would run out of files."""
    if limit() < RESERVED:
        raise UserError(
            f"this process may have {limit()} files open at most, and a job needs {RESERVED}: raise the limit with "
            f"`ulimit -n 4096` before it, or in the settings of the service or container"
        )


def check_connections(connections: int, who: str, cure: str) -> None:
    """Raise UserError when a process here may not open so many connections. `who` names it; `cure` is what to do where
    the limit cannot be raised."""
    need = connections + RESERVED
    if need > limit():
        raise UserError(
            f"{who} needs {need} open files ({connections} connections and {RESERVED} others), and a process may open "
            f"{limit()} here: raise the hard limit before the start (`ulimit -n {need}` as root, LimitNOFILE of "
            f"systemd, --ulimit nofile={need} of a container), or {cure}"
        )
