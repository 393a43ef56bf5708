"""`fastsvs doctor RUN`: whether the checkpoints of a run are as they were written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastsvs.commands.doctor import Finding, report
from fastsvs.errors import UserError
from fastsvs.files import in_words
from fastsvs.policy import checkpoint
from fastsvs.stored_run import open_run


def diagnose_run(run: Path) -> None:
    """Read all checkpoints of a run, and compare every file with the manifest's checksums. Raises UserError for a
    folder that is no run, and where a checkpoint is damaged."""
    report(findings(run), f"{run} lacks")


def findings(run: Path) -> Iterator[Finding]:
    """Judge one checkpoint after another, the oldest first."""
    found = open_run(run).checkpoints()
    if not found:
        yield Finding("checkpoints", "without", f"{run} has none yet")
    for path in found.values():
        try:
            size = checkpoint.verify(path)
        except UserError as error:
            yield Finding(path.name, "lacks", str(error))
        else:
            yield Finding(path.name, "good", f"{in_words(size)}, as they were written")
