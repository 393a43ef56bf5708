"""The folder of a run's checkpoints: `root/step_00000012/` is whole, or it does not exist.

A checkpoint is made in a hidden folder, which is renamed when all its files are on the disk, and hidden again before it
is removed. What a kill leaves behind is hidden, and removed by the next save.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from fastsvs.errors import UserError
from fastsvs.files import free_bytes, in_words
from fastsvs.policy.manifest import MANIFEST, Manifest
from fastsvs.stored_run import checkpoint_name, checkpoints_in


def begin(root: Path, step: int, size: int) -> None:
    """Make the hidden folder of a checkpoint of `size` bytes, and remove what earlier ones left behind. Raises
    UserError where the disk has no room for it."""
    for leftover in _abandoned(root):
        shutil.rmtree(leftover)
    free = free_bytes(root)
    if free is not None and free < size:
        raise UserError(f"{os.strerror(errno.ENOSPC)}: it takes {in_words(size)}, and {in_words(free)} are free")
    draft_of(root, step).mkdir(parents=True)


def abandoned_bytes(root: Path) -> int:
    """Return the bytes on the disk that the next save frees before it writes."""
    size = 0
    for file in (file for folder in _abandoned(root) for file in folder.rglob("*")):
        with suppress(OSError):  # gone by now
            size += file.lstat().st_blocks * 512
    return size


def draft_of(root: Path, step: int) -> Path:
    """Return the hidden folder in which the checkpoint of a step is made."""
    return root / f".{checkpoint_name(step)}.draft"


def publish(root: Path, manifest: Manifest) -> None:
    """Make a checkpoint of the hidden folder, whose files are on the disk, in place of an earlier one of that step."""
    draft, target = draft_of(root, manifest.step), root / checkpoint_name(manifest.step)
    file = draft / MANIFEST
    file.write_text(json.dumps(manifest.model_dump(), indent=1), encoding="utf-8")
    _flush(file)
    _flush(draft)
    if target.exists():
        _remove(target)
    draft.rename(target)
    _flush(root)


def prune(root: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for path in list(checkpoints_in(root).values())[:-keep]:
        _remove(path)


def _abandoned(root: Path) -> list[Path]:
    """Return the hidden folders of checkpoints that are not under way."""
    return list(root.glob(".step_*"))


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint in one step as readers see it."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
    checkpoint.rename(hidden)
    shutil.rmtree(hidden)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
