"""The most probable entries of each row and their log-probs, for distillation, without keeping logits."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .arguments import detached, operands, pick_if
from .head import Head
from .pieces import check_workspace, row_pieces
from .rows_torch import accumulation_dtype
from .vocabulary import Vocabulary, share


@torch.no_grad()
def linear_top_logprobs(
    hidden: Tensor,
    weight: Tensor | Head,
    count: int,
    *,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    vocab_start: int | None = None,
    group: dist.ProcessGroup | None = None,
    workspace_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the `count` largest log-probs of each row of softmax(hidden @ weight.T / temperature), in falling order,
    and their ids int64, [tokens, count] each, equal on all ranks of `group`. Neither has a gradient.

    Arguments are as in `linear_logprob_entropy`. Raises ValueError when they do not fit, or `count` is not in 1 to the
    size of the vocabulary.
    """
    targets = torch.zeros(hidden.shape[:-1], dtype=torch.int64, device=hidden.device)  # any: statistics want one
    of = operands(hidden, weight, targets, temperature, -1, vocab_size, vocab_start, group)
    if not 1 <= count <= of.size:
        raise ValueError(f"count must lie in 1..{of.size}, the size of the vocabulary, got {count}")
    head, part, x = detached(of.head), share(len(of.head.weight), of.size, of.first, of.group), of.hidden
    values = [x.new_empty(0, count, dtype=accumulation_dtype(x))]
    ids = [of.targets.new_empty(0, count)]
    with torch.cuda.device_of(x):  # Triton launches on the current device
        for span in row_pieces(len(x), len(head.weight), x, check_workspace(workspace_bytes)):
            inverse = pick_if(of.inverse, span)
            logits = head.logits(x[span], slice(0, part.owned))
            statistics, _, _ = part.merge(part.statistics(logits, of.targets[span], inverse), of.targets[span])
            top, places = _largest(logits, count, part)
            scaled = top if inverse is None else top * inverse[:, None]
            values.append(scaled - statistics[0][:, None] - statistics[1].log()[:, None])
            ids.append(places)
    return torch.cat(values).view(*of.shape, count), torch.cat(ids).view(*of.shape, count)


def _largest(logits: Tensor, count: int, part: Vocabulary) -> tuple[Tensor, Tensor]:
    """Return the largest logits of each row over all ranks, and their ids, [rows, count] each."""
    here = min(count, part.owned)
    top, places = logits.topk(here) if here else (logits[:, :0], logits[:, :0].to(torch.int64))
    places = places + part.first
    if part.group is None:
        return top, places
    mine = top.new_full((len(top), count), -torch.inf), places.new_zeros(len(top), count)
    mine[0][:, :here], mine[1][:, :here] = top, places
    everyone = []
    for values in mine:
        gathered = values.new_empty(part.group.size(), *values.shape)
        dist.all_gather_into_tensor(gathered.view(-1, count), values, group=part.group)
        everyone.append(gathered.transpose(0, 1).flatten(1))
    top, among = everyone[0].topk(count)
    return top, everyone[1].gather(1, among)
