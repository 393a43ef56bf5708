"""The pieces in the files of a checkpoint: flat fp32 stretches of each shard, found, checked and joined.

A piece is called `quantity/parameter/tensor-parallel rank/start`; `training_state` says what the parts are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from fastsvs.architecture import Architecture
from fastsvs.errors import UserError
from fastsvs.policy.mapping import Shape, entries, join, megatron_shapes

MASTER = "master"
MOMENTS = ("exp_avg", "exp_avg_sq")
PIECE = re.compile(r"(?P<shard>.+/\d+)/(?P<start>\d+)")


class PieceIndex:
    """Index of where each stretch of each shard lies. The files stay mapped, and only what is read is loaded."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Open the files. Raises UserError for a tensor that is no piece."""
        self._files = [safe_open(file, framework="pt") for file in files]
        self._pieces: dict[str, list[tuple[int, int, str]]] = {}
        for number, file in enumerate(self._files):
            for key in file.keys():  # noqa: SIM118 (a safe_open is not a dictionary)
                match = PIECE.fullmatch(key)
                if match is None:
                    raise UserError(f"{files[number].name} holds {key!r}, which is no piece of a checkpoint")
                self._pieces.setdefault(match["shard"], []).append((int(match["start"]), number, key))
        for pieces in self._pieces.values():
            pieces.sort()

    def check(self, architecture: Architecture, tensor_parallel: int, updates: int) -> None:
        """Check that the pieces make up all shards, and nothing else, of a policy after `updates` updates that was
        written at this `tensor_parallel`. Reads headers alone. Raises UserError for what is missing or different."""
        if any(n % tensor_parallel for n in (architecture.heads, architecture.groups, architecture.ffn)):
            raise UserError(f"tensor_parallel={tensor_parallel} does not divide this model")
        shards = dict(_shards(architecture, tensor_parallel))
        quantities = (MASTER, *MOMENTS) if updates else (MASTER,)
        expected = {f"{quantity}/{shard}": shape for quantity in quantities for shard, shape in shards.items()}
        for shard in sorted(self._pieces.keys() - expected.keys()):
            raise UserError(f"{shard} has no place in a policy of this model after {updates} updates")
        for shard, shape in expected.items():
            self._check_shard(shard, torch.Size(shape).numel())

    def read(self, shard: str, shape: Shape) -> Tensor:
        """Return a whole shard, joined from its stretches. Raises UserError when one is missing, or for values that are
        not finite."""
        parts = [self._files[number].get_tensor(key) for _, number, key in self._pieces.get(shard, [])]
        flat = torch.cat(parts) if parts else torch.empty(0)
        if flat.numel() != torch.Size(shape).numel():
            raise UserError(f"the checkpoint holds {flat.numel()} of {torch.Size(shape).numel()} values of {shard}")
        if not flat.isfinite().all():
            raise UserError(f"the checkpoint holds values of {shard} that are NaN or infinite: take an earlier one")
        return flat.view(shape)

    def _check_shard(self, shard: str, size: int) -> None:
        end = 0
        for start, number, key in self._pieces.get(shard, []):
            piece = self._files[number].get_slice(key)
            shape, dtype = piece.get_shape(), piece.get_dtype()
            if dtype != "F32" or len(shape) != 1:
                raise UserError(f"{key} is {dtype} of shape {shape}, it must be F32 in one dimension")
            if start != end:
                raise UserError(f"{key} begins at {start} instead of {end}")
            end += shape[0]
        if end != size:
            raise UserError(f"there are {end} of {size} values of {shard}")


class SavedTensors:
    """One quantity of a checkpoint as a `WeightSource` of Hugging Face tensors."""

    def __init__(self, index: PieceIndex, quantity: str, architecture: Architecture, tensor_parallel: int) -> None:
        self._index = index
        self._quantity = quantity
        self._architecture = architecture
        self._tensor_parallel = tensor_parallel
        self._shard_shapes = megatron_shapes(architecture, tensor_parallel, 1, 0)
        self._owners = {name: entry for entry in entries(architecture, 1) for name in entry.sources}
        self._joined: dict[str, Tensor] = {}

    def read(self, name: str, cut: int | None, start: int, end: int) -> Tensor:
        """Read a tensor or a part of it; see `WeightSource`."""
        if name not in self._joined:  # the tensors of one parameter are asked for one after the other
            self._joined = dict(self._join(name))
        whole = self._joined[name]
        return whole if cut is None else whole.narrow(cut, start, end - start)

    def _join(self, name: str) -> list[tuple[str, Tensor]]:
        entry = self._owners[name]
        ranks = range(1 if entry.cut is None else self._tensor_parallel)
        shape = self._shard_shapes[entry.name]
        shards = [self._index.read(f"{self._quantity}/{entry.name}/{rank}", shape) for rank in ranks]
        return join(entry, shards, self._architecture)


def _shards(architecture: Architecture, tensor_parallel: int) -> Iterator[tuple[str, Shape]]:
    """Yield `parameter/tensor-parallel rank` and shape of every shard of the whole network."""
    shapes = megatron_shapes(architecture, tensor_parallel, 1, 0)
    for entry in entries(architecture, 1):
        for rank in range(1 if entry.cut is None else tensor_parallel):
            yield f"{entry.name}/{rank}", shapes[entry.name]
