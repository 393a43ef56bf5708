"""Batch-invariant attention on a CPU, for the trainer and the engine in its processes, and a check of the machine.

Queries stand in blocks of a fixed number of rows, zeros filling the last, and keys are cut into splits of a fixed
number, zeros filling the last: all matrix products have one shape. Splits are added up in their order, and those that a
query does not see add 0. So a query's result depends on its own keys alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastsvs.architecture import Architecture
from fastsvs.errors import UserError
from fastsvs.kernels.invariant import ROWS, batch_invariant, product

QUERIES = 8
"""Number of rows of queries in one product; the queries of a token that share keys are as many rows."""
KEYS = 64
"""Number of keys of a split."""
MOST_COLUMNS = 1 << 15
"""Largest number of columns of a product that is checked, as a whole vocabulary's take gigabytes."""
SCORES = 1 << 23
"""Number of scores that are kept at a time."""


def whole_splits(keys: int) -> int:
    """Round a number of keys up to whole splits."""
    return -(-keys // KEYS) * KEYS


@torch.no_grad()
def attend(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Return the attention of `query` [sequences, tokens, heads, head_dim] fp32, in its shape, with scores scaled by
    head_dim ** -0.5. A token sees the first `seen` [sequences, tokens] int64 keys of its sequence, at least one.

    `keys` are [sequences, groups, head_dim, length] and `values` [sequences, groups, length, head_dim], with a length
    in whole splits. What lies beyond the keys that are seen must be finite.
    """
    sequences, tokens, heads, _ = query.shape
    step = max(1, SCORES // (sequences * heads * keys.shape[-1]))
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)
    parts = []
    for start in range(0, tokens, step):
        visible = seen[:, start : start + step]
        length = whole_splits(int(visible.max()))
        parts.append(_attend(query[:, start : start + step], keys[..., :length], values[:, :length], visible))
    return torch.cat(parts, dim=1)


def check_machine(shape: Architecture) -> None:
    """Check that a row of each of the model's products has the same bits in any place and company on this machine.
    Raises UserError where it has not."""
    width, hidden = shape.head_dim, shape.hidden
    linear = {
        (shape.heads * width + 2 * shape.groups * width, hidden),
        (hidden, shape.heads * width),
        (2 * shape.ffn, hidden),
        (hidden, shape.ffn),
        (min(shape.vocabulary, MOST_COLUMNS), hidden),
    }
    if not all(_same_anywhere(out, size) for out, size in sorted(linear)) or not _attends_alike(shape):
        raise UserError(
            "rollout.deterministic: on this machine torch's matrix products give a row other bits in other company, so "
            "that nothing can be the same there: leave the key out, or use another processor or torch"
        )


def _attend(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    sequences, tokens, heads, width = query.shape
    pairs, _, length = keys.shape
    groups = pairs // sequences
    share = heads // groups
    rows, blocks = tokens * share, -(-tokens * share // QUERIES)
    grouped = query.unflatten(2, (groups, share)).permute(0, 2, 1, 3, 4).reshape(pairs, rows, width)
    scores = _products(_blocked(grouped, blocks), keys, blocks).view(pairs, -1, length)[:, :rows]
    unseen = torch.arange(length) >= seen.unsqueeze(-1)
    masked = scores.view(sequences, groups, tokens, share, length).mul(width**-0.5)
    masked.masked_fill_(unseen[:, None, :, None], -torch.inf)
    weights = _blocked(masked.softmax(-1).view(pairs, rows, length), blocks)
    out = query.new_zeros(pairs * blocks, QUERIES, width)
    for start in range(0, length, KEYS):
        out += torch.bmm(weights[..., start : start + KEYS], _spread(values[:, start : start + KEYS], blocks))
    attended = out.view(pairs, -1, width)[:, :rows].view(sequences, groups, tokens, share, width)
    return attended.permute(0, 2, 1, 3, 4).reshape(query.shape)


def _products(queries: Tensor, keys: Tensor, blocks: int) -> Tensor:
    """Return scores [pairs * blocks, QUERIES, length] of blocked queries and keys [pairs, head_dim, length]."""
    scores = queries.new_empty(len(queries), QUERIES, keys.shape[-1])
    for start in range(0, keys.shape[-1], KEYS):
        split = keys[..., start : start + KEYS]
        scores[..., start : start + KEYS] = torch.bmm(queries, _spread(split, blocks))
    return scores


def _blocked(rows: Tensor, blocks: int) -> Tensor:
    """Return `rows` [pairs, rows, width] as [pairs * blocks, QUERIES, width], with zeros at the end of each pair."""
    return F.pad(rows, (0, 0, 0, blocks * QUERIES - rows.shape[1])).view(-1, QUERIES, rows.shape[-1])


def _spread(x: Tensor, blocks: int) -> Tensor:
    """Return `x` [pairs, ...] once for each of a pair's blocks."""
    return x.unsqueeze(1).expand(-1, blocks, -1, -1).flatten(0, 1)


def _same_anywhere(out: int, size: int) -> bool:
    """Check one matrix product: the first of many rows, the same row alone, and in every place of a block."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, size, generator=generator) for n in (2 * ROWS + 1, out))
    with batch_invariant():
        expected = product(x, weight)[0]
        everywhere = product(x[:1].expand(ROWS, -1), weight)
        alone = product(x[:1], weight)[0]
    return torch.equal(everywhere, expected.expand_as(everywhere)) and torch.equal(alone, expected)


def _attends_alike(shape: Architecture) -> bool:
    """Check attention: the tokens of a sequence at once, and one at a time, beside others and before further keys."""
    tokens = KEYS + QUERIES + 1
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, tokens, shape.heads, shape.head_dim, generator=generator)
    keys = torch.randn(1, shape.groups, shape.head_dim, whole_splits(tokens), generator=generator)
    values = torch.randn(1, shape.groups, whole_splits(tokens), shape.head_dim, generator=generator)
    seen = torch.arange(1, tokens + 1).unsqueeze(0)
    together = attend(query, keys, values, seen)
    more, further = F.pad(keys, (0, KEYS)).expand(3, -1, -1, -1), F.pad(values, (0, 0, 0, KEYS)).expand(3, -1, -1, -1)
    company = torch.tensor([[0], [0], [tokens + KEYS // 2]])
    for place in (0, tokens // 2, KEYS, tokens - 1):
        company[:2] = place + 1
        alone = attend(query[:, place : place + 1].expand(3, -1, -1, -1), more, further, company)
        if not torch.equal(alone[:2, 0], together[:, place].expand(2, -1, -1)):
            return False
    return True
