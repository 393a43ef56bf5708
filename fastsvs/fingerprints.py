"""Digests of what a run or an evaluation reads: problems, prompts, templates and weights. They lie in its folder as
`inputs.json`, so that a command that goes on notices what has changed since."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download

from fastsvs.config import Section, flatten
from fastsvs.data import Problem
from fastsvs.errors import UserError
from fastsvs.files import write_json

FILES, MODEL = "files", "model"
"""Names among the inputs: of the files that a configuration names, and of the weights that a run begins with or that an
evaluation asks."""
SHARDS, INDEX, SINGLE = "*.safetensors", "model.safetensors.index.json", "model.safetensors"
_READERS = 8
"""Number of weight files that are read at the same time."""
Inputs = Mapping[str, Mapping[str, Any]]
"""Digests by what is read (`data`, `evaluation`, `sets.<name>`, `model`), each as sizes and SHA-256 sums by name."""


def of_problems(problems: Sequence[tuple[Problem, Sequence[int]]], dated: bool = False) -> dict[str, Any]:
    """Return the number of encoded problems, and digests of their parts, in their order. The token ids of prompts that
    are `dated` change from day to day and are no part of it."""
    prompts = {} if dated else {"prompts": _digest([int(token) for token in ids] for _, ids in problems)}
    return {
        "problems": len(problems),
        "questions": _digest((problem.system, problem.question) for problem, _ in problems),
        "answers": _digest(problem.answer for problem, _ in problems),
        "solutions": _digest(problem.solution for problem, _ in problems),
        **prompts,
    }


def of_examples(examples: Sequence[tuple[np.ndarray, np.ndarray]], dated: bool = False) -> dict[str, Any]:
    """Return the number of examples to fine-tune on, and a digest of their token ids and loss masks, or of the learned
    ids alone where the prompts are `dated`."""
    whole = ((ids.tolist(), mask.tolist()) for ids, mask in examples)
    learned = (ids[mask].tolist() for ids, mask in examples)
    return {"examples": len(examples), "tokens": _digest(learned if dated else whole)}


def of_dialogues(dialogues: Sequence[Sequence[Mapping[str, str]]]) -> dict[str, Any]:
    """Return the number of dialogues, and a digest of their turns."""
    return {"dialogues": len(dialogues), "turns": _digest([dict(turn) for turn in turns] for turns in dialogues)}


def of_weights(files: Sequence[Path]) -> dict[str, Any]:
    """Return a digest of weight files, or nothing where there are none. It reads them whole."""
    if not files:
        return {}
    with ThreadPoolExecutor(_READERS) as pool:
        return {"weights": _digest(zip((file.name for file in files), pool.map(_file_digest, files), strict=True))}


def of_files(job: Section) -> dict[str, str]:
    """Return digests of the files that the configuration names, by key: templates and seeds. Data and models have
    digests of their own."""
    named = {key: value for key, value in flatten(job.model_dump(mode="json")).items() if isinstance(value, str)}
    files = {key: Path(value) for key, value in named.items() if not key.endswith((".path", ".tokenizer", ".replay"))}
    return {key: _file_digest(file) for key, file in files.items() if file.is_file()}


def weight_files(model: str) -> list[Path]:
    """Return the safetensors of a folder, or of a hub id that has been downloaded; none where there are none."""
    folder = Path(model)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(model, allow_patterns=[SHARDS, INDEX], local_files_only=True))
        except Exception:  # of names that are no id, and of what is not in the cache: there are no files to read
            return []
    index = folder / INDEX
    names = {SINGLE}
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{index} cannot be read: {type(error).__name__}: {error}") from error
    return [folder / name for name in sorted(names) if (folder / name).is_file()]


def recorded(path: Path) -> dict[str, dict[str, Any]]:
    """Return the digests in a record, or nothing where there is none. Raises UserError for a damaged one."""
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {name: dict(digests) for name, digests in record.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): remove it to go on without a comparison") from error


def check(path: Path, current: Inputs, cure: str) -> None:
    """Raise UserError where `current` differs from the record of what a folder was begun with. What the record does not
    know is not compared."""
    changed = changes(recorded(path), current)
    if changed:
        raise UserError(f"{path.parent} was begun with other inputs ({'; '.join(changed)}): {cure}")


def changes(earlier: Inputs, current: Inputs) -> list[str]:
    """Return a line for everything that differs: sizes as `earlier -> current`, contents by name."""
    lines = []
    for name in sorted(earlier.keys() & current.keys()):
        before, now = earlier[name], current[name]
        differing = [part for part in now if part in before and before[part] != now[part]]
        sizes = [f"{before[part]} {part} -> {now[part]}" for part in differing if isinstance(now[part], int)]
        parts = [part for part in differing if not isinstance(now[part], int)]
        if sizes or parts:
            lines.append(f"{name}: {', '.join(sizes or [f'other {part}' for part in parts])}")
    return lines


def record(path: Path, current: Inputs) -> None:
    """Write the digests of `current` beside those that the record has of other inputs."""
    known = recorded(path)
    if known | dict(current) != known:
        write_json(path, known | dict(current))


def _digest(values: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value).encode() + b"\n")
    return digest.hexdigest()


def _file_digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
