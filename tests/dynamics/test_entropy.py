"""Percentiles and positions of token entropies, counted by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.dynamics import entropy_figures


def test_by_kind_and_by_position() -> None:
    first, second = torch.arange(10.0), torch.tensor([100.0, 200.0])
    figures = entropy_figures(torch.cat([first, second]), torch.tensor([10, 2]), ["original", "variant"])
    assert figures["entropy/original/p50"] == 4.5
    assert figures["entropy/original/p90"] == pytest.approx(8.1)
    assert figures["entropy/variant/p50"] == 150.0
    assert figures["entropy/all/p50"] == 5.5
    assert figures["entropy_at/0.0"] == (0 + 100) / 2
    assert figures["entropy_at/0.5"] == (5 + 200) / 2
    assert figures["entropy_at/0.9"] == 9.0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50))
def test_percentiles_are_numpys(values: list[float]) -> None:
    figures = entropy_figures(torch.tensor(values), torch.tensor([len(values)]), ["original"])
    expected = np.percentile(np.float32(values).astype(float), [10, 50, 90, 99])
    assert [figures[f"entropy/all/p{p}"] for p in (10, 50, 90, 99)] == pytest.approx(expected.tolist())
