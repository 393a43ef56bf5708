"""`fastsvs doctor RUN`: whether the checkpoints of a run are as they were written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fastsvs.commands.doctor import Finding, show
from fastsvs.errors import UserError
from fastsvs.files import in_words
from fastsvs.policy import checkpoint
from fastsvs.stored_run import open_run


def diagnose_run(path: Path) -> None:
    """Read all checkpoints of a run, those of the rounds of `fastsvs self` included, or the one that is named, and
    compare every file with the manifest's checksums. Raises UserError for a folder that is neither, and where a
    checkpoint is damaged."""
    if damaged := show(findings(path)):
        count = len(damaged)
        raise UserError(f"{path}: {count} checkpoint(s) damaged, each with a way out above: {', '.join(damaged)}")


def findings(path: Path) -> Iterator[Finding]:
    """Judge one checkpoint after another, the oldest first."""
    found = checkpoints_at(path)
    if not found:
        yield Finding("checkpoints", "without", f"{path} has none yet")
    for name, folder in found.items():
        try:
            size = checkpoint.verify(folder)
        except UserError as error:
            yield Finding(name, "lacks", str(error))
        else:
            yield Finding(name, "good", f"{in_words(size)}, as they were written")


def checkpoints_at(path: Path) -> dict[str, Path]:
    """Return the checkpoints of a run by name, or the checkpoint itself. Raises UserError for a folder that is
    neither."""
    if (path / checkpoint.MANIFEST).exists():
        return {path.name: path}
    run = open_run(path)
    found = {folder.name: folder for folder in run.checkpoints().values()}
    for number in range(1, len(list(path.glob("round_*"))) + 1):
        tuning = run.layout.round(number) / "sft"
        if tuning.is_dir():
            found |= {f"round_{number} {folder.name}": folder for folder in open_run(tuning).checkpoints().values()}
    return found
