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


def pack(batch: Batch, samples: Sequence[int], rotary: Tensor, multiple: int, *, keep_attention: bool = False) -> Row:
    """Pack the given samples in order of length (see `PackedSequences.lengths`), padded to a multiple of `multiple`
    tokens.

    `rotary` [2, positions, head_dim] lies on the device that the row goes to. For `keep_attention` see
    `policy.recompute`.
    """
    prompts = np.array([len(ids) for ids in batch.prompt_ids], dtype=np.int64)
    responses = np.array([len(ids) for ids in batch.response_ids], dtype=np.int64)
    order = np.array(sorted(samples, key=lambda i: (prompts[i] + responses[i], i)), dtype=np.int64)
    lengths = (prompts + responses)[order]
    padding = -lengths.sum() % multiple if len(order) else multiple
    if padding:
        lengths = np.append(lengths, padding)
    starts = np.cumsum(lengths) - lengths
    ids = [piece for i in order for piece in (batch.prompt_ids[i], batch.response_ids[i])]
    device = rotary.device

    def place(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    positions = place(_ranges(np.zeros_like(lengths), lengths))
    return Row(
        samples=order.tolist(),
        tokens=place(np.concatenate([*ids, np.zeros(padding, dtype=np.int64)])),
        sequences=PackedSequences(
            lengths=lengths.tolist(),
            bounds=place(np.append(starts, lengths.sum()).astype(np.int32)),
            rotary=rotary.index_select(1, positions),
            kept={} if keep_attention else None,
        ),
        predictors=place(_ranges(starts[: len(order)] + prompts[order] - 1, responses[order])),
        targets=place(np.concatenate([np.zeros(0, dtype=np.int64), *(batch.response_ids[i] for i in order)])),
        places=torch.from_numpy(_ranges((np.cumsum(responses) - responses)[order], responses[order])),
        sequence=place(np.repeat(np.arange(len(order)), responses[order])),
    )


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the numbers start, start + 1, ... of each pair of start and length, one pair after another; int64."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
