"""Prompts as text files with places to fill in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from fastsvs.config import SelfPlayConfig
from fastsvs.errors import UserError
from fastsvs.shipped import missing


def read_template(path: str | None, builtin: str, places: Sequence[str], key: str) -> str:
    """Return the template at `path`, or the built-in one of that name.

    `places` are the names that it must have a place for, `{response}` for `response`. Raises UserError, naming the
    configuration's `key`, for a template that cannot be read or lacks a place.
    """
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


def shown(response: str, config: SelfPlayConfig) -> str:
    """Return the part of a response that a prompt about it shows."""
    return response if config.context == "whole" else response.rpartition(config.thoughts_end)[2].lstrip()


def fill(template: str, values: Mapping[str, str]) -> str:
    """Fill in all places at once, so that text like a place in a value stays as it is."""
    pattern = "|".join(re.escape(f"{{{place}}}") for place in values)
    return re.sub(pattern, lambda match: values[match[0][1:-1]], template)
