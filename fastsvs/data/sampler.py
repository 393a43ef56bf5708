"""Which problems a step trains on, as a pure function of (seed, step): a resumed run needs no sampler state."""

from __future__ import annotations

import numpy as np

from fastsvs.seeding import derive_seed


class EpochSampler:
    """Shuffled epochs laid end to end; a step takes the next `per_step` problems, across an epoch's end if need be.
    Of no problems it takes none."""

    def __init__(self, problems: int, per_step: int, seed: int) -> None:
        self._problems = problems
        self._per_step = per_step
        self._seed = seed

    def select(self, step: int) -> list[int]:
        """Indices of the problems of step 0, 1, 2, ..."""
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
