"""The manifest of a checkpoint: what the checkpoint holds, with size and SHA-256 of every file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastsvs.errors import UserError
from fastsvs.policy.degrees import Degrees
from fastsvs.stored_run import checkpoint_name

FORMAT = 1
MANIFEST = "manifest.json"
LARGEST = 2**53
"""Bound of the counts, which JSON keeps exactly."""

Count = Annotated[int, Field(ge=0, le=LARGEST)]
FileName = Annotated[str, Field(pattern=r"^rank_\d{5,}\.safetensors$")]


class Strict(BaseModel):
    """Values of exactly their types, with nothing beside them."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class FileFacts(Strict):
    """One file of a checkpoint."""

    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(Strict):
    """The content of manifest.json."""

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)] = FORMAT
    step: Count
    state: dict[str, Any]
    """The trainer's own state."""
    architecture: dict[str, Any]
    """Fields of the model's Architecture."""
    tensor_parallel: Annotated[int, Field(ge=1, le=LARGEST)]
    expert_tensor_parallel: Annotated[int, Field(ge=1, le=LARGEST)] = 1
    updates: Count
    files: Annotated[dict[FileName, FileFacts], Field(min_length=1)]

    @property
    def degrees(self) -> Degrees:
        """Return the degrees of parallelism that the shards in the files depend on: neither stages nor the dealing of
        experts do."""
        return Degrees(self.tensor_parallel, expert_tensor=self.expert_tensor_parallel)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the checkpoint at `path`, whose name says the step. Raises UserError for one that was not
    written by this version's `checkpoint.save`."""
    try:
        tree = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{MANIFEST} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{MANIFEST} is not JSON: {error}") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise UserError(f"{MANIFEST} is not of format {FORMAT}, the one that this version reads")
    try:
        manifest = Manifest.model_validate(tree)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise UserError(f"{MANIFEST} is not as it was written: {'; '.join(faults)}") from error
    if path.name.startswith("step_") and path.name != checkpoint_name(manifest.step):
        raise UserError(f"{MANIFEST} says step {manifest.step}, the name of the folder another one")
    return manifest


def check_sizes(path: Path, manifest: Manifest) -> None:
    """Check that every file is there as a whole, as far as its size tells. Raises UserError for one that is not."""
    for name, facts in manifest.files.items():
        _check_size(path / name, facts)


def _check_size(file: Path, facts: FileFacts) -> None:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise UserError(f"{file.name} cannot be read: {error.strerror or error}") from error
    if size != facts.bytes:
        raise UserError(f"{file.name} has {size} bytes instead of {facts.bytes}")
