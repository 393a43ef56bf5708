"""The policy's weights as flat buckets of whole Hugging Face tensors on the main rank, in the memory of two buckets.

Within the stage that owns a tensor, the ranks that hold its shards send them to the first rank of the stage, which lays
the tensor out in the bucket's buffer: tensor-parallel ranks do, and for an expert those that it is cut over. Stages
behind the first send their part of the buffer to the main rank. What the caller does with one bucket (broadcast it)
overlaps the gathering of the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state as mpu
from torch import Tensor

from fastsvs.architecture import Architecture
from fastsvs.buckets import Bucket, TensorSpec
from fastsvs.policy.degrees import here, replicas
from fastsvs.policy.mapping import Entry, Parts, entries, hf_parts, hf_shapes


def weight_specs(architecture: Architecture, dtype: torch.dtype) -> list[TensorSpec]:
    """Return the specs of all tensors that are sent, in order. They depend on the model alone, and are the same for all
    layouts."""
    return [TensorSpec(name, shape, dtype) for name, shape in hf_shapes(architecture).items()]


def stream_buckets(
    tensors: Mapping[str, Tensor],
    architecture: Architecture,
    buckets: Sequence[Bucket],
    slots: Sequence[Tensor] = (),
) -> Iterator[list[Tensor] | None]:
    """Yield one item for each bucket: on the main rank its pieces, each [bytes] uint8, elsewhere None.

    `tensors` is what this rank holds under its parameter names. Collective: every rank takes every item. A
    piece that is one tensor of the first stage, and whole on the main rank, is that tensor itself. The others lie at
    their place in the bucket, in one of the two `slots` [largest bucket] uint8 that the main rank passes; the slots are
    used in turn. Pieces keep their content until the item after next is asked for. Raises ValueError for a tensor that
    does not match its spec.
    """
    stage = mpu.get_pipeline_model_parallel_rank()
    stages = {name: e.stage for e in entries(architecture, here()) if not e.copy for name in e.sources}
    own = _stage_tensors(tensors, architecture)
    if not _is_first():
        for bucket in buckets:
            for _ in _of_stage(bucket, stages, stage):
                next(own)
            yield None
    elif stage:
        yield from _send_to_main(buckets, stages, stage, own, next(iter(tensors.values())).device)
    else:
        for index, bucket in enumerate(buckets):
            buffer = slots[index % 2][: bucket.nbytes]
            arriving = _receive(bucket, stages, buffer)
            pieces = bucket.pieces()
            places = buffer.split([piece.nbytes for piece in pieces])
            filled = [_fill(_of_stage(p, stages, 0), own, place) for p, place in zip(pieces, places, strict=True)]
            for work in arriving:
                work.wait()
            yield filled


def _stage_tensors(tensors: Mapping[str, Tensor], architecture: Architecture) -> Iterator[Parts | None]:
    """Yield the stage's whole tensors in order on the stage's first rank, and None on the others. An entry is gathered
    when its first tensor is asked for."""
    for entry in entries(architecture, here()):
        if entry.stage == mpu.get_pipeline_model_parallel_rank() and not entry.copy:
            gather = _gather_to_first if entry.expert_rank is None else _gather_expert_to_first
            shards = gather(entry, tensors)
            yield from hf_parts(entry, shards, architecture) if shards else [None] * len(entry.sources)


def _is_first() -> bool:
    """Check whether this is the first rank of its stage."""
    return replicas()[1] == 0 and mpu.get_tensor_model_parallel_rank() == 0


def _gather_to_first(entry: Entry, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the shards of all tensor-parallel ranks (one shard of a replicated entry), or [] on the ranks that only
    send, and on those that have the same as others."""
    shard = tensors[entry.name].detach()
    ranks, first = mpu.get_tensor_model_parallel_world_size(), _is_first()
    if replicas()[1] or entry.cut is None or ranks == 1:
        return [shard] if first else []
    shards = [torch.empty_like(shard) for _ in range(ranks)] if first else []
    group = mpu.get_tensor_model_parallel_group()
    dist.gather(shard.contiguous(), shards or None, dst=dist.get_global_rank(group, 0), group=group)
    return shards


def _gather_expert_to_first(entry: Entry, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the shards of an expert's parameter on the stage's first rank, and [] elsewhere. The ranks that hold them
    send them; ranks with the same shards as others take no part."""
    if mpu.get_expert_data_parallel_rank():
        return []
    assert entry.expert_rank is not None
    own, group = tensors[entry.name].detach(), mpu.get_expert_tensor_and_model_parallel_group()
    parts = here().expert_tensor
    holders = range(entry.expert_rank * parts, (entry.expert_rank + 1) * parts)
    if group.rank():
        if group.rank() in holders:
            dist.send(own.contiguous(), group=group, group_dst=0)
        return []
    # Where it is not its own, that is another expert's, of the same shape.
    shards = [own if holder == 0 else torch.empty_like(own) for holder in holders]
    for holder, shard in zip(holders, shards, strict=True):
        if holder:
            dist.recv(shard, group=group, group_src=holder)
    return shards


def _of_stage(bucket: Bucket, stages: dict[str, int], stage: int) -> list[TensorSpec]:
    return [spec for spec in bucket.tensors if stages[spec.name] == stage]


def _fill(specs: Sequence[TensorSpec], own: Iterator[Parts | None], place: Tensor) -> Tensor:
    """Fill the start of the piece `place` with the next tensors of `own`, which must be those of `specs`. Returns
    `place`, or a tensor that is the whole piece itself."""
    for (name, view), spec in zip(Bucket(tuple(specs)).views(place[: _size(specs)]), specs, strict=True):
        parts = next(own)
        assert parts is not None
        found = TensorSpec(parts.name, parts.shape, parts.parts[0].dtype)
        if found != spec:
            raise ValueError(f"the weights do not match what was announced: {name} should be {spec}, it is {found}")
        if spec.nbytes == len(place) and len(parts.parts) == 1 and parts.parts[0].is_contiguous():
            return parts.parts[0].view(-1).view(torch.uint8)
        parts.join_into(view)
    return place


def _size(specs: Sequence[TensorSpec]) -> int:
    return sum(spec.nbytes for spec in specs)


def _send_to_main(
    buckets: Sequence[Bucket], stages: dict[str, int], stage: int, own: Iterator[Parts | None], device: torch.device
) -> Iterator[None]:
    group = mpu.get_pipeline_model_parallel_group()
    main = dist.get_global_rank(group, 0)
    segments = [_of_stage(bucket, stages, stage) for bucket in buckets]
    slots = [torch.empty(max(map(_size, segments)), dtype=torch.uint8, device=device) for _ in range(2)]
    sends: list[dist.Work | None] = [None, None]
    turn = 0
    for specs in segments:
        if specs:
            _finish(sends[turn])
            segment = slots[turn][: _size(specs)]
            sends[turn] = dist.isend(_fill(specs, own, segment), dst=main, group=group)
            turn = 1 - turn
        yield None
    for work in sends:
        _finish(work)


def _receive(bucket: Bucket, stages: dict[str, int], buffer: Tensor) -> list[dist.Work]:
    """Start to receive what other stages send into the bucket, one stage after another, after the first stage's
    tensors."""
    group = mpu.get_pipeline_model_parallel_group()
    start, works = 0, []
    for stage in range(mpu.get_pipeline_model_parallel_world_size()):
        end = start + _size(_of_stage(bucket, stages, stage))
        if stage and end > start:
            work = dist.irecv(buffer[start:end], src=dist.get_global_rank(group, stage), group=group)
            assert work is not None
            works.append(work)
        start = end
    return works


def _finish(work: dist.Work | None) -> None:
    if work is not None:
        work.wait()
