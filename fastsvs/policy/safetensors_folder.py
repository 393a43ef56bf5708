"""Weights in the safetensors files of a Hugging Face folder or hub id, found, checked and read.

Opening reads headers and sizes alone, and names every file and tensor that does not fit; values are checked as they are
read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastsvs import hub
from fastsvs.architecture import Architecture
from fastsvs.errors import UserError
from fastsvs.policy.mapping import EMBEDDING, HEAD, hf_shapes
from fastsvs.shipped import elsewhere

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PATTERNS = ["*.safetensors", "*.safetensors.index.json"]
OTHER_FORMATS = (".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")
STORED_DTYPES = ("BF16", "F16", "F32", "F64")
POINTER = b"version https://git-lfs"
LEFT_OUT = re.compile(r"rotary_emb\.inv_freq$|^mtp\.")
"""Tensors that the policy has no use for: frequencies, which follow from config.json, and the layers that predict
several tokens at once."""
WITHIN_VISION, ALONE = "model.language_model.", "model."
"""Prefixes of a text model's tensors: in a model with vision, which transformers keeps where it saves the text model
alone, and elsewhere."""
SHOWN_FAULTS = 5
COMPARED_ROWS = 8192
"""Number of rows of the embedding and the output weight that are compared at a time."""


class SafetensorsWeights:
    """Weights of a Hugging Face folder or hub id, sharded or not. Only the slices that are asked for are read."""

    def __init__(self, path: str, architecture: Architecture) -> None:
        """Open the files. Raises UserError, with every fault, for weights that cannot be read or that are not those of
        `architecture`."""
        folder = Path(path)
        if not folder.is_dir():
            folder = _download(path)
        self._folder = folder
        self._open: dict[Path, safe_open] = {}
        found = self._find()
        self._stored = {name.replace(WITHIN_VISION, ALONE, 1): name for name in found}
        self._files = {name: found[stored] for name, stored in self._stored.items()}
        self._check(architecture)

    def read(self, name: str, cut: int | None, start: int, end: int) -> Tensor:
        """Read a tensor or a part of it; see `WeightSource`. Raises UserError for values that are not finite."""
        slices = self._slices(name)
        try:
            part: Tensor = slices[:] if cut is None else slices[start:end] if cut == 0 else slices[:, start:end]
        except (OSError, SafetensorError) as error:
            raise _unreadable(self._files[name], error) from error
        if not torch.isfinite(part).all():
            raise UserError(
                f"{name} in {self._files[name]} holds values that are NaN or infinite: the model is damaged or has "
                "diverged; take another copy of it, or an earlier checkpoint"
            )
        return part

    def _find(self) -> dict[str, Path]:
        """Return the file of every tensor by its stored name."""
        index, single = self._folder / INDEX, self._folder / SINGLE
        if not index.is_file():
            if not single.is_file():
                raise UserError(_nothing_to_read(self._folder))
            return dict.fromkeys(self._names(single), single)
        claimed = _read_index(index)
        absent = sorted({file for file in claimed.values() if not (self._folder / file).is_file()})
        if absent:
            raise UserError(f"{index} names files that are not there ({_some(absent)}): download the model again")
        present = {file: self._names(self._folder / file) for file in set(claimed.values())}
        misplaced = [f"{name} in {file}" for name, file in claimed.items() if name not in present[file]]
        if misplaced:
            raise UserError(f"{index} names tensors that are not there ({_some(misplaced)}): download the model again")
        return {name: self._folder / file for name, file in claimed.items()}

    def _names(self, file: Path) -> set[str]:
        """Return the names in a file's header, which is checked against the size of the file."""
        try:
            self._open[file] = safe_open(file, framework="pt")
            return set(self._open[file].keys())
        except (OSError, SafetensorError) as error:
            raise _unreadable(file, error) from error

    def _slices(self, name: str) -> Any:
        return self._open[self._files[name]].get_slice(self._stored[name])

    def _check(self, architecture: Architecture) -> None:
        expected = hf_shapes(architecture)
        present = {name for name in self._files if not LEFT_OUT.search(name)}
        unexpected = present - set(expected) - ({HEAD} if architecture.tied else set())
        faults = [f"{name} is missing" for name in expected if name not in present]
        faults += [f"{name} has no place in this model" for name in sorted(unexpected)]
        for name in sorted(present & set(expected)):
            shape, dtype = tuple(self._slices(name).get_shape()), self._slices(name).get_dtype()
            if shape != expected[name]:
                faults.append(f"{name} has shape {list(shape)}, config.json makes it {list(expected[name])}")
            if dtype not in STORED_DTYPES:
                faults.append(f"{name} is stored as {dtype}, which is not one of {', '.join(STORED_DTYPES)}")
        if faults:
            raise UserError(f"weights in {self._folder} do not fit its config.json: {_some(faults)}")
        if architecture.tied and HEAD in present and not self._same(HEAD, EMBEDDING):
            raise UserError(
                f"{self._folder / 'config.json'} has tie_word_embeddings=true, but {HEAD} in {self._files[HEAD].name} "
                f"is not {EMBEDDING}: set tie_word_embeddings to false there to train both, or remove {HEAD}"
            )

    def _same(self, one: str, other: str) -> bool:
        """Compare two tensors bit for bit, some rows at a time."""
        first, second = self._slices(one), self._slices(other)
        if first.get_shape() != second.get_shape() or first.get_dtype() != second.get_dtype():
            return False
        starts = range(0, first.get_shape()[0], COMPARED_ROWS)
        return all(torch.equal(first[i : i + COMPARED_ROWS], second[i : i + COMPARED_ROWS]) for i in starts)


def check_local_weights(path: str, architecture: Architecture) -> None:
    """Check headers and sizes of a model's weights as far as they lie on this machine. Raises UserError as
    `SafetensorsWeights` does. Weights that are not here are left to the run: a folder may hold config.json alone, and a
    hub's files may not be downloaded yet."""
    folder = Path(path)
    here = folder.is_dir()
    if not here:
        try:
            folder = Path(snapshot_download(path, allow_patterns=PATTERNS, local_files_only=True))
        except (OSError, HFValidationError):
            return
    if _holds_weights(folder) if here else _is_downloaded(folder):
        SafetensorsWeights(str(folder), architecture)


def _download(path: str) -> Path:
    hub.settle(path)
    try:
        return Path(snapshot_download(path, allow_patterns=PATTERNS))
    except Exception as error:  # hub and network raise all sorts
        raise UserError(f"the weights of model.path={path!r} cannot be had: {elsewhere(path, error)}") from error


def _holds_weights(folder: Path) -> bool:
    return any(file.name == INDEX or file.suffix in (".safetensors", *OTHER_FORMATS) for file in folder.iterdir())


def _is_downloaded(folder: Path) -> bool:
    """Check that no download of the weights was cut short."""
    if not (folder / INDEX).is_file():
        return (folder / SINGLE).is_file()
    return all((folder / file).is_file() for file in _read_index(folder / INDEX).values())


def _read_index(path: Path) -> dict[str, str]:
    """Return the file's name of every tensor in the index."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}; download the model again") from error
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise UserError(f"{path} has no weight_map of tensors to files: download the model again")
    outside = sorted({file for file in files.values() if Path(file).name != file})
    if outside:
        raise UserError(f"{path} names files outside its folder ({_some(outside)}): download the model again")
    return files


def _nothing_to_read(folder: Path) -> str:
    others = sorted(file.name for file in folder.iterdir() if file.suffix in OTHER_FORMATS)
    if others:
        return (
            f"{folder} holds weights in other formats only ({_some(others)}), and safetensors are needed: convert them "
            f"with transformers' AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained(...)"
        )
    return f"no {SINGLE} or {INDEX} in {folder}; model.initialize=random draws new weights"


def _unreadable(file: Path, error: Exception) -> UserError:
    if isinstance(error, OSError):
        return UserError(f"{file} cannot be read: {error.strerror or error}")
    with open(file, "rb") as opened:
        pointer = opened.read(len(POINTER)) == POINTER
    if pointer:
        return UserError(f"{file} is a git LFS pointer and not the weights: run `git lfs pull` in {file.parent}")
    return UserError(
        f"{file} ({file.stat().st_size} bytes) is no whole safetensors file: {error}; download the model again"
    )


def _some(faults: list[str]) -> str:
    more = f" and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
    return "; ".join(faults[:SHOWN_FAULTS]) + more
