"""What the command lines of benchmarks have in common: the arguments that all of them take, and how they end."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastsvs.errors import UserError


def parser_of(name: str, description: str | None, suites: Iterable[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of `python -m bench.NAME`. It asks for `--out`, and for one of the `suites`, where there are
    any, as `--suite`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m bench.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    if names := sorted(suites):
        parser.add_argument("--suite", choices=names, required=True)
    return parser


@contextmanager
def exits_on_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Exit with status 2 and a message where the block raises a UserError."""
    try:
        yield
    except UserError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
