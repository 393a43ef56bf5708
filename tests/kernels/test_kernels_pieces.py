"""How rows and columns are cut: everything once, within the workspace, in whole tiles where a GPU computes them."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.kernels import pieces

LIKE = {
    "cpu, fp32": SimpleNamespace(is_cuda=False, dtype=torch.float32),
    "cuda, bf16": SimpleNamespace(is_cuda=True, dtype=torch.bfloat16),
    "cuda, fp32": SimpleNamespace(is_cuda=True, dtype=torch.float32),
}
OPERAND = {"cpu, fp32": 4, "cuda, bf16": 2, "cuda, fp32": 4}
"""Bytes of an entry of the gradient; those of the logits have 4."""
any_shape = given(rows=st.integers(0, 60_000), columns=st.integers(1, 300_000))
on_every_device = pytest.mark.parametrize("device", LIKE)


def length(span: slice) -> int:
    return span.stop - span.start


@on_every_device
@any_shape
def test_rows_come_once_and_in_order(device, rows, columns):
    like = LIKE[device]
    groups = pieces.row_groups(rows, columns, like, None)
    heights, widths = pieces.tiles(rows, columns, like, None)
    for spans, whole in (
        (pieces.row_pieces(rows, columns, like, None), rows),
        ([slice(group[0].start, group[-1].stop) for group in groups], rows),
        (heights, rows),
        (widths, columns),
    ):
        assert [span.start for span in spans] == [0, *(span.stop for span in spans)][: len(spans)]
        assert (spans[-1].stop if spans else 0) == whole
        assert all(length(span) > 0 for span in spans)


@on_every_device
@any_shape
def test_they_fit_the_workspace(device, rows, columns):
    like, limits = LIKE[device], pieces._limits(LIKE[device])
    for group in pieces.row_groups(rows, columns, like, None):
        assert len(group) <= limits.together
        taken = columns * (4 * max(map(length, group)) + OPERAND[device] * sum(map(length, group)))
        assert taken <= limits.workspace or max(map(length, group)) <= limits.least_rows
    heights, widths = pieces.tiles(rows, columns, like, None)
    largest = max(map(length, heights), default=0) * max(map(length, widths), default=0)
    assert (4 + OPERAND[device]) * largest <= limits.workspace


@any_shape
def test_products_on_a_gpu_compute_whole_tiles(rows, columns):
    spans = pieces.row_pieces(rows, columns, LIKE["cuda, bf16"], None)
    assert all(length(span) % pieces.CUDA.row_multiple == 0 for span in spans[:-1])


def test_8192_tokens_of_a_vocabulary_of_152k_are_one_group():
    assert [len(group) for group in pieces.row_groups(8192, 152_064, LIKE["cuda, bf16"], None)] == [4]
    assert [len(group) for group in pieces.row_groups(32768, 151_936, LIKE["cuda, bf16"], None)] == [4] * 4


@on_every_device
def test_a_workspace_of_ones_own_is_kept(device):
    like = LIKE[device]
    rows = max(length(span) for span in pieces.row_pieces(60_000, 1000, like, 40 << 20))
    assert pieces._limits(like).least_rows < rows <= (40 << 20) // 4000


@on_every_device
@given(rows=st.integers(0, 3000), columns=st.integers(1, 3000), workspace=st.integers(1, 1 << 16))
def test_no_workspace_is_too_small_to_come_to_every_row(device, rows, columns, workspace):
    heights, widths = pieces.tiles(rows, columns, LIKE[device], workspace)
    assert sum(map(length, heights)) == rows
    assert sum(map(length, widths)) == columns
