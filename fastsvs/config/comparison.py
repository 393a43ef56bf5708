"""Differences between a configuration and the one that a folder was begun with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fastsvs.config.section import Section
from fastsvs.config.yaml_text import parse
from fastsvs.errors import UserError


def differences(path: Path, job: Section, ignored: Callable[[str], bool]) -> list[str]:
    """Return `key: earlier -> current` for every dotted key whose value in `job` differs from that in the YAML file
    `path`. A key that the earlier configuration lacks counts with its default. Raises UserError for a file without a
    configuration."""
    try:
        tree = parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{path} cannot be read as YAML: {error}; bring it back as it was, or move it away") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no configuration: bring it back as it was, or move it away")
    earlier = flatten(_complete(tree, job))
    current = flatten(job.model_dump(mode="json"))
    return [
        f"{key}: {earlier.get(key)!r} -> {current.get(key)!r}"
        for key in sorted(earlier.keys() | current.keys())
        if earlier.get(key) != current.get(key) and not ignored(key)
    ]


def _complete(tree: dict[str, Any], job: Section) -> dict[str, Any]:
    try:
        return type(job).model_validate(tree).model_dump(mode="json")
    except ValidationError:  # a job of another kind
        return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
