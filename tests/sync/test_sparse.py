"""Messages about changes give the packet back, bit for bit, and are as large as foretold."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from fastsvs.sync import sparse
from fastsvs.sync.sparse import Form, decode, difference, encode, message_bytes, smallest


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A packet and the one before it, of any bits."""
    words = draw(st.integers(0, 300))
    bits = npst.arrays(np.int16, words)
    base, other = draw(bits), draw(bits)
    changed = draw(st.sampled_from(["none", "all", "some"]))
    kept = {"none": np.ones(words, bool), "all": np.zeros(words, bool)}.get(changed)
    packet = np.where(draw(npst.arrays(np.bool_, words)) if kept is None else kept, base, other)
    return tuple(torch.tensor(each.tolist(), dtype=torch.int16).view(torch.uint8) for each in (packet, base))  # type: ignore[return-value]


@given(pair=pairs(), form=st.sampled_from(list(Form)), region=st.sampled_from([1, 64, 1 << 16]))
def test_what_is_decoded_is_what_was_encoded(pair: tuple[Tensor, Tensor], form: Form, region: int) -> None:
    packet, base = pair
    with patch.object(sparse, "REGION", region):
        mask = difference(packet, base)
        words, changed = len(packet) // 2, int(mask.count_nonzero())
        assert changed == int((packet.view(torch.int16) != base.view(torch.int16)).count_nonzero())
        message = encode(form, packet, mask)
        assert len(message) == message_bytes(form, words, changed)
        decode(form, message, base)
    assert torch.equal(base, packet)


@pytest.mark.parametrize("form", list(Form))
def test_numbers_are_compared_as_bits(form: Form) -> None:
    quiet, other, minus, zero = 0x7FC0, 0x7FC1, -0x8000, 0
    base = torch.tensor([quiet, quiet, zero, minus, 0x3F80], dtype=torch.int16)
    packet = torch.tensor([quiet, other, minus, minus, 0x3F80], dtype=torch.int16)
    mask = difference(packet.view(torch.uint8), base.view(torch.uint8))
    assert mask.tolist() == [False, True, True, False, False, False, False, False]
    decode(form, encode(form, packet.view(torch.uint8), mask), base.view(torch.uint8))
    assert base.tolist() == packet.tolist()


@pytest.mark.parametrize(
    ("share", "form", "of_whole"),
    [
        (0.0, Form.PLACES, 3.7e-5),
        (0.01, Form.PLACES, 0.02),
        (0.05, Form.PLACES, 0.1),
        (0.1, Form.MASK, 0.1625),
        (0.3, Form.MASK, 0.3625),
        (0.95, Form.WHOLE, 1.0),
    ],
)
def test_the_smallest_form_follows_the_share_that_changed(share: float, form: Form, of_whole: float) -> None:
    words = 5 * sparse.REGION + 11
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(-(1 << 15), 1 << 15, (words,), dtype=torch.int16, generator=generator)
    packet = torch.where(torch.rand(words, generator=generator) < share, base ^ 1, base)
    mask = difference(packet.view(torch.uint8), base.view(torch.uint8))
    chosen = smallest(words, int(mask.count_nonzero()))
    assert chosen is form
    message = encode(form, packet.view(torch.uint8), mask)
    assert len(message) == pytest.approx(of_whole * 2 * words, rel=0.05)
    decode(form, message, base.view(torch.uint8))
    assert torch.equal(base, packet)
