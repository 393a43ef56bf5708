"""State of the sequences in flight, one row per slot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastsvs.rollout.engine import SamplingParams
from fastsvs.rollout.local.sampling import Truncation


class Slots:
    """State of all slots. Every tensor is [slots, ...]; rows of unused slots hold stale values."""

    def __init__(self, slots: int, vocabulary: int, device: torch.device) -> None:
        def integers() -> Tensor:
            return torch.zeros(slots, dtype=torch.int64, device=device)

        self._vocabulary = vocabulary
        self.tokens = integers()
        """Last token of each sequence, which the decoder has not read yet: [slots] int64."""
        self.positions = integers()
        """Position of that token in its sequence: [slots] int64."""
        self.produced = integers()
        """Number of response tokens so far: [slots] int64."""
        self.seeds = integers()
        self.temperatures = torch.ones(slots, dtype=torch.float64, device=device)
        """Temperatures [slots] fp64, as the configuration has them."""
        self._limits = integers()
        self._top_k = integers()
        self._top_p = torch.ones(slots, device=device)
        self._ids = torch.zeros(slots, 0, dtype=torch.int64, device=device)
        self._logprobs = torch.zeros(slots, 0, device=device)
        self._rows = torch.arange(slots, device=device)
        self.truncated = torch.zeros(slots, dtype=torch.bool)
        """True where top-k or top-p limits a slot's support: [slots] bool. It lies on the CPU, as `_lengths` does, so
        that reading it needs no wait for the device."""
        self._lengths = torch.zeros(slots, dtype=torch.int64)

    def reserve(self, response_tokens: int) -> None:
        """Make room for responses of `response_tokens` tokens; what is stored stays."""
        missing = response_tokens - self._ids.shape[1]
        if missing > 0:
            self._ids = torch.nn.functional.pad(self._ids, (0, missing))
            self._logprobs = torch.nn.functional.pad(self._logprobs, (0, missing))

    def open(
        self, first: int, prompt_lengths: Tensor, seeds: Sequence[int], sampling: Sequence[SamplingParams]
    ) -> None:
        """Begin sequences in the slots from `first` on, each after a prompt of `prompt_lengths` [sequences] int64."""
        rows = slice(first, first + len(seeds))
        # Temperature 0 is the limit in which the most likely token has all the mass.
        greedy = [s.temperature == 0 for s in sampling]
        kept = [1 if limit else s.top_k for s, limit in zip(sampling, greedy, strict=True)]
        top_k = [k if 0 < k < self._vocabulary else self._vocabulary for k in kept]
        top_p = [s.top_p for s in sampling]
        temperatures = [1.0 if limit else s.temperature for s, limit in zip(sampling, greedy, strict=True)]
        self.positions[rows] = prompt_lengths - 1
        self.produced[rows] = 0
        self.seeds[rows] = torch.tensor(seeds, device=self.seeds.device)
        self.temperatures[rows] = torch.tensor(temperatures, dtype=torch.float64, device=self.seeds.device)
        self._limits[rows] = torch.tensor([s.max_tokens for s in sampling], device=self.seeds.device)
        self._top_k[rows] = torch.tensor(top_k, device=self.seeds.device)
        self._top_p[rows] = torch.tensor(top_p, device=self.seeds.device)
        self.truncated[rows] = torch.tensor([k < self._vocabulary or p < 1 for k, p in zip(top_k, top_p, strict=True)])
        self._lengths[rows] = prompt_lengths.cpu()

    def append(self, rows: slice, ids: Tensor, logprobs: Tensor) -> None:
        """Add one token to each of `rows`: ids [rows] int64, logprobs [rows] fp32."""
        produced = self.produced[rows]
        self._ids[self._rows[rows], produced] = ids
        self._logprobs[self._rows[rows], produced] = logprobs
        self.tokens[rows] = ids
        produced += 1
        self.positions[rows] += 1
        self._lengths[rows] += 1

    def longest(self, active: int) -> int:
        """Return the number of tokens in the longest of the first `active` sequences."""
        return int(self._lengths[:active].max())

    def truncation(self, rows: slice) -> Truncation | None:
        """Return the limits of these rows, or None where no row limits its support, so that the usual case needs no
        sorting."""
        return Truncation(self._top_k[rows], self._top_p[rows]) if bool(self.truncated[rows].any()) else None

    def done(self, active: int, eos_ids: Tensor) -> list[int]:
        """Return the slots of the first `active` sequences that have ended, in ascending order."""
        stopped = (self.tokens[:active].unsqueeze(1) == eos_ids).any(1)
        full = self.produced[:active] >= self._limits[:active]
        return (stopped | full).nonzero().flatten().tolist()

    def responses(self, rows: Sequence[int]) -> list[tuple[list[int], list[float]]]:
        """Return the ids and log-probs of the sequences in `rows`."""
        index = torch.tensor(rows, device=self.tokens.device)
        lengths = self.produced[index].tolist()
        ids, logprobs = self._ids[index, : max(lengths)].tolist(), self._logprobs[index, : max(lengths)].tolist()
        return [(ids[i][:length], logprobs[i][:length]) for i, length in enumerate(lengths)]

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy rows `sources` to rows `targets`, both [moved] int64."""
        for state in (
            self.tokens, self.positions, self.produced, self.seeds, self.temperatures,
            self._limits, self._top_k, self._top_p, self._ids, self._logprobs,
        ):  # fmt: skip
            state[targets] = state[sources]
        for state in (self.truncated, self._lengths):
            state[targets.cpu()] = state[sources.cpu()]
