"""Checkpoints that survive a kill at any moment: `root/step_00000012/` is whole, or it does not exist.

Each rank writes its part of the training state as safetensors into a hidden folder. The main rank adds manifest.json
(the trainer's own state, size and SHA-256 of every file), flushes the files and renames the folder. `root` is on
storage that all ranks see. A checkpoint loads onto any layout; see `training_state`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist
from megatron.core import parallel_state as mpu
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from fastsvs import distributed
from fastsvs.architecture import Architecture
from fastsvs.errors import UserError
from fastsvs.policy import training_state
from fastsvs.policy.manifest import (
    MANIFEST,
    FileFacts,
    Manifest,
    check_contents,
    check_sizes,
    digest,
    read_manifest,
)
from fastsvs.policy.pieces import MASTER, PieceIndex, SavedTensors
from fastsvs.policy.policy import Policy
from fastsvs.stored_run import checkpoint_name, checkpoints_in

T = TypeVar("T")


def save(policy: Policy, root: Path, step: int, state: Mapping[str, Any], keep: int) -> None:
    """Write `root/step_<step>` and remove all but the newest `keep` checkpoints. Collective.

    `state` is the trainer's own state in JSON values; `load` returns it. Raises UserError on every rank when the disk
    refuses (full, read-only); the earlier checkpoints then stay as they were.
    """
    name = checkpoint_name(step)
    draft = root / f".{name}.draft"
    failure = f"the checkpoint of step {step} cannot be written to {root}, earlier ones are as they were"
    try:
        _on_main(partial(_begin, root, draft), failure)
        parts = _on_all(lambda: _write_part(draft, training_state.pieces(policy)), failure)
        manifest = Manifest(
            step=step,
            state=dict(state),
            architecture=asdict(policy.architecture),
            tensor_parallel=mpu.get_tensor_model_parallel_world_size(),
            updates=policy.updates,
            files={name: facts for part in parts for name, facts in part.items()},
        )
        _on_main(partial(_publish, draft, root / name, manifest), failure)
    except UserError:
        if distributed.is_main():
            shutil.rmtree(draft, ignore_errors=True)
        raise
    _on_main(partial(_prune, root, keep), f"checkpoints beyond the newest {keep} cannot be removed from {root}")


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


def load(policy: Policy, path: Path) -> dict[str, Any]:
    """Restore weights, optimizer and scheduler onto any layout of `policy`, and return the saved `state`. Collective.

    A policy without an optimizer takes the weights alone. Raises UserError on every rank when a file is missing,
    truncated or altered, or when the checkpoint is of another model; `policy` then stays as it was.
    """
    failure = _damage_report(path)
    manifest = _on_all(partial(read_manifest, path), failure)[distributed.rank()]
    _check_architecture(path, manifest, policy.architecture)
    share = sorted(manifest.files.items())[distributed.rank() :: distributed.world_size()]
    _on_all(partial(check_contents, path, share), failure)
    opened: list[PieceIndex] = []
    _on_all(lambda: opened.append(_open(path, manifest, policy.architecture)), failure)
    training_state.restore(policy, opened[0], manifest.tensor_parallel, manifest.updates)
    return manifest.state


def open_masters(path: Path, architecture: Architecture) -> tuple[int, SavedTensors]:
    """Return the step of a checkpoint and its fp32 weights, for a process that needs nothing else of it.

    Raises UserError in the same cases as `load`. Under torchrun every rank may call it; only the main rank reads all
    files to compare their checksums.
    """
    with _damaged(path):
        manifest = read_manifest(path)
        check_contents(path, manifest.files.items() if distributed.is_main() else ())
    _check_architecture(path, manifest, architecture)
    with _damaged(path):
        index = _open(path, manifest, architecture)
    return manifest.step, SavedTensors(index, MASTER, architecture, manifest.tensor_parallel)


def _open(path: Path, manifest: Manifest, architecture: Architecture) -> PieceIndex:
    """Open the files, and check that they hold the whole state."""
    index = PieceIndex([path / name for name in sorted(manifest.files)])
    index.check(architecture, manifest.tensor_parallel, manifest.updates)
    return index


def _begin(root: Path, draft: Path) -> None:
    for leftover in root.glob(".step_*"):
        shutil.rmtree(leftover)
    draft.mkdir(parents=True)


def _write_part(folder: Path, tensors: dict[str, Tensor]) -> dict[str, FileFacts]:
    if not tensors:
        return {}
    file = folder / f"rank_{distributed.rank():05d}.safetensors"
    save_file(tensors, file)
    _flush(file)
    return {file.name: FileFacts(bytes=file.stat().st_size, sha256=digest(file))}


def _publish(draft: Path, target: Path, manifest: Manifest) -> None:
    file = draft / MANIFEST
    file.write_text(json.dumps(manifest.model_dump(), indent=1), encoding="utf-8")
    _flush(file)
    for part in draft.iterdir():
        shutil.copymode(file, part)  # safetensors makes its files readable for their owner alone
    _flush(draft)
    if target.exists():
        _remove(target)
    draft.rename(target)
    _flush(target.parent)


def _prune(root: Path, keep: int) -> None:
    for path in list(checkpoints_in(root).values())[:-keep]:
        _remove(path)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint in one step as readers see it. What a kill leaves behind is removed by the next save."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
    checkpoint.rename(hidden)
    shutil.rmtree(hidden)


def _check_architecture(path: Path, manifest: Manifest, architecture: Architecture) -> None:
    saved, wanted = manifest.architecture, asdict(architecture)
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
    except (OSError, SafetensorError, UserError) as error:
        raise UserError(f"{_damage_report(path)}: {error}") from error


def _damage_report(path: Path) -> str:
    known = list(checkpoints_in(path.parent).values())
    earlier = known[: known.index(path)] if path in known else []
    way_out = f"to go on from {earlier[-1]}" if earlier else "to start anew (there is no earlier one)"
    return f"checkpoint {path} is damaged; move it away {way_out}"


def _on_main(action: Callable[[], object], failure: str) -> None:
    _on_all(lambda: action() if distributed.is_main() else None, failure)


def _on_all(action: Callable[[], T], failure: str) -> list[T]:
    """Run `action` on every rank, and return the results of all ranks. Raises UserError on all of them if it failed on
    one."""
    outcome: tuple[T | None, str | None]
    try:
        outcome = action(), None
    except (OSError, SafetensorError, UserError) as error:
        outcome = None, str(error)
    outcomes = [outcome]
    if distributed.world_size() > 1:
        outcomes *= distributed.world_size()
        dist.all_gather_object(outcomes, outcome)
    faults = [fault for _, fault in outcomes if fault is not None]
    if faults:
        raise UserError(f"{failure}: {faults[0]}")
    return [result for result, _ in outcomes]  # type: ignore[misc]


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
