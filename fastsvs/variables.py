"""Numbers in environment variables: torchrun's, which say the place of a process, and those that a user sets."""

from __future__ import annotations

import os
from collections.abc import Mapping

from fastsvs.errors import UserError


def whole_number(name: str, default: int, *, least: int = 0, environment: Mapping[str, str] = os.environ) -> int:
    """Return the variable `name` as a whole number, or `default` where it is not set. Raises UserError where it is set
    to anything but a whole number of at least `least`."""
    said = environment.get(name)
    if said is None:
        return default
    try:
        number = int(said)
    except ValueError:
        number = least - 1
    if number < least:
        raise UserError(f"{name}={said!r} in the environment must be a whole number of at least {least}: set it so")
    return number
