"""Sampling of one token per row by inverse transform, from a uniform number that only (sample seed, position)
decides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_ELEMENTS_AT_A_TIME = 1 << 25


@dataclass(frozen=True, slots=True)
class Truncation:
    """Limits on each row's support; top-k comes first, and top-p counts the mass that top-k leaves."""

    top_k: Tensor
    """Number of tokens to keep: [rows] int64; the vocabulary's size keeps all."""
    top_p: Tensor
    """Share of the mass to keep: [rows] fp32; 1 keeps all."""


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """Return uniform numbers [rows] fp64 in [0, 1): output number `positions` of a SplitMix64 generator that starts at
    `seeds`, both [rows] int64."""
    mixed = seeds + (positions + 1) * _GOLDEN
    mixed = (mixed ^ _shift_right(mixed, 30)) * _MIX_1
    mixed = (mixed ^ _shift_right(mixed, 27)) * _MIX_2
    mixed = mixed ^ _shift_right(mixed, 31)
    return _shift_right(mixed, 11).double() * 2.0**-53


def sample(
    logits: Tensor, temperatures: Tensor, uniform: Tensor, truncation: Truncation | None
) -> tuple[Tensor, Tensor]:
    """Sample token ids [rows] int64, and return them with their log-probs [rows] fp32 under the distribution that they
    are drawn from.

    `logits` is [rows, vocabulary] of any float dtype, `temperatures` [rows] fp32, and `uniform` [rows] fp64.
    """
    rows, vocabulary = logits.shape
    size = max(1, _ELEMENTS_AT_A_TIME // vocabulary)
    if rows > size:
        parts = [slice(start, start + size) for start in range(0, rows, size)]
        chosen = [sample(logits[p], temperatures[p], uniform[p], _rows_of(truncation, p)) for p in parts]
        return torch.cat([ids for ids, _ in chosen]), torch.cat([logprobs for _, logprobs in chosen])
    probabilities = torch.softmax(logits.float() / temperatures.unsqueeze(1), dim=-1)
    if truncation is not None:
        probabilities = truncate(probabilities, truncation)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    target = uniform.unsqueeze(1) * cumulative[:, -1:]
    # The first entry above the target: never one of probability 0. The clamp is for rows that are not numbers.
    ids = torch.searchsorted(cumulative, target, right=True).clamp_(max=vocabulary - 1)
    return ids.squeeze(1), probabilities.gather(1, ids).log_().squeeze(1)


def truncate(probabilities: Tensor, truncation: Truncation) -> Tensor:
    """Return [rows, vocabulary] with everything outside top-k, then top-p, at 0 and the rest rescaled to sum to 1.

    Top-p keeps the fewest most probable tokens whose mass reaches it; of equally probable tokens those with smaller
    ids.
    """
    ordered, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(ordered.shape[1], device=ordered.device)
    ordered = ordered.where(ranks < truncation.top_k.unsqueeze(1), 0.0)
    mass_before = ordered.cumsum(-1, dtype=torch.float64) - ordered
    limit = truncation.top_p.double().masked_fill(truncation.top_p >= 1, torch.inf).unsqueeze(1)
    ordered = ordered.where(mass_before < limit * ordered.sum(-1, keepdim=True, dtype=torch.float64), 0.0)
    return torch.zeros_like(probabilities).scatter_(1, ids, ordered / ordered.sum(-1, keepdim=True))


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Shift right logically, because torch's own shift is arithmetic."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _rows_of(truncation: Truncation | None, rows: slice) -> Truncation | None:
    return truncation and Truncation(truncation.top_k[rows], truncation.top_p[rows])
