"""`python docs/terminal.py`: record the demo in terminals of 80, 120 and 200 columns, as docs/terminal-COLUMNS.svg.

It needs tmux, in which the demo runs as in anybody's terminal. A picture is taken in the middle of a step. It ends with
the digest of what draws it, so that a test can say when it is stale.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).parent
DRAWN_BY = (DOCS.parent / "fastsvs" / "telemetry" / "progress.py", Path(__file__))
"""Files whose change makes the pictures stale."""
COLUMNS = (80, 120, 200)
LINES = 24
TAKEN = re.compile(r"step 6/\d+ .*\n(?s:.*)update \d")
"""Text that the terminal shows when the picture is taken: six steps are done, and the next one learns."""
PATIENCE = 300.0
"""Longest wait for that, in seconds."""


def main() -> None:
    for columns in COLUMNS:
        with TemporaryDirectory() as folder:
            shown = record(f"{sys.executable} -m fastsvs demo", columns, folder)
        (DOCS / f"terminal-{columns}.svg").write_text(drawn(shown, columns), encoding="utf-8")


def record(command: str, columns: int, folder: str) -> str:
    """Return what a terminal of so many columns shows of `command` in the working folder `folder`, with its colours."""
    session = f"terminal-{columns}"
    size = ["-x", str(columns), "-y", str(LINES)]
    tmux("new-session", "-d", "-s", session, *size, "-c", folder, f"{command}; sleep {PATIENCE}")
    try:
        deadline = monotonic() + PATIENCE
        while monotonic() < deadline:
            if TAKEN.search(tmux("capture-pane", "-p", "-t", session)):
                return tmux("capture-pane", "-p", "-e", "-t", session)
            sleep(0.2)
        raise SystemExit(f"the demo did not come to {TAKEN.pattern!r}:\n{tmux('capture-pane', '-p', '-t', session)}")
    finally:
        tmux("kill-session", "-t", session)


def drawn(shown: str, columns: int) -> str:
    """Return a terminal's contents as an SVG that fetches no font."""
    console = Console(record=True, width=columns, file=StringIO(), legacy_windows=False)
    console.print(Text.from_ansi(shown.rstrip()), soft_wrap=True)
    svg = console.export_svg(title=f"fastsvs demo, {columns} columns", unique_id=f"terminal-{columns}")
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL) + f"<!-- {digest()} -->\n"


def digest() -> str:
    """Return the digest of what draws the pictures."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in DRAWN_BY)).hexdigest()


def tmux(*arguments: str) -> str:
    return subprocess.run(["tmux", *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
