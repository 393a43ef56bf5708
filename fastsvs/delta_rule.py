"""The gated delta rule (Gated DeltaNet, arXiv 2412.06464) over packed sequences, in plain torch: a linear attention
whose state is one matrix a head.

With a decay a and a step size b for each token and head, the state S [key_dim, value_dim] and the output o are

    S <- a S,  S <- S + k (b (v - k S))^T,  o = q S / sqrt(key_dim)

where q and k have length 1. Sequences are computed in chunks: within a chunk all updates are one triangular system (the
WY form of DeltaNet, arXiv 2406.06484, with decays), and chunks follow one another through the state. All of it is fp32,
or float64 for inputs of float64. Layers with it run a short causal convolution over queries, keys and values before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64
"""Number of tokens of a chunk."""
UNIT_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Chunks:
    """Places of the tokens of a row's sequences in chunks. Chunks stand in the order of computation: the first of each
    sequence, then the second of each that has one, and so on, the sequences in order of their number of chunks."""

    lengths: tuple[int, ...]
    """Length of each sequence in tokens, in row order."""
    size: int
    """Number of tokens of a chunk."""
    steps: tuple[int, ...]
    """Number of sequences that have a first chunk, a second chunk, and so on."""
    order: Tensor
    """Sequences in the order of computation, [sequences] int64."""
    tokens: Tensor
    """Place in the row of the token at each place of the chunks, the number of tokens for padding,
    [chunks, size] int64."""
    places: Tensor
    """Place in the flat chunks of each token of the row, [tokens] int64."""
    members: Tensor
    """Sequence of each token of the row, [tokens] int64."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device, size: int = CHUNK) -> Chunks:
        """Return the chunks of sequences of these lengths, with their tensors on `device`."""
        sizes = np.asarray(lengths, dtype=np.int64)
        counts = -(-sizes // size)
        order = np.argsort(-counts, kind="stable")
        steps = [int((counts > step).sum()) for step in range(counts.max(initial=0))]
        rank = np.argsort(order, kind="stable")
        members = np.repeat(np.arange(len(sizes)), sizes)
        starts = np.cumsum(sizes) - sizes
        positions = np.arange(sizes.sum()) - starts[members]
        first = np.append(0, np.cumsum(steps)).astype(np.int64)
        places = (first[positions // size] + rank[members]) * size + positions % size
        tokens = np.full(first[-1] * size, sizes.sum(), dtype=np.int64)
        tokens[places] = np.arange(sizes.sum())
        placed = (torch.from_numpy(x).to(device) for x in (order, tokens.reshape(-1, size), places, members))
        return cls(tuple(map(int, sizes)), size, tuple(steps), *placed)

    def cut(self, x: Tensor) -> Tensor:
        """Return `x` [tokens, heads, ...] as [chunks, heads, size, ...], with 0 for padding."""
        padded = torch.cat([x, x.new_zeros(1, *x.shape[1:])])
        return padded[self.tokens].transpose(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """Return `x` [chunks, heads, size, dim] as [tokens, heads, dim]."""
        return x.transpose(1, 2).flatten(0, 1)[self.places]


def causal_convolution(
    x: Tensor, weight: Tensor, chunks: Chunks, window: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Convolve each channel of each sequence over its last tokens, and apply SiLU.

    `x` is [tokens, channels], `weight` [channels, kernel], the last column for the token itself. `window`
    [sequences, kernel - 1, channels] holds what came before each sequence; None for zeros. Return the output, as `x`,
    and the window after each sequence."""
    before, sequences = weight.shape[1] - 1, len(chunks.lengths)
    number = torch.arange(sequences, device=x.device)
    lengths = torch.tensor(chunks.lengths, device=x.device)
    ends = lengths.cumsum(0) + (number + 1) * before  # each sequence follows its window
    recent = torch.arange(-before, 0, device=x.device)
    places = torch.arange(len(x), device=x.device) + (chunks.members + 1) * before
    padded = x.new_zeros(len(x) + sequences * before, x.shape[1]).index_copy(0, places, x)
    if window is not None:
        windows = ((ends - lengths)[:, None] + recent).flatten()
        padded = padded.index_copy(0, windows, window.to(x.dtype).flatten(0, 1))
    return _convolve(padded, weight)[places - before], padded[ends[:, None] + recent]


def convolution_step(x: Tensor, weight: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Do what `causal_convolution` does for one more token of each sequence: `x` is [sequences, channels]. Return the
    output, as `x`, and the window after it."""
    recent = torch.cat([window, x[:, None]], dim=1)
    mixed = (recent.to(_wide(x)) * weight.T.to(_wide(x))).sum(1)
    return F.silu(mixed).to(x.dtype), recent[:, 1:]


def gates(step: Tensor, decay: Tensor, log_rate: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithm of each token's decay, and its step size, both as fp32. `step` and `decay` are the
    projections b and a, [tokens, heads]; `log_rate` (A_log) and `bias` (dt_bias) are [heads]."""
    wide = _wide(decay)
    return -log_rate.to(wide).exp() * F.softplus(decay.to(wide) + bias.to(wide)), step.to(wide).sigmoid()


def delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    step: Tensor,
    chunks: Chunks,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the gated delta rule over each of the sequences of `chunks`.

    `query` and `key` are [tokens, key_heads, key_dim], of any length: they are brought to length 1. `value` is
    [tokens, heads, value_dim], where each key head serves `heads // key_heads` neighbouring heads; `log_decay` and
    `step` are [tokens, heads]. `state` [sequences, heads, key_dim, value_dim] is what each sequence begins with; None
    for zeros. Return the output, as `value`, and the state after each sequence."""
    wide = _wide(value)
    times = value.shape[1] // key.shape[1]
    q, k = (chunks.cut(x).repeat_interleave(times, dim=1) for x in (_query(query), _unit(key)))
    v, decay, rate = (chunks.cut(x.to(wide)) for x in (value, log_decay, step))
    decay = decay.cumsum(-1)
    later = torch.ones(chunks.size, chunks.size, dtype=torch.bool, device=value.device).triu(1)
    between = (decay.unsqueeze(-1) - decay.unsqueeze(-2)).masked_fill(later, -torch.inf).exp()
    system = (k @ k.mT) * between * rate.unsqueeze(-1)
    known = torch.cat([v, k * decay.exp().unsqueeze(-1)], dim=-1) * rate.unsqueeze(-1)
    solved = torch.linalg.solve_triangular(system, known, upper=False, unitriangular=True)
    writes, reads = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
    # The whole chunk against the state before it: what is read from it, and what is left of it.
    within, q = (q @ k.mT) * between, q * decay.exp().unsqueeze(-1)
    k, kept = k * (decay[..., -1:] - decay).exp().unsqueeze(-1), decay[..., -1].exp()[..., None, None]

    states = _begin(state, chunks, (v.shape[1], k.shape[-1], v.shape[-1]), v)
    outputs, finished, start = [v.new_zeros(0, *v.shape[1:])], [states[len(states) :]], 0
    for count in chunks.steps:
        here, start = slice(start, start + count), start + count
        finished.append(states[count:])
        states = states[:count]
        new = writes[here] - reads[here] @ states
        outputs.append(q[here] @ states + within[here] @ new)
        states = states * kept[here] + k[here].mT @ new
    finished.append(states)
    after = torch.cat(finished[::-1])[torch.argsort(chunks.order)]
    return chunks.join(torch.cat(outputs)).to(value.dtype), after


def delta_step(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, step: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Do what `delta_rule` does for one more token of each sequence: its tensors have [sequences] in place of
    [tokens]. Return the output, as `value`, and the state after it."""
    wide, times = _wide(value), value.shape[1] // key.shape[1]
    q, k = (x.repeat_interleave(times, dim=1).unsqueeze(-2) for x in (_query(query), _unit(key)))
    state = state * log_decay.to(wide).exp()[..., None, None]
    change = (value.to(wide).unsqueeze(-2) - k @ state) * step.to(wide)[..., None, None]
    state = state + k.mT * change
    return (q @ state).squeeze(-2).to(value.dtype), state


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return the RMS norm of each head's output, times its weight and SiLU of its gate. `x` and `gate` are
    [tokens, heads, value_dim], `weight` is [value_dim]."""
    wide = x.to(_wide(x))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (weight * normed.to(x.dtype) * F.silu(gate.to(wide.dtype))).to(x.dtype)


def _convolve(padded: Tensor, weight: Tensor) -> Tensor:
    """Return the convolution, [rows - kernel + 1, channels], of `padded` [rows, channels]."""
    rows, wide = len(padded) - weight.shape[1] + 1, padded.to(_wide(padded))
    mixed = wide[:rows] * weight[:, 0].to(wide.dtype)
    for column in range(1, weight.shape[1]):
        mixed = torch.addcmul(mixed, wide[column : column + rows], weight[:, column].to(wide.dtype))
    return F.silu(mixed).to(padded.dtype)


def _begin(state: Tensor | None, chunks: Chunks, shape: tuple[int, int, int], like: Tensor) -> Tensor:
    """Return the state that each sequence begins with, in the order of computation."""
    if state is None:
        return like.new_zeros(len(chunks.lengths), *shape)
    return state.to(like.dtype)[chunks.order]


def _query(x: Tensor) -> Tensor:
    return _unit(x) * x.shape[-1] ** -0.5


def _unit(x: Tensor) -> Tensor:
    wide = x.to(_wide(x))
    return wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + UNIT_EPSILON)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
