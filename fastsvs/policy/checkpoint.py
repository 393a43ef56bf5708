"""Checkpoints that survive a kill at any moment: `root/step_00000012/` is whole, or it does not exist.

Each rank writes its part of the training state as safetensors into a hidden folder. The main rank adds manifest.json
(the trainer's own state, size and SHA-256 of every file), flushes the files and renames the folder. `root` is on
storage that all ranks see. A checkpoint loads onto any layout; see `training_state`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
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
from fastsvs.policy.policy import Policy
from fastsvs.stored_run import checkpoint_name, checkpoints_in

T = TypeVar("T")
Files = dict[str, dict[str, Any]]
"""Facts about the files of a checkpoint: file name -> {"bytes": size, "sha256": hex digest}."""

FORMAT = 1
MANIFEST = "manifest.json"


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
        files: Files = {name: facts for part in parts for name, facts in part.items()}
        manifest = {
            "format": FORMAT,
            "step": step,
            "state": dict(state),
            "architecture": asdict(policy.architecture),
            "tensor_parallel": mpu.get_tensor_model_parallel_world_size(),
            "updates": policy.updates,
            "files": files,
        }
        _on_main(partial(_publish, draft, root / name, manifest), failure)
    except UserError:
        if distributed.is_main():
            shutil.rmtree(draft, ignore_errors=True)
        raise
    _on_main(partial(_prune, root, keep), f"checkpoints beyond the newest {keep} cannot be removed from {root}")


def latest(root: Path) -> Path | None:
    """Return the newest checkpoint in `root`, or None. `load` finds out whether it is damaged."""
    return next(reversed(checkpoints_in(root).values()), None)


def load(policy: Policy, path: Path) -> dict[str, Any]:
    """Restore weights, optimizer and scheduler onto any layout of `policy`, and return the saved `state`. Collective.

    A policy without an optimizer takes the weights alone. Raises UserError on every rank when a file is missing,
    truncated or altered, or when the checkpoint is of another model; `policy` then stays as it was.
    """
    failure = _damage_report(path)
    manifest = _on_all(partial(_read_manifest, path), failure)[distributed.rank()]
    _check_architecture(path, manifest["architecture"], asdict(policy.architecture))
    share = sorted(manifest["files"].items())[distributed.rank() :: distributed.world_size()]
    _on_all(partial(_verify, path, share), failure)
    files = [path / name for name in sorted(manifest["files"])]
    training_state.restore(policy, files, manifest["tensor_parallel"], manifest["updates"])
    return manifest["state"]


def open_masters(path: Path, architecture: Architecture) -> tuple[int, training_state.SavedTensors]:
    """Return the step of a checkpoint and its fp32 weights, for a process that needs nothing else of it.

    Raises UserError in the same cases as `load`. Under torchrun every rank may call it; only the main rank reads all
    files to compare their checksums.
    """
    try:
        manifest = _read_manifest(path)
        _verify(path, manifest["files"].items() if distributed.is_main() else ())
    except (OSError, UserError) as error:
        raise UserError(f"{_damage_report(path)}: {error}") from error
    _check_architecture(path, manifest["architecture"], asdict(architecture))
    files = [path / name for name in sorted(manifest["files"])]
    return manifest["step"], training_state.open_masters(files, manifest["tensor_parallel"], architecture)


def _begin(root: Path, draft: Path) -> None:
    for leftover in root.glob(".step_*"):
        shutil.rmtree(leftover)
    draft.mkdir(parents=True)


def _write_part(folder: Path, tensors: dict[str, Tensor]) -> Files:
    if not tensors:
        return {}
    file = folder / f"rank_{distributed.rank():05d}.safetensors"
    save_file(tensors, file)
    _flush(file)
    return {file.name: {"bytes": file.stat().st_size, "sha256": _digest(file)}}


def _publish(draft: Path, target: Path, manifest: dict[str, Any]) -> None:
    file = draft / MANIFEST
    file.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
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


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{MANIFEST} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{MANIFEST} is not of format {FORMAT}, the one that this version reads")
    return manifest


def _verify(path: Path, files: Iterable[tuple[str, dict[str, Any]]]) -> None:
    for name, facts in files:
        size = (path / name).stat().st_size
        if size != facts["bytes"]:
            raise UserError(f"{name} has {size} bytes instead of {facts['bytes']}")
        if _digest(path / name) != facts["sha256"]:
            raise UserError(f"the contents of {name} do not have the checksum that was recorded")


def _check_architecture(path: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    differences = [
        f"{key} {saved.get(key)} instead of {value}" for key, value in wanted.items() if saved.get(key) != value
    ]
    if differences:
        raise UserError(
            f"checkpoint {path} is of another model than model.path: it has {', '.join(differences)}. "
            "Name the model that it was trained from, or another run folder"
        )


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


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
