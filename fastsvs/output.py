"""Lines on stderr that stay whole where several processes write into one pipe, and readers of stdout that go away."""

from __future__ import annotations

import os
import select
import sys


def say(line: str) -> None:
    """Print a line on stderr in one write.

    Under PYTHONUNBUFFERED, which containers like to set, `print` writes its arguments and the end of the line one by
    one, and another rank's line can come between them.
    """
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def print_once(text: str) -> None:
    """Print `text` once, however many processes torchrun started."""
    if os.environ.get("RANK", "0") == "0":
        print(text)


def nobody_reads() -> bool:
    """Return whether whoever read this process's stdout has gone, as `head` does when it has seen enough. Nothing is
    said of it then when the process ends."""
    look = select.poll()
    look.register(sys.stdout.fileno(), 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in look.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True
