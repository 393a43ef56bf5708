"""An answer that is not exactly what was asked for is refused, whatever is wrong with it."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from answers import EXPECTED, choice, good
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.client import AbortedError, Expected, NonsenseError, Sample, read_samples


def read(answer: Any, expected: Expected = EXPECTED) -> list[Sample]:
    return read_samples(json.dumps(answer).encode(), expected)


def test_a_server_that_loaded_its_weights_itself_names_no_version() -> None:
    answer = good()
    for made in answer["choices"]:
        made["weight_versions"] = [{"version": "default", "start": 0, "end": len(made["token_ids"])}]
    samples = read(answer, replace(EXPECTED, own_weights=True))
    assert [(sample.version, sample.mixed) for sample in samples] == [(7, False)] * 2
    with pytest.raises(NonsenseError):  # one that was to get ours, and has none
        read(answer)


def test_a_good_answer_is_read_in_sample_order() -> None:
    first, second = read(good())
    assert (first.ids.tolist(), first.logprobs.tolist(), first.finish_reason) == (
        [1, 2, 3],
        [-1.5, -2.5, -3.5],
        "length",
    )
    assert (first.version, first.mixed) == (8, False)
    assert (second.ids.tolist(), second.finish_reason) == ([4, 9], "stop")
    assert (second.version, second.mixed) == (7, True)


def test_rounding_above_zero_is_zero() -> None:
    answer = good()
    answer["choices"][0]["logprobs"]["content"][0]["logprob"] = 1e-6
    assert read(answer)[1].logprobs[0] == 0.0


def set_first(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda answer: answer["choices"][1].update(changes)


def set_logprob(value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda answer: answer["choices"][1]["logprobs"]["content"][0].update(logprob=value)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda answer: answer["choices"].pop(), "number of samples"),
        (lambda answer: answer["choices"].append(answer["choices"][0]), "number of samples"),
        (set_first(index=1), "number of samples"),
        (set_first(token_ids=[], logprobs={"content": []}), "empty response"),
        (set_first(token_ids=[1, 2, 20]), "outside the vocabulary"),
        (set_first(token_ids=[1, 2, -1]), "outside the vocabulary"),
        (set_first(token_ids=[1, 2, 3.0]), "outside the vocabulary"),
        (set_first(token_ids=[1, 2, True]), "outside the vocabulary"),
        (set_first(token_ids=[1, 2, 4]), "other tokens"),
        (set_first(token_ids=[1, 2]), "other tokens"),
        (set_first(**choice(0, [1, 2], "length", [("8", 0, 2)])), "ends by 'length' at 2"),
        (set_first(**choice(0, [1, 2, 3, 4], "length", [("8", 0, 4)])), "ends by 'length' at 4"),
        (set_first(**choice(0, [1, 2, 3, 9], "stop", [("8", 0, 4)])), "over its limit"),
        (set_first(**choice(0, [1, 9, 3], "length", [("8", 0, 3)])), "after the end of sequence"),
        (set_first(finish_reason="stop"), "ends by 'stop'"),
        (set_first(finish_reason=None), "ends by None"),
        (set_first(logprobs=None), "unreadable"),
        (set_first(weight_versions=None), "unreadable"),
        (set_first(weight_versions=[]), "with gaps"),
        (set_first(weight_versions=[{"version": "8", "start": 0, "end": 2}]), "with gaps"),
        (set_first(weight_versions=[{"version": "default", "start": 0, "end": 3}]), "unreadable"),
        (set_first(weight_versions=[{"version": "6", "start": 0, "end": 3}]), "weights 6 instead of 7"),
        (set_logprob(math.nan), "no numbers"),
        (set_logprob(math.inf), "no numbers"),
        (set_logprob("-1"), "no numbers"),
        (set_logprob(None), "no numbers"),
        (set_logprob(0.5), "above 0"),
        (set_logprob(True), "no numbers"),
        (set_logprob(10**400), "no numbers|unreadable"),
        (set_first(token_ids=[1, 2, 10**30]), "outside the vocabulary"),
        (set_first(token_ids={"1": 2}), "outside the vocabulary"),
    ],
)
def test_every_field_is_checked(spoil: Callable[[dict[str, Any]], None], fault: str) -> None:
    answer = copy.deepcopy(good())
    spoil(answer)
    with pytest.raises(NonsenseError, match=fault):
        read(answer)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["choices", "index", "token_ids", "logprobs", "x"]), inner)
        ),
    )
)
def test_any_json_is_either_data_or_nonsense(answer: Any) -> None:
    with pytest.raises(NonsenseError):
        read(answer)


@pytest.mark.parametrize("text", [b"", b"<html>", b"{", b'{"choices": [\xff]}', b"[" * 100_000])
def test_what_is_no_json_is_told_by_its_beginning(text: bytes) -> None:
    with pytest.raises(NonsenseError, match="did not answer with JSON"):
        read_samples(text, EXPECTED)


def test_an_aborted_sample_is_neither() -> None:
    answer = good()
    answer["choices"][0] = choice(1, [4], "abort", [("7", 0, 1)])
    with pytest.raises(AbortedError):
        read(answer)


def test_logits_that_are_not_finite_are_the_models_fault() -> None:
    answer = good()
    set_logprob(-9999.0)(answer)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        read(answer)
