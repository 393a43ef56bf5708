"""What goes between the trainer and a client process arrives as it was sent."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.client import Ask, ExpertShape, Sample, messages
from fastsvs.client.messages import Setup

TOKENS = st.lists(
    st.tuples(st.integers(0, 2**31 - 1), st.floats(-1e300, 0.0, allow_nan=False)), min_size=1, max_size=20
)


def through(*frames: bytes) -> list[tuple[dict[str, Any], memoryview]]:
    """The frames as the other end reads them, whatever pieces they come in."""

    async def read() -> list[tuple[dict[str, Any], memoryview]]:
        reader = asyncio.StreamReader(limit=16)
        stream = b"".join(frames)
        for start in range(0, len(stream), 7):
            reader.feed_data(stream[start : start + 7])
        reader.feed_eof()
        found = [await messages.read_frame(reader) for _ in frames]
        with pytest.raises(asyncio.IncompleteReadError):
            await messages.read_frame(reader)
        return found

    return asyncio.run(read())


@given(
    st.lists(st.tuples(TOKENS, st.sampled_from(["stop", "length"]), st.integers(0, 2**40), st.booleans()), min_size=1),
    st.none() | st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 3)),
)
def test_samples_arrive_bit_for_bit(
    made: list[tuple[list[tuple[int, float]], Any, int, bool]], experts: tuple[int, int, int] | None
) -> None:
    """Experts are those of so many prompt tokens, layers and experts a layer, or none."""
    dice = np.random.default_rng(0)
    sent = [
        Sample(
            np.array([i for i, _ in tokens], np.int32),
            np.array([p for _, p in tokens]),
            reason,
            version,
            mixed,
            experts and dice.integers(0, 2**15, (experts[0] + len(tokens), *experts[1:]), np.int16),
        )
        for tokens, reason, version, mixed in made
    ]
    [(header, arrays)] = through(messages.pack_samples(7, sent))
    got = messages.read_samples(header, arrays)
    assert header["number"] == 7
    for a, b in zip(sent, got, strict=True):
        assert a.ids.tobytes() == b.ids.tobytes()
        assert a.logprobs.tobytes() == b.logprobs.tobytes()
        assert (a.finish_reason, a.version, a.mixed) == (b.finish_reason, b.version, b.mixed)
        assert (a.experts is None) == (b.experts is None) == (experts is None)
        assert a.experts is None or (a.experts == b.experts).all()


@given(
    st.lists(st.integers(0, 2**31 - 1)),
    st.text(),
    st.integers(0, 2**62),
    st.none() | st.builds(ExpertShape, st.integers(1, 99), st.integers(1, 9), st.integers(1, 999)),
)
def test_asks_arrive(prompt: list[int], key: str, seed: int, experts: ExpertShape | None) -> None:
    sampling = {"n": 3, "seed": seed, "temperature": 0.7, "stop_token_ids": [1, 2]}
    ask = Ask(key, "http://[::1]:8000", "secret", prompt, sampling, version=3, priority=7)
    setup = Setup((1, 2), 1000, own_weights=True, connections=8, experts=experts)
    first, second, third = through(messages.pack_setup(setup), messages.pack_ask(4, ask), messages.pack_cancel(4))
    assert messages.read_setup(first[0]) == setup
    assert messages.read_ask(*second) == ask
    assert third[0] == {"number": 4}
