"""A micro-batch as one packed row: whole samples of a batch, one after another, without padding between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastsvs.algorithms import Batch
from fastsvs.policy.modules import PackedSequences


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row. All tensors but `places` are on the policy's device."""

    samples: list[int]
    """Indices of the samples in the batch, in row order."""
    tokens: Tensor
    """Token ids, [tokens] int64: prompt and response of each sample, then padding."""
    sequences: PackedSequences
    predictors: Tensor
    """Place in the row of the token before each response token, [response_tokens] int64."""
    targets: Tensor
    """Ids of the response tokens, [response_tokens] int64."""
    places: Tensor
    """Place of each response token in the batch's flat tensors, [response_tokens] int64, on the CPU."""
    sequence: Tensor
    """Index in `samples` of the sample of each response token, [response_tokens] int64."""


class Packer:
    """Packs samples of a batch into rows. What all rows need of the whole batch is computed once."""

    def __init__(self, batch: Batch, rotary: Tensor, multiple: int, *, keep_attention: bool = False) -> None:
        """Pad rows to a multiple of `multiple` tokens. `rotary` [2, positions, head_dim] lies on the device that the
        rows go to. For `keep_attention` see `policy.recompute`."""
        self._batch, self._rotary, self._multiple, self._keep = batch, rotary, multiple, keep_attention
        self._prompts = np.array([len(ids) for ids in batch.prompt_ids], dtype=np.int64)
        self._responses = np.array([len(ids) for ids in batch.response_ids], dtype=np.int64)
        self._lengths = self._prompts + self._responses
        self._places = np.cumsum(self._responses) - self._responses

    def pack(self, samples: Sequence[int]) -> Row:
        """Return the row of the given samples, in order of length (see `PackedSequences.lengths`)."""
        order = np.array(sorted(samples, key=lambda i: (self._lengths[i], i)), dtype=np.int64)
        prompts, responses, lengths = self._prompts[order], self._responses[order], self._lengths[order]
        padding = -lengths.sum() % self._multiple if len(order) else self._multiple
        if padding:
            lengths = np.append(lengths, padding)
        starts = np.cumsum(lengths) - lengths
        answers = [self._batch.response_ids[i] for i in order]
        ids = [piece for i, answer in zip(order, answers, strict=True) for piece in (self._batch.prompt_ids[i], answer)]
        device = self._rotary.device

        def place(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        positions = place(_ranges(np.zeros_like(lengths), lengths))
        return Row(
            samples=order.tolist(),
            tokens=place(np.concatenate([*ids, np.zeros(padding, dtype=np.int64)])),
            sequences=PackedSequences(
                lengths=lengths.tolist(),
                bounds=place(np.append(starts, lengths.sum()).astype(np.int32)),
                rotary=self._rotary.index_select(1, positions),
                kept={} if self._keep else None,
            ),
            predictors=place(_ranges(starts[: len(order)] + prompts - 1, responses)),
            targets=place(np.concatenate([np.zeros(0, dtype=np.int64), *answers])),
            places=torch.from_numpy(_ranges(self._places[order], responses)),
            sequence=place(np.repeat(np.arange(len(order)), responses)),
        )


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the numbers start, start + 1, ... of each pair of start and length, one pair after another; int64."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
