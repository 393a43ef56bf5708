"""DTensors as arguments: this rank's shard of them, and where in the vocabulary it lies."""

from __future__ import annotations

from dataclasses import replace

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from .head import Head

Local = tuple[Tensor, Tensor, Head, "int | None", "int | None", "dist.ProcessGroup | None"]


def local_shard(
    hidden: Tensor,
    targets: Tensor,
    head: Head,
    vocab_size: int | None,
    vocab_start: int | None,
    group: dist.ProcessGroup | None,
) -> Local:
    """Return the arguments with local tensors in place of DTensors, and the place and the group that these imply.

    A weight [vocabulary, hidden] that is sharded over the vocabulary brings its group and its place. Shards may be
    uneven, as DTensor cuts them. Its gradient is a DTensor of the same placement; that of a replicated `hidden` is a
    DTensor that is reduced where it is used. Arguments without a DTensor come back as they are. Raises ValueError for
    other placements, and for a group beside a DTensor.
    """
    matrix = head.weight
    if not isinstance(matrix, DTensor):
        for name, tokens in (("hidden", hidden), ("targets", targets)):
            if isinstance(tokens, DTensor):
                raise ValueError(f"{name} is a DTensor, so the weight must be one too")
        return hidden, targets, head, vocab_size, vocab_start, group
    if group is not None or vocab_start is not None:
        raise ValueError("a weight that is a DTensor says itself which ranks share it: give no group or vocab_start")
    mesh = matrix.device_mesh
    for name, given in (("weight", matrix), ("bias", head.bias)):
        if given is not None and (not isinstance(given, DTensor) or given.placements != (Shard(0),)):
            where = given.placements if isinstance(given, DTensor) else "a plain tensor"
            raise ValueError(f"{name} must be a DTensor with placements (Shard(0),), over the vocabulary, got {where}")
    for name, tokens in (("hidden", hidden), ("targets", targets)):
        if isinstance(tokens, DTensor) and (tokens.placements != (Replicate(),) or tokens.device_mesh != mesh):
            raise ValueError(f"{name} must be replicated over the weight's mesh, got {tokens.placements}")
    step = -(-matrix.shape[0] // mesh.size())
    start = min(mesh.get_local_rank() * step, matrix.shape[0])
    bias = head.bias.to_local() if isinstance(head.bias, DTensor) else None
    return (
        hidden.to_local(grad_placements=[Partial()]) if isinstance(hidden, DTensor) else hidden,
        targets.to_local() if isinstance(targets, DTensor) else targets,
        replace(head, weight=matrix.to_local(), bias=bias),
        matrix.shape[0] if vocab_size is None else vocab_size,
        start,
        mesh.get_group(),
    )
