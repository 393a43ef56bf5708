"""Effective rank of a response's hidden states, its velocity and acceleration (VERL, github.com/hf618/VERL).

H [tokens, hidden] are the last layer's normed hidden states, centred over the tokens; sigma are its singular values and
p = sigma / sum(sigma). The effective rank is exp(-sum p log p) (Roy and Vetterli 2007). Growing prefixes have the ranks
m_1, m_2, ..., and delta_j = m_j - mean(m_1 .. m_{j-1}) for j >= 2. The velocity is the mean of delta_j, the
acceleration the mean of delta_j - delta_{j-1}; each is 0 where there are too few of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

RANK_NAMES = ("effective_rank", "rank_velocity", "rank_acceleration")
EPSILON = 1e-8
BATCH_BYTES = 256 << 20


def rank_dynamics(hidden: Sequence[Tensor], window: int, stride: int) -> Tensor:
    """Return the figures RANK_NAMES of the last `window` tokens of each sample's [tokens, hidden] states, as [samples,
    3] float64. The prefixes have stride + 1, 2 stride + 1, ... tokens."""
    result = torch.zeros(len(hidden), len(RANK_NAMES), dtype=torch.float64)
    for samples in _batches(hidden, window):
        states = [hidden[sample][-window:].double() for sample in samples]
        result[samples] = _rank_dynamics(states, stride).cpu()
    return result


def rank_figures(ranks: Tensor, kinds: Sequence[str]) -> dict[str, float]:
    """Return `<name>/<kind>`, the means of `ranks` [samples, 3] over the samples of each kind."""
    figures: dict[str, float] = {}
    for kind in dict.fromkeys(kinds):
        means = ranks[torch.tensor([own == kind for own in kinds])].mean(dim=0)
        figures |= {f"{name}/{kind}": float(value) for name, value in zip(RANK_NAMES, means, strict=True)}
    return figures


def _rank_dynamics(states: Sequence[Tensor], stride: int) -> Tensor:
    """Return `rank_dynamics` [samples, 3] of all samples, computed in one batch."""
    lengths = torch.tensor([len(state) for state in states])
    padded = pad_sequence(list(states), batch_first=True)
    gram = padded @ padded.mT
    ranks = _effective_rank(gram, lengths.to(gram.device))
    columns = []
    for last in range(stride, int(lengths.max()), stride):
        tokens = last + 1
        reached = lengths > last
        column = torch.full((len(states),), torch.nan, dtype=torch.float64)
        part = gram[reached.to(gram.device)][:, :tokens, :tokens]
        column[reached] = _effective_rank(part, torch.full((len(part),), tokens, device=part.device)).cpu()
        columns.append(column)
    series = torch.stack(columns, dim=1) if columns else torch.zeros(len(states), 0, dtype=torch.float64)
    motion = [_motion(row[~row.isnan()]) for row in series]
    return torch.cat([ranks.cpu()[:, None], torch.tensor(motion, dtype=torch.float64).view(-1, 2)], dim=1)


def _motion(series: Tensor) -> tuple[float, float]:
    """Return velocity and acceleration of a series of ranks."""
    counts = torch.arange(1, len(series) + 1)
    deltas = series[1:] - (series.cumsum(0) / counts)[:-1]
    velocity = float(deltas.mean()) if len(deltas) else 0.0
    acceleration = float(deltas.diff().mean()) if len(deltas) > 1 else 0.0
    return velocity, acceleration


def _effective_rank(gram: Tensor, lengths: Tensor) -> Tensor:
    """Return the effective ranks [samples] of inner products [samples, tokens, tokens], of which the first `lengths`
    are real."""
    inside = (torch.arange(gram.shape[1], device=gram.device) < lengths[:, None]).to(gram.dtype)
    mask = inside[:, :, None] * inside[:, None, :]
    counts = lengths[:, None, None]
    rows = (gram * mask).sum(dim=2, keepdim=True) / counts
    total = rows.sum(dim=1, keepdim=True) / counts
    centred = (gram - rows - rows.mT + total) * mask
    sigma = torch.linalg.eigvalsh(centred).clamp(min=0).sqrt()
    p = sigma / (sigma.sum(dim=1, keepdim=True) + EPSILON)
    return (-(p * (p + EPSILON).log()).sum(dim=1)).exp()


def _batches(hidden: Sequence[Tensor], window: int) -> list[list[int]]:
    """Return batches of samples of similar length, each with as many as fit."""
    order = sorted(range(len(hidden)), key=lambda sample: len(hidden[sample]))
    batches: list[list[int]] = []
    for sample in order:
        tokens = min(window, len(hidden[sample]))
        width = 8 * tokens * (tokens + hidden[sample].shape[1])
        if not batches or (len(batches[-1]) + 1) * width > BATCH_BYTES:
            batches.append([])
        batches[-1].append(sample)
    return batches
