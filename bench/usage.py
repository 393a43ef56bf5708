"""The ends of command lines."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from fastsvs.errors import UserError


@contextmanager
def exits_on_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Exit with status 2 and a message where the block raises a UserError."""
    try:
        yield
    except UserError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
