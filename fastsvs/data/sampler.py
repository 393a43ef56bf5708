"""The problems of a step as a pure function of (seed, step), so that a resumed run needs no sampler state."""

from __future__ import annotations

import numpy as np

from fastsvs.seeding import derive_seed


class EpochSampler:
    """A sampler of shuffled epochs laid end to end. A step takes the next `per_step` problems, across an epoch's end if
    need be, and none where there are no problems."""

    def __init__(self, problems: int, per_step: int, seed: int) -> None:
        self._problems = problems
        self._per_step = per_step
        self._seed = seed

    def select(self, step: int) -> list[int]:
        """Return the indices of the problems of `step`, which counts from 0."""
        positions = range(step * self._per_step, (step + 1) * self._per_step) if self._problems else ()
        orders: dict[int, np.ndarray] = {}
        selected = []
        for position in positions:
            epoch, offset = divmod(position, self._problems)
            if epoch not in orders:
                generator = np.random.default_rng(derive_seed(self._seed, "epoch", epoch))
                orders[epoch] = generator.permutation(self._problems)
            selected.append(int(orders[epoch][offset]))
        return selected
