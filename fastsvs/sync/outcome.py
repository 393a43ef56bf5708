"""Outcome of a step of the main rank in an update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastsvs.sync.shards import Invitation


@dataclass(frozen=True)
class Outcome:
    """Outcome of a step of the main rank, for the ranks that only take part."""

    kind: Literal["current", "ready", "done", "failed", "fatal"]
    reason: str = ""
    shards: bool = False
    """True where all ranks send."""
    invitation: Invitation | None = None
    """Invitation to a new group in which all ranks send."""
    update: int = 0
    """Number of the update that begins."""
