"""Weights from the policy to the rollout engine: once per policy version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from fastsvs.rollout.engine import Engine


class WeightSource(Protocol):
    def hf_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Collective: every full tensor under its Hugging Face name."""


class WeightSync:
    """Keeps `engine` at the version of `source`; several ranks call `publish` together."""

    def __init__(self, source: WeightSource, engine: Engine) -> None:
        self._source = source
        self._engine = engine
        self._published: int | None = None

    def publish(self, version: int) -> None:
        """Send the weights unless the engine already holds this version."""
        if version == self._published:
            return
        self._engine.load_weights(self._source.hf_weights(), version)
        self._published = version
