"""Messages that hold only the words of a packet that changed since the last one, bit for bit.

Words have 16 bits, the size of bf16, whatever the numbers are: NaN and -0.0 are bits like others. Pure functions of
tensors; `deltas` keeps what they compare with.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

WORD = torch.int16
REGION = 1 << 16
"""Number of words whose places among themselves take 16 bits."""
SPREAD = 0x0102040810204080
"""Factor that makes eight bytes of 0 or 1, taken as one number, the bits of its highest byte."""


class Form(IntEnum):
    """The content of a message."""

    WHOLE = 0
    """The packet."""
    MASK = 1
    """The words that changed, and a bit for every word, which says whether it did."""
    PLACES = 2
    """The words that changed, their places in their regions (16 bits each), and their number in each region (32)."""


def difference(packet: Tensor, base: Tensor) -> Tensor:
    """Return which words of two packets [bytes] uint8 differ: bool [words], and False up to a multiple of 8."""
    new, old = packet.view(WORD), base.view(WORD)
    mask = torch.zeros(8 * _octets(len(new)), dtype=torch.bool, device=packet.device)
    torch.ne(new, old, out=mask[: len(new)])
    return mask


def message_bytes(form: Form, words: int, changed: int) -> int:
    """Return the size of the message about a packet of `words` words, of which `changed` did, in bytes."""
    return {
        Form.WHOLE: words * WORD.itemsize,
        Form.MASK: changed * WORD.itemsize + _octets(words),
        Form.PLACES: changed * 2 * WORD.itemsize + 4 * _regions(words),
    }[form]


def smallest(words: int, changed: int) -> Form:
    """Return the form with the smallest message."""
    return min(Form, key=lambda form: message_bytes(form, words, changed))


def encode(form: Form, packet: Tensor, mask: Tensor) -> Tensor:
    """Return the message [bytes] uint8 about a packet [bytes] uint8, of which `mask` says what changed."""
    if form is Form.WHOLE:
        return packet
    words = packet.view(WORD)
    places = mask.nonzero().view(-1)
    if form is Form.MASK:
        further = [((mask.view(torch.int64) * SPREAD) >> 56).to(torch.uint8)]
    else:
        bounds = torch.arange(REGION, REGION * (_regions(len(words)) + 1), REGION, device=places.device)
        ends = torch.searchsorted(places, bounds)
        further = [places.to(WORD), ends.diff(prepend=ends.new_zeros(1)).to(torch.int32)]
    return torch.cat([part.view(torch.uint8) for part in (words[places], *further)])


def decode(form: Form, message: Tensor, base: Tensor) -> None:
    """Turn `base` [bytes] uint8, the packet before, into the one that the message is about."""
    words = base.view(WORD)
    if form is Form.WHOLE:
        base.copy_(message)
    elif form is Form.MASK:
        octets = _octets(len(words))
        values, bits = message.split([len(message) - octets, octets])
        each = 1 << torch.arange(8, dtype=torch.uint8, device=bits.device)
        mask = (bits.unsqueeze(1) & each).ne(0).view(-1)[: len(words)]
        words.masked_scatter_(mask, values.view(WORD))
    else:
        told = 4 * _regions(len(words))
        changed = (len(message) - told) // 2
        values, places, counts = message.split([changed, changed, told])
        starts = torch.arange(0, len(words), REGION, device=base.device).repeat_interleave(counts.view(torch.int32))
        words.index_copy_(0, starts + (places.view(WORD).long() & (REGION - 1)), values.view(WORD))


def _octets(words: int) -> int:
    return -(-words // 8)


def _regions(words: int) -> int:
    return -(-words // REGION)
