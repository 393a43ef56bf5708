"""When checkpoints are due, and whether the disk has room for them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

from transformers import PretrainedConfig

from fastsvs import distributed, fingerprints
from fastsvs.architecture import trained_architecture
from fastsvs.config import SelfJob, SftJob, TrainJob
from fastsvs.errors import UserError
from fastsvs.files import free_bytes, in_words
from fastsvs.policy import Degrees, checkpoint
from fastsvs.stored_run import checkpoints_in
from fastsvs.telemetry import RunFolder
from fastsvs.training import checkpoint_hooks


class SaveSchedule:
    """The steps after which a run is saved: every so many, those of a checkpoint hook, the last one, and the first that
    ends when the last save is long enough ago by the main rank's clock."""

    def __init__(self, job: TrainJob | SftJob | SelfJob) -> None:
        """Begin to count the time now."""
        self._job = job
        self._last = monotonic()

    def is_due(self, step: int) -> bool:
        """Return True on every rank if the run is to be saved after `step` steps. Collective."""
        due = self._by_steps(step)
        if minutes := self._job.run.save_minutes:
            due = distributed.broadcast(due or monotonic() - self._last >= 60 * minutes)
        if due:
            self._last = monotonic()
        return due

    def certain(self, start: int) -> list[int]:
        """Return the steps beyond `start` after which the run is saved however long they take, as many as count for the
        room on the disk."""
        run = self._job.run
        due = (step for step in range(start + 1, run.steps + 1) if self._by_steps(step))
        return list(islice(due, run.keep_checkpoints + 1))

    def _by_steps(self, step: int) -> bool:
        run = self._job.run
        hooked = isinstance(self._job, TrainJob) and checkpoint_hooks.is_due(self._job, step)
        return step % run.save_every == 0 or step == run.steps or hooked


def check_room(job: TrainJob | SftJob | SelfJob, checkpoints: Path, hf_config: PretrainedConfig) -> None:
    """Check on the main rank that the file system of the folder `checkpoints` has room for as many as there will be at
    a time. Raises UserError where it has not. A file system that does not tell its size is taken to have.

    A checkpoint is whole before an older one is removed, so that there may be one more than are kept.
    """
    run, there, free = job.run, checkpoints_in(checkpoints), free_bytes(checkpoints)
    to_come = len(SaveSchedule(job).certain(max(there, default=0)))
    if not to_come or free is None or not distributed.is_main():
        return
    count = max(1, min(to_come, run.keep_checkpoints + 1 - len(there)))
    each = checkpoint.state_bytes(trained_architecture(hf_config, job.policy), Degrees.of(job.policy))
    free += checkpoint.abandoned_bytes(checkpoints)
    if count * each > free:
        raise UserError(
            f"run.dir={run.dir}: {in_words(free)} are free there, and {count} more checkpoint(s) of {in_words(each)} "
            f"must fit at a time (run.keep_checkpoints={run.keep_checkpoints}, and one that is written): make room, "
            "choose another run.dir, or lower run.keep_checkpoints"
        )


def frozen_base(job: TrainJob | SftJob, folder: RunFolder) -> dict[str, Any]:
    """Return what a checkpoint says of the frozen weights that its adapters belong to, by path and SHA-256; nothing
    where all weights learn. The run must have begun."""
    if not job.policy.lora.rank:
        return {}
    digests = fingerprints.recorded(folder.layout.inputs).get(fingerprints.MODEL, {})
    return {"base": {"path": job.model.path, **digests}}
