"""Packets as changes of the ones before: both ends keep what went last, and the sender measures whether that pays.

What is kept lives as long as the group in which it went. Every failure ends the group, so that both ends begin with
whole packets again; each message names the update whose packet it changes all the same, and the receiver checks it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsvs.sync.memory import Pool
from fastsvs.sync.sparse import WORD, Form, decode, difference, encode, message_bytes, smallest


class Head(NamedTuple):
    """Announcement of a message, which goes before it."""

    form: int
    nbytes: int
    """Size of the message in bytes."""
    update: int
    """Number of the update within the group."""
    base: int
    """Number of the update whose packet the message changes; 0 for a whole packet."""

    def written(self, device: torch.device) -> Tensor:
        """Return the head as it travels, [HEAD_BYTES] uint8."""
        return torch.tensor(self, dtype=torch.int64, device=device).view(torch.uint8)

    @classmethod
    def read(cls, written: Tensor) -> Head:
        return cls(*written.view(torch.int64).tolist())


HEAD_BYTES = 8 * len(Head._fields)


@dataclass
class Traffic:
    """The traffic of a rank in an update."""

    sent: Counter[int] = field(default_factory=Counter)
    """Bytes by worker."""
    whole: int = 0
    """Bytes of the packets before they were encoded."""
    encoded: int = 0
    """Bytes, before they were, of the packets that went as changes."""
    words: int = 0
    """Number of words that were compared."""
    changed: int = 0
    """Number of those that had changed."""
    forms: Counter[str] = field(default_factory=Counter)
    """Messages by their form."""
    seconds: float = 0.0
    """Time that comparing and encoding took."""


def busiest(ranks: Sequence[Traffic]) -> int:
    """Return the bytes that went through the busiest card, a rank's or a worker's."""
    into: Counter[int] = Counter()
    for rank in ranks:
        into.update(rank.sent)
    return max([*into.values(), *(rank.sent.total() for rank in ranks)], default=0)


def shares(ranks: Sequence[Traffic]) -> dict[str, float]:
    """Return the metrics of an update: what changed, what was chosen, and the seconds of the slowest rank."""
    if not ranks:
        return {}
    forms: Counter[str] = sum((rank.forms for rank in ranks), Counter())
    compared = sum(rank.words for rank in ranks)
    changed = {"sync/changed": sum(rank.changed for rank in ranks) / compared} if compared else {}
    chosen = {f"sync/messages/{form.name.lower()}": float(forms[form.name.lower()]) for form in Form}
    return changed | chosen | {"sync/coding_seconds": max(rank.seconds for rank in ranks)}


@dataclass
class Pace:
    """Measured speeds of a rank, in seconds per byte of whole packets."""

    link: float = 0.0
    """Time to send a byte, measured where all packets go whole, as they do in a group's first update."""
    coding: float = 0.0
    """Time to compare and encode a byte; 0 before it has been measured."""

    def pays(self, whole: int, message: int) -> bool:
        """Return True where a message saves more time than encoding and decoding take. Decoding takes up to as long as
        encoding."""
        return self.link * (whole - message) > 2 * self.coding * whole

    def measure(self, traffic: Traffic, seconds: float) -> None:
        """Learn from an update that took so long."""
        if traffic.encoded:
            self.coding = traffic.seconds / traffic.whole
        elif traffic.whole:
            self.link = seconds / traffic.whole
            self.coding /= 2  # a slow moment must not rule encoding out for good


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A packet to send."""

    worker: int
    values: Tensor
    """Memory of the packet, [bytes] uint8."""
    parts: Mapping[Any, Tensor]
    """Blocks that lie there, in order, by what tells them from other blocks of the update."""


class Encoder:
    """Encoder of what a rank sends in the updates of one group."""

    def __init__(self, pool: Pool, *, always: bool) -> None:
        """Choose the smallest form for each packet; without `always` only where the pace says that it pays. Compare in
        memory of `pool`."""
        self._pool, self._always, self._pace = pool, always, Pace()
        self._kept: dict[Hashable, Tensor] = {}
        self._update = self._base = 0
        self.traffic = Traffic()

    def begin(self, update: int) -> None:
        """Begin an update, whose number is not 0. All updates of a group send the same blocks."""
        self._base, self._update, self.traffic = self._update, update, Traffic()

    def end(self, seconds: float) -> None:
        """Learn from the update, whose packets took so long to send."""
        self._pace.measure(self.traffic, seconds)

    def encode(self, packets: Sequence[Outgoing]) -> list[tuple[Head, Tensor]]:
        """Return a message about each packet, with its head. A block that goes to several workers is kept once: the
        packets must be all that it lies in, and stay as they are until they are sent."""
        began = perf_counter()
        messages = [self._encoded(packet) for packet in packets]
        for packet in packets:
            for key, part in packet.parts.items():
                if key not in self._kept:
                    self._kept[key] = _host_memory(part)
                self._kept[key].copy_(part, non_blocking=True)
        self.traffic.seconds += perf_counter() - began
        return messages

    def _encoded(self, outgoing: Outgoing) -> tuple[Head, Tensor]:
        packet, traffic = outgoing.values, self.traffic
        form, message = Form.WHOLE, packet
        if self._base:
            mask = difference(packet, self._before(outgoing))
            words, changed = len(packet) // WORD.itemsize, int(mask.count_nonzero())
            form = self._choose(words, changed)
            message = encode(form, packet, mask)
            traffic.words += words
            traffic.changed += changed
        traffic.sent[outgoing.worker] += len(message)
        traffic.whole += len(packet)
        traffic.encoded += len(packet) if form is not Form.WHOLE else 0
        traffic.forms[form.name.lower()] += 1
        return Head(form, len(message), self._update, 0 if form is Form.WHOLE else self._base), message

    def _before(self, outgoing: Outgoing) -> Tensor:
        """Return the packet as it went last, [bytes] uint8."""
        before = self._pool.take(len(outgoing.values))
        kept = [self._kept[key] for key in outgoing.parts]
        for part, values in zip(before.split([values.nbytes for values in kept]), kept, strict=True):
            part.view(values.dtype).view(values.shape).copy_(values, non_blocking=True)
        return before

    def _choose(self, words: int, changed: int) -> Form:
        form = smallest(words, changed)
        sizes = message_bytes(Form.WHOLE, words, changed), message_bytes(form, words, changed)
        return form if self._always or self._pace.pays(*sizes) else Form.WHOLE


class Decoder:
    """Decoder of what a worker receives in the updates of one group."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: dict[Hashable, tuple[int, Tensor]] = {}

    def take(self, nbytes: int) -> Tensor:
        """Return memory for a message, [nbytes] uint8, that is no larger, as a whole packet is kept where it came."""
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def decode(self, key: Hashable, head: Head, message: Tensor) -> Tensor:
        """Return the packet [bytes] uint8 that a message is about, which must stay as it is until the next update.
        Raises ValueError where the message changes another packet than the one that came last under this key."""
        update, kept = self._kept.get(key, (0, None))
        packet = message
        if head.form != Form.WHOLE:
            if kept is None or update != head.base:
                raise ValueError(f"changes since update {head.base} came to a worker that has update {update}")
            packet = kept.to(self._device)
            decode(Form(head.form), message, packet)
        if packet.is_cuda:
            kept = _host_memory(packet) if kept is None else kept
            self._kept[key] = head.update, kept.copy_(packet, non_blocking=True)
        else:
            self._kept[key] = head.update, packet
        return packet


def _host_memory(values: Tensor) -> Tensor:
    """Return memory of the host for such values, pinned where they are a GPU's."""
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
