"""How much of a model an update changes: sparsity S = 1 - |{values that changed}| / n (arXiv 2510.27072)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from fastsvs.errors import UserError

TOLERANCE = 1e-5
"""Largest difference that counts as none in work on bf16 checkpoints (Mukherjee et al. 2025, arXiv 2505.11711)."""
PIECE = {"cpu": 1 << 16, "cuda": 1 << 24}
"""Number of values that are compared at once, by type of device: their float64 copies stay in a core's cache, or fill a
GPU."""
_LAYER = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)?\.?(\w+)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one tensor, or of several together."""

    values: int
    """Number of values."""
    same: int
    """Number of values that are equal bit for bit."""
    same_in_bf16: int
    """Number of values that are equal after rounding both to bf16."""
    within: int
    """Number of values that differ by no more than the tolerance."""
    square_of_change: float
    """Sum of the squares of the differences."""
    square_before: float
    """Sum of the squares of the values before."""

    def __add__(self, other: Change) -> Change:
        return Change(
            self.values + other.values,
            self.same + other.same,
            self.same_in_bf16 + other.same_in_bf16,
            self.within + other.within,
            self.square_of_change + other.square_of_change,
            self.square_before + other.square_before,
        )

    def figures(self) -> dict[str, float]:
        """Return the sparsities, and the norm of the change over that of the weights before."""
        before = self.square_before**0.5
        return {
            "sparsity/exact": self.same / self.values,
            "sparsity/bf16": self.same_in_bf16 / self.values,
            "sparsity/tolerance": self.within / self.values,
            "relative_change": self.square_of_change**0.5 / before if before else 0.0,
        }


UNCHANGED = Change(values=1, same=1, same_in_bf16=1, within=1, square_of_change=0.0, square_before=1.0)
"""Change of weights that are as they were."""


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """The change of every tensor, by its Hugging Face name."""

    tensors: dict[str, Change]

    def total(self) -> Change:
        """Return the change of all tensors together."""
        return _sum(list(self.tensors.values()))

    def by_layer(self) -> dict[str, Change]:
        """Return the changes by layer, under `0`, `1`, ...; what lies in no layer is under its module."""
        return self._grouped(lambda name: match[1] if (match := _LAYER.fullmatch(name)) else module_of(name))

    def by_module(self) -> dict[str, Change]:
        """Return the changes by module, under `q_proj`, `q_proj bias`, `gate_proj`, `norm`, `embedding`, `head`, ..."""
        return self._grouped(module_of)

    def table(self, names: Sequence[str]) -> Tensor:
        """Return the changes of the tensors `names`, in the order of `Change`'s fields, as [tensors, fields] float64;
        zeros for those that are not here. Tables of parts of a model add up."""
        nothing = Change(0, 0, 0, 0, 0.0, 0.0)
        return torch.tensor([astuple(self.tensors.get(name, nothing)) for name in names], dtype=torch.float64)

    @staticmethod
    def of_table(names: Sequence[str], table: Tensor) -> WeightUpdate:
        """Return the changes that a table of the tensors `names` holds."""
        rows = zip(names, table.tolist(), strict=True)
        return WeightUpdate({name: _change(*row) for name, row in rows})

    def _grouped(self, key: Callable[[str], str]) -> dict[str, Change]:
        groups: dict[str, list[Change]] = {}
        for name, change in self.tensors.items():
            groups.setdefault(key(name), []).append(change)
        return {name: _sum(changes) for name, changes in groups.items()}


def compare(pairs: Iterable[tuple[str, Tensor, Tensor]], tolerance: float = TOLERANCE) -> WeightUpdate:
    """Return the changes of the tensors in `pairs` (name, before, after), taken one at a time."""
    return WeightUpdate({name: change_of(old, new, tolerance) for name, old, new in pairs})


def paired(
    before: Iterable[tuple[str, Tensor]], after: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield (name, before, after) of two models whose tensors come in the same order. No more than one pair of tensors
    is held. Raises UserError where the models are not of one architecture."""
    theirs = iter(after)
    for name, old in before:
        other, new = next(theirs, ("nothing", None))
        if name != other or new is None or old.shape != new.shape:
            shape = "" if new is None else f" of shape {list(new.shape)}"
            raise UserError(f"the models differ: {name} of shape {list(old.shape)} stands against {other}{shape}")
        yield name, old, new
    if extra := next(theirs, None):
        raise UserError(f"the models differ: only one of them has {extra[0]}")


def change_of(old: Tensor, new: Tensor, tolerance: float = TOLERANCE) -> Change:
    """Return the change between two tensors of one shape. When one is bf16 the other is rounded to it first, so that
    storing is no change."""
    if torch.bfloat16 in (old.dtype, new.dtype):
        old, new = old.bfloat16(), new.bfloat16()
    pieces = zip(*(x.reshape(-1).split(PIECE[x.device.type]) for x in (old, new)), strict=True)
    sums = torch.stack([_sums(before, after, tolerance) for before, after in pieces]).sum(0)
    return _change(old.numel(), *sums.tolist())


def _sums(old: Tensor, new: Tensor, tolerance: float) -> Tensor:
    """Return the fields of `Change` but the number of values for two flat tensors, [5] float64 on their device."""
    wide = old.double()
    difference = new.double() - wide
    found = (
        (old == new).sum(),
        (old.bfloat16() == new.bfloat16()).sum(),
        (difference.abs() <= tolerance).sum(),
        difference.square().sum(),
        wide.square().sum(),
    )
    return torch.stack([number.double() for number in found])


def _change(*fields: float) -> Change:
    *counts, square_of_change, square_before = fields
    return Change(*map(int, counts), square_of_change, square_before)  # type: ignore[call-arg]


def module_of(name: str) -> str:
    """Return the kind of weight that a Hugging Face name stands for."""
    if match := _LAYER.fullmatch(name):
        module, part = match[2], match[3]
        if module.endswith("norm"):
            return "norm"
        return module if part == "weight" else f"{module} {part}"
    return {"model.embed_tokens.weight": "embedding", "lm_head.weight": "head"}.get(name, "norm")


def _sum(changes: Sequence[Change]) -> Change:
    return sum(changes[1:], start=changes[0])
