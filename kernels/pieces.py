"""Cuts rows and columns into pieces, so that what is alive of tokens x vocabulary fits a workspace."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .dispatch import operand_dtype
from .rows_torch import accumulation_dtype


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes of pieces on a device."""

    workspace: int
    """Bytes of logits and of their gradients, where the caller does not say."""
    together: int
    """Number of pieces of rows whose gradients enter one matrix product."""
    least_rows: int
    """Fewest rows of a piece of whole rows, whatever the workspace."""
    least_columns: int
    """Fewest columns of a tile, whatever the workspace."""
    row_multiple: int
    """Divisor of the number of rows of each piece but the last, as a matrix product computes whole tiles."""


CUDA = Limits(workspace=3600 << 20, together=4, least_rows=1024, least_columns=4096, row_multiple=128)
"""Limits on a GPU. For a vocabulary of 152k in bf16 they give gradients of 8,192 tokens, made from the fp32 logits of
2,048 at a time. So many rows fill the multiprocessors evenly in both products that the gradients enter. The fp32
gradient of the weight is read and written once for all of them."""
CPU = Limits(workspace=4 << 20, together=1, least_rows=64, least_columns=256, row_multiple=1)
"""Limits on a CPU: a tile of logits and its gradient stay in the cache of one core through their elementwise passes."""


def check_workspace(workspace: int | None) -> int | None:
    """Return the caller's workspace in bytes. Raises ValueError when it is not above 0."""
    if workspace is not None and workspace < 1:
        raise ValueError(f"workspace_bytes must be above 0, or None, got {workspace}")
    return workspace


def row_groups(rows: int, columns: int, like: Tensor, workspace: int | None) -> list[list[slice]]:
    """Return whole rows in near-equal groups of near-equal pieces. The gradients of a group and the logits of one of
    its pieces fit `workspace` bytes (None: the device's own)."""
    sizes = accumulation_dtype(like).itemsize, operand_dtype(like).itemsize
    return cut_rows(rows, columns, *sizes, _limits(like), workspace)


def cut_rows(
    rows: int, columns: int, logit_bytes: int, gradient_bytes: int, limits: Limits, workspace: int | None = None
) -> list[list[slice]]:
    """Return what `row_groups` returns, for a device that is described and not there: a logit takes `logit_bytes`, and
    its gradient `gradient_bytes`."""
    piece = _most_rows(columns, logit_bytes, gradient_bytes, limits, workspace)
    groups = _near_equal(slice(0, rows), limits.together * piece, limits.row_multiple)
    return [_near_equal(group, piece, limits.row_multiple) for group in groups]


def holds_all(rows: int, columns: int, like: Tensor, workspace: int | None) -> bool:
    """Check whether `workspace` bytes (None: the device's own) hold an entry of the operand's size for every logit of
    all rows, beside the logits of one piece. `rows` may be symbolic."""
    limits, logit, entry = _limits(like), accumulation_dtype(like).itemsize, operand_dtype(like).itemsize
    piece = min(rows, _most_rows(columns, logit, entry, limits, workspace))
    return columns * (rows * entry + piece * logit) <= (workspace or limits.workspace)


def row_pieces(rows: int, columns: int, like: Tensor, workspace: int | None) -> list[slice]:
    """Return the pieces of `row_groups` without the groups. Matrix products of the same shapes give the same bits,
    whatever their results are used for."""
    return [piece for group in row_groups(rows, columns, like, workspace) for piece in group]


def tiles(rows: int, columns: int, like: Tensor, workspace: int | None) -> tuple[list[slice], list[slice]]:
    """Return row spans and column spans whose tiles of logits fit `workspace` bytes with their gradients. Rows stay in
    one piece as long as columns stay wide enough for an efficient matrix product."""
    limits = _limits(like)
    entry = accumulation_dtype(like).itemsize + operand_dtype(like).itemsize
    entries = (workspace or limits.workspace) // entry
    width = max(1, min(columns, max(limits.least_columns, entries // max(rows, 1))))
    return _spans(slice(0, rows), entries // width), _spans(slice(0, columns), width)


def _most_rows(columns: int, logit_bytes: int, gradient_bytes: int, limits: Limits, workspace: int | None) -> int:
    """Return the largest number of rows of a piece."""
    row = columns * (logit_bytes + limits.together * gradient_bytes)
    most = (workspace or limits.workspace) // row // limits.row_multiple * limits.row_multiple
    return max(limits.least_rows, most)


def _near_equal(whole: slice, most: int, multiple: int) -> list[slice]:
    """Return as few near-equal pieces as possible with at most `most` rows each."""
    rows = whole.stop - whole.start
    step = -(-rows // max(1, -(-rows // most)))
    return _spans(whole, -(-step // multiple) * multiple)


def _spans(whole: slice, step: int) -> list[slice]:
    step = max(step, 1)
    return [slice(start, min(start + step, whole.stop)) for start in range(whole.start, whole.stop, step)]


def _limits(like: Tensor) -> Limits:
    return CUDA if like.is_cuda else CPU
