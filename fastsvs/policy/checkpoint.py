"""Checkpoints that survive a kill at any moment, and load onto any layout; see `checkpoint_folder`, `saver` and
`training_state`.

Nothing of a checkpoint is used before its SHA-256 has been compared. To resume, each file is read whole by the rank
that needs most of it, which hashes it on the way; the others read what they need of it. On the layout that wrote it,
each rank thus reads its own file once. A process that reads weights alone hashes the files in the background.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from fastsvs import distributed
from fastsvs.architecture import Architecture
from fastsvs.errors import UserError
from fastsvs.policy import tensor_file
from fastsvs.policy.agreement import on_all
from fastsvs.policy.checkpoint_folder import abandoned_bytes
from fastsvs.policy.manifest import MANIFEST, FileFacts, Manifest, check_sizes, read_manifest
from fastsvs.policy.pieces import MASTER, PieceIndex, SavedTensors, state_bytes
from fastsvs.policy.policy import Policy
from fastsvs.policy.saver import Saver
from fastsvs.policy.training_state import Restoration
from fastsvs.stored_run import checkpoints_in

__all__ = [
    "MANIFEST",
    "Saver",
    "abandoned_bytes",
    "check",
    "latest",
    "load",
    "open_masters",
    "save",
    "state_bytes",
    "verify",
]

HASHING_THREADS = 8
"""Largest number of files that one process hashes at a time."""


def save(policy: Policy, root: Path, step: int, state: Mapping[str, Any], keep: int) -> None:
    """Write `root/step_<step>`, and return when it is on the disk; see `Saver.begin`. Collective."""
    saver = Saver(root, keep)
    saver.begin(policy, step, state)
    saver.finish()


def latest(root: Path) -> Path | None:
    """Return the newest checkpoint in `root`, or None. `load` finds out whether it is damaged."""
    return next(reversed(checkpoints_in(root).values()), None)


def check(path: Path, architecture: Architecture) -> None:
    """Check a checkpoint by its manifest and the sizes of its files, before anything is built. Raises UserError for one
    that `load` would refuse for them."""
    with _damaged(path):
        manifest = read_manifest(path)
        check_sizes(path, manifest)
    _check_architecture(path, manifest, architecture)


def verify(path: Path) -> int:
    """Read a checkpoint whole, compare every file with the manifest, and return the number of bytes. Raises UserError
    for one that is damaged. Needs no model."""
    with _damaged(path):
        manifest = read_manifest(path)
        try:
            architecture = Architecture.load(manifest.architecture)
        except TypeError as error:
            raise UserError(f"{MANIFEST} describes no model of this version: {error}") from error
        _open(path, manifest, architecture)
    trust = _hash_in_background(path, manifest.files)
    for name in sorted(manifest.files):
        trust(path / name)
    return sum(facts.bytes for facts in manifest.files.values())


def load(policy: Policy, path: Path) -> dict[str, Any]:
    """Restore weights, optimizer and scheduler onto any layout of `policy`, and return the saved `state`. Collective.

    A policy without an optimizer takes the weights alone. What a rank reads waits in host memory until all ranks have
    theirs. Raises UserError on every rank when a file is missing, truncated or altered, or when the checkpoint is of
    another model; `policy` then stays as it was.
    """
    failure = _damage_report(path)
    manifest = on_all(partial(read_manifest, path), failure)[distributed.rank()]
    _check_architecture(path, manifest, policy.architecture)
    files, planned = sorted(manifest.files.items()), []

    def plan() -> list[int]:
        index = _open(path, manifest, policy.architecture)
        planned.append(Restoration(policy, index, manifest.degrees, manifest.updates))
        reads = planned[0].reads
        return [sum(len(read.into) for read in reads.get(number, ())) for number in range(len(files))]

    needs = on_all(plan, failure)
    hashers = _hashers(needs, [facts.bytes for _, facts in files])
    [restoration] = planned

    def read() -> None:
        for number, (name, facts) in enumerate(files):
            own = hashers[number] == distributed.rank()
            tensor_file.read(path / name, restoration.reads.get(number, ()), facts.sha256 if own else None)
        restoration.check()

    on_all(read, failure)
    restoration.apply()
    return manifest.state


def open_masters(path: Path, architecture: Architecture) -> tuple[int, SavedTensors]:
    """Return the step of a checkpoint and its fp32 weights, for a process that needs nothing else of it.

    Raises UserError in the same cases as `load`. Sizes and headers are checked at once. The main rank hashes all files,
    moments included, in the background, and gives out no value of a file before its checksum was compared; under
    torchrun the other ranks may call this, and leave the checksums to it.
    """
    with _damaged(path):
        manifest = read_manifest(path)
    _check_architecture(path, manifest, architecture)
    with _damaged(path):
        index = _open(path, manifest, architecture)
    trust = _hash_in_background(path, manifest.files) if distributed.is_main() else None
    return manifest.step, SavedTensors(index, MASTER, architecture, manifest.degrees, trust)


def _open(path: Path, manifest: Manifest, architecture: Architecture) -> PieceIndex:
    """Read the files' headers, and check that they hold the whole state."""
    check_sizes(path, manifest)
    index = PieceIndex([path / name for name in sorted(manifest.files)])
    index.check(architecture, manifest.degrees, manifest.updates)
    return index


def _hashers(needs: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[int]:
    """Return the rank that is to read each file whole, given the bytes that each rank needs of each file: the one that
    needs most, and among equals the one with the least to read so far."""
    load = [sum(of_rank) for of_rank in needs]
    chosen = []
    for number, size in enumerate(sizes):
        rank = max(range(len(needs)), key=lambda rank: (needs[rank][number], -load[rank], -rank))
        load[rank] += size - needs[rank][number]
        chosen.append(rank)
    return chosen


def _hash_in_background(path: Path, files: Mapping[str, FileFacts]) -> Callable[[Path], None]:
    """Begin to hash all files, and return a function that waits for one and raises UserError when it was altered."""
    outcomes: dict[str, Future[None]] = {name: Future() for name in files}
    queue: SimpleQueue[str] = SimpleQueue()
    for name in sorted(files):
        queue.put(name)

    def work() -> None:
        while True:
            try:
                name = queue.get_nowait()
            except Empty:
                return
            try:
                with _damaged(path):
                    tensor_file.read(path / name, (), files[name].sha256)
                outcomes[name].set_result(None)
            except BaseException as error:  # whoever reads the file must hear of it
                outcomes[name].set_exception(error)

    for _ in range(min(HASHING_THREADS, os.cpu_count() or 1, len(files))):
        Thread(target=work, name="checksums", daemon=True).start()  # a process that ends early does not wait for them
    return lambda file: outcomes[file.name].result()


def _check_architecture(path: Path, manifest: Manifest, architecture: Architecture) -> None:
    saved, wanted = manifest.architecture, json.loads(json.dumps(asdict(architecture)))
    if saved.get("lora") != wanted["lora"]:
        raise UserError(
            f"checkpoint {path} is of other adapters than policy.lora: it has {saved.get('lora')} instead of "
            f"{wanted['lora']}. Set policy.lora to those, or begin another run with the model that `fastsvs export` "
            "makes of it"
        )
    differences = [
        f"{key} {saved.get(key)} instead of {value}" for key, value in wanted.items() if saved.get(key) != value
    ]
    if differences:
        raise UserError(
            f"checkpoint {path} is of another model than model.path: it has {', '.join(differences)}. "
            "Name the model that it was trained from, or another run folder"
        )


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Say of what cannot be read that the checkpoint is damaged."""
    try:
        yield
    except (OSError, UserError) as error:
        raise UserError(f"{_damage_report(path)}: {error}") from error


def _damage_report(path: Path) -> str:
    known = list(checkpoints_in(path.parent).values())
    earlier = known[: known.index(path)] if path in known else []
    way_out = f"to go on from {earlier[-1]}" if earlier else "to start anew (there is no earlier one)"
    return f"checkpoint {path} is damaged; move it away {way_out}"
