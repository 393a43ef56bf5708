"""Lines on stderr that stay whole where several processes write into one pipe."""

from __future__ import annotations

import sys


def say(line: str) -> None:
    """Print a line on stderr in one write.

    Under PYTHONUNBUFFERED, which containers like to set, `print` writes its arguments and the end of the line one by
    one, and another rank's line can come between them.
    """
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
