"""Checkpoints that are written while training goes on: the step waits for a copy into host memory alone.

Each rank copies its part of the training state into host memory, and a thread writes and hashes it from there into the
hidden folder. A thread of the main rank hears from all ranks by way of the job's store (threads take part in no
collectives), adds manifest.json (the trainer's own state, size and SHA-256 of every file), publishes the folder and
removes older checkpoints. At most one save is under way. `root` is on storage that all ranks see.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, TimeoutError
from dataclasses import asdict, dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from threading import Thread
from time import monotonic, perf_counter, sleep
from typing import Any

from fastsvs import distributed
from fastsvs.errors import UserError
from fastsvs.files import free_bytes, in_words
from fastsvs.policy import checkpoint_folder, tensor_file, training_state
from fastsvs.policy.agreement import on_all, on_main
from fastsvs.policy.degrees import here
from fastsvs.policy.host_memory import HostMemory
from fastsvs.policy.manifest import FileFacts, Manifest
from fastsvs.policy.policy import Policy

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.1
"""Time between two looks of the main rank for the others' parts, in seconds."""
GRACE_SECONDS = 10.0
"""Time that other ranks get for their parts beyond the main rank's own when the job ends, in seconds."""
FACTS_BYTES = 200
"""Room for the facts about one file in the manifest, in bytes."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a rank's part, or the whole save, came out."""

    error: str | None = None
    """Fault of the save; None where all is on the disk."""
    files: dict[str, FileFacts] = field(default_factory=dict)
    """Facts about the files of a rank's part."""
    seconds: float = 0.0
    """Duration of the whole save on the main rank, from the copy to the end."""

    def dump(self) -> str:
        """Return the outcome of a part for the store."""
        return json.dumps([self.error, {name: facts.model_dump() for name, facts in self.files.items()}])

    @classmethod
    def load(cls, text: bytes) -> Outcome:
        error, files = json.loads(text)
        return cls(error, {name: FileFacts(**facts) for name, facts in files.items()})


class Saver:
    """Saver of a run's checkpoints. Every method but `close` is collective."""

    def __init__(self, root: Path, keep: int, timeout_seconds: float = 1800.0) -> None:
        """Save into `root`, where the newest `keep` checkpoints stay. The main rank waits at most `timeout_seconds` for
        another rank's part once its own is written."""
        self._root = root
        self._keep = keep
        self._timeout = timeout_seconds
        self._memory = HostMemory()
        self._under_way: tuple[int, Future[Outcome]] | None = None
        self._times: dict[str, float] = {}
        self._closed_at = inf
        """Time at which the job ended without having finished the save, in seconds."""
        self._size = 0
        """Size of the newest checkpoint in bytes."""

    @property
    def step(self) -> int | None:
        """Return the step whose checkpoint is under way."""
        return self._under_way and self._under_way[0]

    def begin(self, policy: Policy, step: int, state: Mapping[str, Any]) -> None:
        """Copy the training state into host memory, and begin to write the checkpoint of `step`. A save that is under
        way is finished first.

        `state` is the trainer's own state in JSON values; `checkpoint.load` returns it. What `begin`, `check` and
        `finish` raise when the storage refuses (full, read-only) is UserError on every rank; the earlier checkpoints
        then stay as they were.
        """
        began = perf_counter()
        self.finish()
        pieces = dict(sorted(training_state.pieces(policy).items()))
        sizes = {name: piece.numel() for name, piece in pieces.items()}
        facts = {
            "step": step,
            "state": json.loads(json.dumps(dict(state))),  # as it is now
            "architecture": asdict(policy.architecture),
            "tensor_parallel": here().tensor,
            "expert_tensor_parallel": here().expert_tensor,
            "updates": policy.updates,
        }
        files = on_all(lambda: tensor_file.size_of(sizes), self._failure(step))
        self._size = sum(files) + len(files) * FACTS_BYTES + len(json.dumps(facts, indent=1))
        on_main(partial(checkpoint_folder.begin, self._root, step, self._size), self._failure(step))
        self._memory.store([part for piece in pieces.values() for part in policy.away.parts(piece)])
        self._under_way = step, _in_background(partial(self._save, sizes, facts))
        self._times["time/save"] = perf_counter() - began

    def check(self) -> None:
        """Raise on every rank what went wrong with the save, if it is over. Where it went well, but another one would
        find no room, say so while there is time."""
        if self._look(0.0) and distributed.is_main():
            free = free_bytes(self._root)
            if free is not None and free < self._size:
                log.warning(
                    "%s has %s free, and the next checkpoint takes %s: make room, or the run ends there",
                    *(self._root, in_words(free), in_words(self._size)),
                )

    def finish(self) -> None:
        """Wait until the save that is under way is on the disk."""
        while self._under_way:
            self._look(self._timeout / 4)  # often enough that no collective times out

    def close(self) -> None:
        """Wait for this rank's part of a save that is under way, and on the main rank for the whole of it. Not
        collective: what fails here has no checkpoint. The other ranks, of which some may be gone, get as long again as
        the main rank took for its own part, and `GRACE_SECONDS`."""
        self._closed_at = monotonic()
        if self._under_way:
            self._under_way[1].exception()
            self._under_way = None

    def take_times(self) -> dict[str, float]:
        """Return the times in seconds that were not returned before, under their names in the metrics file: `time/save`
        of the last `begin`, and on the main rank `time/checkpoint_write` of a save that came to its end."""
        times, self._times = self._times, {}
        return times

    def _look(self, seconds: float) -> bool:
        """Ask the main rank, for up to `seconds`, whether the save is over, and return True where it is now."""
        if not self._under_way:
            return False
        _step, future = self._under_way
        outcome = distributed.broadcast(_result(future, seconds) if distributed.is_main() else None)
        if outcome is not None:
            future.exception()  # the part of this rank is over, too
            self._under_way = None
            if outcome.error:
                raise UserError(outcome.error)
            self._times["time/checkpoint_write"] = outcome.seconds
        return outcome is not None

    def _save(self, sizes: Mapping[str, int], facts: Mapping[str, Any]) -> Outcome:
        """Write this rank's part and, on the main rank, wait for the others' and publish. Runs in a thread."""
        began, step, rank = perf_counter(), facts["step"], distributed.rank()
        draft = checkpoint_folder.draft_of(self._root, step)
        own = _write_part(draft, rank, sizes, self._memory)
        patience = perf_counter() - began + GRACE_SECONDS
        if not distributed.is_main():
            distributed.board().set(_key(draft, rank), own.dump())
            return own
        parts = [own, *self._others(draft, patience)]
        files = {name: of_file for part in parts for name, of_file in part.files.items()}
        error = next((part.error for part in parts if part.error), None)
        error = error or _fault(lambda: checkpoint_folder.publish(self._root, Manifest(**facts, files=files)))
        if error:
            shutil.rmtree(draft, ignore_errors=True)
            return Outcome(error=f"{self._failure(step)}: {error}")
        error = _fault(partial(checkpoint_folder.prune, self._root, self._keep))
        if error:
            error = f"checkpoints beyond the newest {self._keep} cannot be removed from {self._root}: {error}"
        return Outcome(error=error, seconds=perf_counter() - began)

    def _others(self, draft: Path, patience: float) -> Iterator[Outcome]:
        """Yield the outcome of every other rank's part, up to the first that does not come. When the job ends without
        it, all are waited for `patience` seconds longer."""
        store, end = distributed.board(), monotonic() + self._timeout
        for rank in range(1, distributed.world_size()):
            key = _key(draft, rank)
            while not store.check([key]):
                if monotonic() > min(end, self._closed_at + patience):
                    yield Outcome(error=f"rank {rank} did not write its part in the time that it was given")
                    return
                sleep(LOOK_SECONDS)
            yield Outcome.load(store.get(key))
            store.delete_key(key)

    def _failure(self, step: int) -> str:
        return f"the checkpoint of step {step} cannot be written to {self._root}, earlier ones are as they were"


def _write_part(draft: Path, rank: int, sizes: Mapping[str, int], memory: HostMemory) -> Outcome:
    files: dict[str, FileFacts] = {}
    file = draft / f"rank_{rank:05d}.safetensors"

    def write() -> None:
        if sizes:
            files[file.name] = tensor_file.write(file, sizes, memory.bytes())

    return Outcome(error=_fault(write), files=files)


def _fault(action: Callable[[], object]) -> str | None:
    """Run `action`, and return what went wrong, for ranks and threads that cannot see the exception."""
    try:
        action()
    except OSError as error:
        return str(error)
    except Exception as error:
        log.exception("a thread that writes checkpoints failed")
        return f"{type(error).__name__}: {error}"
    return None


def _in_background(work: Callable[[], Outcome]) -> Future[Outcome]:
    future: Future[Outcome] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # the store is gone, and with it the job
            future.set_exception(error)

    Thread(target=run, name="checkpoint", daemon=True).start()
    return future


def _result(future: Future[Outcome], seconds: float) -> Outcome | None:
    try:
        return future.result(seconds)
    except TimeoutError:
        return None


def _key(draft: Path, rank: int) -> str:
    return f"{draft}/{rank}"
