"""Prompts as text files with places to fill in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from fastsvs.errors import UserError
from fastsvs.shipped import missing


def read_template(path: str | None, builtin: str, places: Sequence[str], key: str) -> str:
    """The template at `path`, or the built-in one of that name. Raises UserError, naming the configuration's `key`, for
    one that cannot be read or lacks a place, `{response}` for `response`."""
    if path is None:
        return files("fastsvs.selfplay").joinpath("prompts", builtin).read_text(encoding="utf-8")
    try:
        template = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{key}: {path} cannot be read: {missing(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}: {path} cannot be read: {error}") from error
    absent = [f"{{{place}}}" for place in places if f"{{{place}}}" not in template]
    if absent:
        raise UserError(f"{key}: {path} must contain {' and '.join(absent)}")
    return template


def fill(template: str, values: Mapping[str, str]) -> str:
    """All places filled in at once: what a value says of places stays as it says it."""
    pattern = "|".join(re.escape(f"{{{place}}}") for place in values)
    return re.sub(pattern, lambda match: values[match[0][1:-1]], template)
