"""The plan of an update from shard to shard: which rank sends which block of which tensor to which worker.

Pure functions of what every rank holds and every worker wants. Ranks that hold the same block, as data-parallel
replicas do, share the work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fastsvs.blocks import Block
from fastsvs.buckets import Bucket, TensorSpec

Blocks = Mapping[str, Block]
"""Blocks by the name of their tensors; a tensor that is not there is not held."""
SHARE_BYTES = 4 << 20
"""Size in bytes from which a block is cut among the ranks that hold it."""


@dataclass(frozen=True, slots=True)
class Move:
    """One block of one tensor on its way from a rank to a worker."""

    sender: int
    """Rank of the trainer."""
    worker: int
    """Number of the worker among all workers of the update."""
    tensor: int
    """Place of the tensor in the list of specs."""
    block: Block


def spread_order(specs: Sequence[TensorSpec], held: Sequence[Blocks]) -> list[TensorSpec]:
    """Return the specs in an order in which all ranks have something to send at any time: pipeline stages in turn, each
    at the pace of its share, and the tensors of a layer together."""
    holders = {spec.name: frozenset(r for r, blocks in enumerate(held) if spec.name in blocks) for spec in specs}
    totals: dict[frozenset[int], int] = defaultdict(int)
    for spec in specs:
        totals[holders[spec.name]] += spec.nbytes
    done: dict[frozenset[int], int] = defaultdict(int)
    starts: dict[tuple[frozenset[int], str], float] = {}
    keys = []
    for number, spec in enumerate(specs):
        stage = holders[spec.name]
        layer = stage, ".".join(spec.name.split(".")[:3])
        starts.setdefault(layer, done[stage] / totals[stage])
        keys.append((starts[layer], number))
        done[stage] += spec.nbytes
    return [specs[number] for _, number in sorted(keys)]


def plan_moves(specs: Sequence[TensorSpec], held: Sequence[Blocks], wanted: Sequence[Blocks]) -> list[Move]:
    """Return the moves that bring every worker each value of its blocks exactly once, in the order of `specs`.

    `held` are the blocks of each rank, `wanted` those of each worker. The blocks of a tensor on two ranks must be the
    same or have nothing in common. Of ranks with the same block the one with the fewest bytes so far sends. Raises
    ValueError for a value that no rank holds.
    """
    sent = [0] * len(held)
    moves = []
    for tensor, spec in enumerate(specs):
        owners: dict[Block, list[int]] = defaultdict(list)
        for rank, blocks in enumerate(held):
            if spec.name in blocks:
                owners[blocks[spec.name]].append(rank)
        for worker, blocks in enumerate(wanted):
            found = 0
            for block, ranks in owners.items():
                for part in _cut(block & blocks[spec.name], spec.dtype.itemsize, len(ranks)):
                    sender = min(ranks, key=lambda rank: (sent[rank], rank))
                    sent[sender] += part.size * spec.dtype.itemsize
                    found += part.size
                    moves.append(Move(sender, worker, tensor, part))
            if found != blocks[spec.name].size:
                raise ValueError(f"the trainer holds {found} of the {blocks[spec.name].size} values of {spec.name}")
    return moves


def busiest(moves: Sequence[Move], specs: Sequence[TensorSpec]) -> int:
    """Return the bytes that go through the busiest card, the sending or the receiving one: with equal links the update
    takes as long as they do."""
    through: dict[tuple[str, int], int] = defaultdict(int)
    for move in moves:
        nbytes = move.block.size * specs[move.tensor].dtype.itemsize
        through["out", move.sender] += nbytes
        through["in", move.worker] += nbytes
    return max(through.values(), default=0)


def pays(moves: Sequence[Move], specs: Sequence[TensorSpec]) -> bool:
    """Return True where no card sends or receives more bytes than the model has, which one card sends in a
    broadcast."""
    return busiest(moves, specs) <= sum(spec.nbytes for spec in specs)


def _cut(block: Block, itemsize: int, ranks: int) -> Iterator[Block]:
    """Yield the block in neighbouring parts of some rows each, no more parts than ranks; nothing of an empty one."""
    if not block.size:
        return
    rows, _ = block.shape
    parts = min(ranks, rows, -(-block.size * itemsize // SHARE_BYTES))
    for part in range(parts):
        start = block.rows[0]
        yield Block((start + rows * part // parts, start + rows * (part + 1) // parts), block.columns)


def describe_moves(moves: Sequence[Move]) -> list[list[int]]:
    """Return the moves to one worker as JSON, for `read_moves`."""
    return [[move.sender, move.tensor, *move.block.rows, *move.block.columns] for move in moves]


def read_moves(told: Sequence[Sequence[int]], worker: int) -> list[Move]:
    """Read the moves to `worker` that `describe_moves` wrote."""
    return [
        Move(sender, worker, tensor, Block((top, bottom), (left, right)))
        for sender, tensor, top, bottom, left, right in told
    ]


@dataclass(frozen=True, slots=True)
class Packet:
    """One message with what a rank sends to a worker of one bucket: blocks, packed end to end."""

    sender: int
    worker: int
    blocks: tuple[tuple[int, Block], ...]
    """Blocks with the place of their tensor in the bucket."""


def packets(moves: Sequence[Move], buckets: Sequence[Bucket]) -> list[list[Packet]]:
    """Return the packets of every bucket, by sender and worker."""
    places = [(index, place) for index, bucket in enumerate(buckets) for place in range(len(bucket.tensors))]
    found: list[dict[tuple[int, int], list[tuple[int, Block]]]] = [defaultdict(list) for _ in buckets]
    for move in moves:
        bucket, place = places[move.tensor]
        found[bucket][move.sender, move.worker].append((place, move.block))
    return [[Packet(*pair, tuple(blocks)) for pair, blocks in sorted(of_bucket.items())] for of_bucket in found]


def packet_bytes(packet: Packet, bucket: Bucket) -> int:
    return sum(block.size * bucket.tensors[place].dtype.itemsize for place, block in packet.blocks)


def pieces(buffer: Tensor, packet: Packet, bucket: Bucket) -> list[Tensor]:
    """Return the places [rows, columns] of the blocks in the memory of a packet, [bytes] uint8."""
    dtypes = [bucket.tensors[place].dtype for place, _ in packet.blocks]
    sizes = [block.size * dtype.itemsize for (_, block), dtype in zip(packet.blocks, dtypes, strict=True)]
    parts = zip(buffer.split(sizes), dtypes, packet.blocks, strict=True)
    return [part.view(dtype).view(block.shape) for part, dtype, (_, block) in parts]
