"""Packets that both ends keep, and when changes go in their place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastsvs.sync.deltas import Decoder, Encoder, Head, Outgoing, Pace, Traffic, busiest, shares
from fastsvs.sync.memory import Pool
from fastsvs.sync.sparse import Form

CPU = torch.device("cpu")
packets = st.lists(st.integers(-(1 << 15), (1 << 15) - 1), min_size=20, max_size=20).map(
    lambda words: torch.tensor(words, dtype=torch.int16).view(torch.uint8)
)


def random_packet() -> Tensor:
    return torch.randint(0, 256, (40_000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def with_changes(packet: Tensor, every: int) -> Tensor:
    changed = packet.clone()
    changed.view(torch.int16)[::every] ^= 1
    return changed


def test_a_head_is_read_as_it_was_written() -> None:
    head = Head(Form.PLACES, 1 << 40, 7, 6)
    assert Head.read(head.written(CPU)) == head


def outgoing(worker: int, packet: Tensor, *cuts: int) -> Outgoing:
    """A packet of a block of fp32, and further blocks that begin at the bytes `cuts`."""
    first, *others = packet.tensor_split(cuts)
    return Outgoing(worker, packet, {0: first.view(torch.float32), **dict(zip(cuts, others, strict=True))})


@given(updates=st.lists(packets, min_size=1, max_size=5))
def test_every_worker_gets_every_packet_of_every_update(updates: list[Tensor]) -> None:
    """The same block goes to two workers, and another one to the first of them."""
    encoder, decoders = Encoder(Pool(CPU), always=True), [Decoder(CPU), Decoder(CPU)]
    for number, packet in enumerate(updates, start=1):
        packets = outgoing(0, packet.clone(), 16), outgoing(1, packet[:16].clone())
        encoder.begin(number)
        for each, decoder, (head, message) in zip(packets, decoders, encoder.encode(packets), strict=True):
            assert head.nbytes == len(message) <= len(each.values)
            assert torch.equal(decoder.decode(0, head, message.clone()), each.values)
        assert encoder.traffic.sent.total() <= encoder.traffic.whole == len(packet) + 16
        encoder.end(1.0)


def test_a_worker_keeps_no_more_memory_than_packets_take() -> None:
    decoder = Decoder(CPU)
    for number, size in enumerate((40_000, 10)):
        message = decoder.take(size)
        kept = decoder.decode(0, Head(Form.WHOLE, size, number + 1, 0), message)
        assert kept.untyped_storage().nbytes() == size


def test_changes_of_another_packet_than_the_last_one_are_refused() -> None:
    encoder, late = Encoder(Pool(CPU), always=True), Decoder(CPU)
    packet = random_packet()
    for number in (1, 2, 3):
        encoder.begin(number)
        ((head, message),) = encoder.encode([outgoing(0, packet)])
        if number == 1:
            late.decode(0, head, message)
        packet = with_changes(packet, 100)
    assert head.base == 2
    with pytest.raises(ValueError, match="changes since update 2 came to a worker that has update 1"):
        late.decode(0, head, message)
    with pytest.raises(ValueError, match="changes since update 2 came to a worker that has update 0"):
        Decoder(CPU).decode(0, head, message)


@pytest.mark.parametrize(
    ("always", "seconds", "forms"),
    [
        (False, 100.0, ["whole", "places", "mask", "places"]),
        (False, 1e-9, ["whole", "places", "whole", "whole"]),
        (True, 1e-9, ["whole", "places", "mask", "places"]),
    ],
)
def test_a_slow_link_and_few_changes_let_changes_go(always: bool, seconds: float, forms: list[str]) -> None:
    """Changes are tried once on a quick link, which measures what they cost."""
    encoder, packet = Encoder(Pool(CPU), always=always), random_packet()
    found = []
    for number, every in enumerate([100, 10, 100, 100], start=1):
        encoder.begin(number)
        encoder.encode([outgoing(0, packet)])
        found += list(encoder.traffic.forms)
        encoder.end(seconds)
        packet = with_changes(packet, every)
    assert found == forms


def test_encoding_that_was_slow_once_is_tried_again() -> None:
    pace = Pace(link=1e-9)
    pace.measure(Traffic(whole=1000, encoded=1000, seconds=1.0), 2.0)
    tries = 0
    while not pace.pays(1000, 100):
        pace.measure(Traffic(whole=1000), 1e-6)
        tries += 1
    assert 1 <= tries < 40


def test_metrics_count_all_ranks() -> None:
    ranks = [Traffic(words=100, changed=10, seconds=1.0), Traffic(words=300, changed=10, seconds=3.0)]
    for rank, sent, forms in zip(ranks, ({0: 50, 1: 20}, {0: 40}), (["mask"] * 2, ["whole"]), strict=True):
        rank.sent.update(sent)
        rank.forms.update(forms)
    assert busiest(ranks) == 90
    assert shares(ranks) == {
        "sync/changed": 0.05,
        "sync/coding_seconds": 3.0,
        "sync/messages/whole": 1.0,
        "sync/messages/mask": 2.0,
        "sync/messages/places": 0.0,
    }
    assert "sync/changed" not in shares([Traffic()]), "nothing was compared"
    assert shares([]) == {}
