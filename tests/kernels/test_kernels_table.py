"""The launch table: what it gives for any shape."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.kernels import table

GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module", autouse=True)
def processors():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "_processors", lambda device: 132)
        yield


@pytest.mark.parametrize("kernel", table.ROW_CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@given(columns=st.integers(1, 300_000))
def test_a_thread_takes_whole_128_bit_loads(kernel, dtype, columns):
    config = table.row_config(kernel, dtype, columns)
    assert config.block % (32 * config.warps * (16 // dtype.itemsize)) == 0


@given(rows=st.integers(1, 10_000), columns=st.integers(1, 300_000))
def test_rows_are_split_only_as_far_as_the_device_needs_it(rows, columns):
    config = table.row_config("row_statistics", torch.bfloat16, columns)
    parts = table.splits(rows, columns, config, GPU)
    wanted = table.PROGRAMS_PER_PROCESSOR * 132
    assert parts == 1 or (columns >= 2 * config.block * parts and rows * (parts - 1) < wanted)
    assert rows * parts >= wanted or 2 * config.block * (parts + 1) > columns


@given(columns=st.integers(1, 300_000), programs=st.integers(1, 50), block=st.sampled_from([1024, 4096, 8192]))
def test_the_parts_of_a_row_are_whole_blocks_and_never_empty(columns, programs, block):
    parts, span = table.shares(columns, table.RowConfig(block, 8), programs)
    assert span % block == 0
    assert 1 <= parts <= programs
    assert (parts - 1) * span < columns <= parts * span


@pytest.mark.parametrize("kernel", table.ROW_CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(rows=st.integers(1, 40_000), columns=st.integers(1, 300_000))
def test_no_program_takes_more_than_its_span(kernel, dtype, rows, columns):
    config = table.row_config(kernel, dtype, columns)
    _parts, span = table.shares(columns, config, table.splits(rows, columns, config, GPU))
    assert span <= config.span
