"""The experts of an answer: what a server writes is read as it was, and anything else is refused."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from answers import EXPECTED, good, written
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.client import ExpertShape, NonsenseError, Sample, read_samples
from fastsvs.client.experts import HEADER_BYTES, answer_bytes, read_experts

SHAPE = ExpertShape(layers=3, active=2, count=8, routed=(0, 1, 2))


def draw(tokens: int, shape: ExpertShape = SHAPE, dtype: str = "u1", seed: int = 0) -> np.ndarray:
    """Experts that differ within each layer of a token."""
    dice = np.random.default_rng(seed)
    ranks = dice.random((tokens, shape.layers, shape.count)).argsort(axis=2)
    return ranks[..., : shape.active].astype(dtype)


@given(
    tokens=st.integers(1, 40),
    layers=st.integers(1, 5),
    active=st.integers(1, 8),
    spare=st.integers(0, 300),
    dtype=st.sampled_from(["u1", "u2", "i4"]),
    seed=st.integers(0, 2**32),
)
def test_what_a_server_writes_is_read(tokens: int, layers: int, active: int, spare: int, dtype: str, seed: int) -> None:
    shape = ExpertShape(layers, active, min(active + spare, 256 if dtype == "u1" else 2**15), tuple(range(layers)))
    made = draw(tokens, shape, dtype, seed)
    text = written(made)
    found = read_experts(text, tokens, shape)
    assert found.dtype == np.int16
    assert (found == made).all()
    assert len(text) <= tokens * answer_bytes(shape) + 4 * HEADER_BYTES


def test_a_file_that_vllm_wrote_is_read() -> None:
    """Answer of `numpy2base64` of vLLM 0.32.0 for three tokens of a model with two layers and two of four experts."""
    text = (
        "k05VTVBZAQB2AHsnZGVzY3InOiAnfHUxJywgJ2ZvcnRyYW5fb3JkZXInOiBGYWxzZSwgJ3NoYXBlJzogKDMsIDIsIDIpLCB9ICAgICAgICAgICAg"
        "ICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIAoAAwIBAQMAAwMAAQI="
    )
    found = read_experts(text, 3, ExpertShape(2, 2, 4, (0, 1)))
    assert found.tolist() == [[[0, 3], [2, 1]], [[1, 3], [0, 3]], [[3, 0], [1, 2]]]


def test_what_stands_at_dense_layers_is_left_out() -> None:
    """vLLM 0.32 has places for all layers, and leaves zeros where no router chose."""
    shape = replace(SHAPE, routed=(0, 2))
    made = draw(5)
    made[:, 1] = 0
    assert (read_experts(written(made), 5, shape) == made[:, [0, 2]]).all()
    with pytest.raises(NonsenseError, match="one expert twice"):
        read_experts(written(made), 5, SHAPE)


def cut(text: str, by: int) -> str:
    return b64encode(b64decode(text)[:-by]).decode()


def with_header(header: str, body: bytes) -> str:
    text = header.encode()
    return b64encode(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body).decode()


GOOD = draw(4)
TWICE = GOOD.copy()
TWICE[2, 1, 1] = TWICE[2, 1, 0]
DICTIONARY = "{{'descr': '{}', 'fortran_order': {}, 'shape': {}, }}"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "no experts: it must be started with --enable-return-routed-experts"),
        (7, "no experts"),
        ("", "magic"),
        ("?", "base64|padding"),
        ("é", "ASCII"),
        (b64encode(b"PK\x03\x04" + bytes(40)).decode(), "magic"),
        (b64encode(b"\x93NUMPY\x02\x00" + bytes(40)).decode(), "another version"),
        (written(GOOD[:3]), r"shape \(3, 3, 2\) instead of \(4, 3, 2\)"),
        (written(GOOD[:, :2]), "shape"),
        (written(GOOD.ravel()), "shape"),
        (written(np.asfortranarray(GOOD)), "shape"),
        (written(GOOD.astype("f4")), "as float32"),
        (written(GOOD.astype(">u2")), "as >u2"),
        (written(GOOD.astype("i8")), "as int64"),
        (written(GOOD + 1), "outside the layer's 8"),
        (written(GOOD.astype("i4") - 1), "outside the layer's 8"),
        (written(TWICE), "a token with one expert twice"),
        (written(np.zeros_like(GOOD)), "a token with one expert twice"),
        (cut(written(GOOD), 1), "in 23 bytes"),
        (cut(written(GOOD), 60), "header|EOF|read"),
        (with_header(DICTIONARY.format("|u1", False, "(4, 3, 2)"), bytes(25)), "in 25 bytes"),
        (with_header(DICTIONARY.format("|O", False, "(4, 3, 2)"), bytes(192)), "as object"),
        (with_header(DICTIONARY.format("|u1", False, "(4000000000000, 3, 2)"), bytes(24)), "shape"),
        (with_header(DICTIONARY.format("|u1", False, "__import__('os')"), bytes(24)), "."),
        (with_header("-" * 200 + "1", bytes(24)), "."),
        (with_header("[" * 60_000, bytes(24)), "large"),
    ],
)
def test_anything_else_is_refused(text: Any, fault: str) -> None:
    with pytest.raises((NonsenseError, ValueError), match=fault):
        read_experts(text, 4, SHAPE)


def read(answer: dict[str, Any]) -> list[Sample]:
    asked = replace(EXPECTED, prompt_tokens=5, experts=SHAPE)
    return read_samples(json.dumps(answer).encode(), asked)


def test_each_sample_has_those_of_its_prompt_and_response() -> None:
    answer = good()
    for choice in answer["choices"]:
        choice["routed_experts"] = written(draw(4 + len(choice["token_ids"]), seed=choice["index"]))
    for index, sample in enumerate(read(answer)):
        assert sample.experts is not None
        assert (sample.experts == draw(4 + len(sample.ids), seed=index)).all()
    answer["choices"][0]["routed_experts"] = written(draw(6, seed=1).astype("f8"))
    with pytest.raises(NonsenseError, match="as float64"):
        read(answer)
    for missing in (answer, good()):
        missing["choices"][0].pop("routed_experts", None)
        with pytest.raises(NonsenseError):
            read(missing)


def test_nobody_reads_what_nobody_asked_for() -> None:
    answer = good()
    answer["choices"][0]["routed_experts"] = "nonsense"
    assert all(sample.experts is None for sample in read_samples(json.dumps(answer).encode(), EXPECTED))


@given(st.binary(max_size=400))
def test_any_bytes_are_either_experts_or_refused(content: bytes) -> None:
    with pytest.raises((NonsenseError, ValueError)):
        read_experts(b64encode(b"\x93NUMPY\x01\x00" + content).decode(), 4, SHAPE)
