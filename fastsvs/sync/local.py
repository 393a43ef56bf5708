"""Transfer of weights from the policy to an engine in the same processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from torch import Tensor


class TensorSource(Protocol):
    def hf_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every full tensor under its Hugging Face name. Collective."""


class WeightLoader(Protocol):
    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None: ...


class LocalSync:
    """A sync that keeps `engine` at the version of `source`; all ranks hold all weights."""

    def __init__(self, source: TensorSource, engine: WeightLoader) -> None:
        self._source = source
        self._engine = engine
        self._published: int | None = None

    def publish(self, version: int) -> None:
        """Load the weights into the engine, unless it has this version."""
        if version == self._published:
            return
        self._engine.load_weights(self._source.hf_weights(), version)
        self._published = version

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None: ...
