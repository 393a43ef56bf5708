"""Names of runs and experiments, as short as they can be told apart by."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastsvs.report.folder import RunFiles

MODEL = "model.path"
LONGEST_LABEL = 48
"""Largest number of characters of a label that is made of keys; longer ones give way to the runs' names."""
SHOWN_KEYS = 2
"""Largest number of differing keys that labels are made of."""


def experiment_labels(rivals: Sequence[RunFiles], differing: Sequence[str]) -> list[str]:
    """Return a label for each of one method's experiments, given by a run of each: the method alone for a single one;
    with the model, or the one or two keys, that tell them apart; else the names of the runs.

    `differing` are the keys in which the configurations differ.
    """
    method = rivals[0].method
    if len(rivals) == 1:
        return [method]
    model = [MODEL] if MODEL in differing else []
    for chosen in (model, list(differing) if len(differing) <= SHOWN_KEYS else []):
        labels = [f"{method}, {', '.join(_fact(run.config, key) for key in chosen)}" for run in rivals]
        if chosen and len(set(labels)) == len(labels) and max(map(len, labels)) <= LONGEST_LABEL:
            return labels
    return without_seeds(folder_names([run.path for run in rivals]))


def folder_names(paths: Sequence[Path]) -> list[str]:
    """Return the folders' names, with as many of their parents as tell them apart."""
    parts = [Path(os.path.realpath(path)).parts for path in paths]
    names: list[str] = []
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            break
    return names


def without_seeds(names: Sequence[str]) -> list[str]:
    """Return the names without endings such as `_seed3`, each where it then still differs from all others."""
    bare = [re.sub(r"(?<=.)[-_.]?seed[-_.]?\d+$", "", name) for name in names]
    return [short if bare.count(short) == 1 else name for name, short in zip(names, bare, strict=True)]


def shown(config: Mapping[str, Any], key: str) -> str | None:
    """Return the key's value as YAML would write it on one line, or None when it is absent."""
    if key not in config:
        return None
    value = config[key]
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)


def last_part(path: str) -> str:
    """Return the last part of a path or hub id, and of a checkpoint's the run with its step."""
    parts = [part for part in path.split("/") if part not in ("", ".", "checkpoints")]
    if len(parts) > 1 and (found := re.fullmatch(r"step_0*(\d+)", parts[-1])):
        return f"{parts[-2]} at step {found[1]}"
    return parts[-1] if parts else path


def _fact(config: Mapping[str, Any], key: str) -> str:
    value = shown(config, key)
    if value is not None and isinstance(config[key], str):
        value = last_part(value)
    return str(value) if key == MODEL else f"{key.rpartition('.')[2]} {value}"
