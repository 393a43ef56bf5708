"""What a step's samples say, on a step made by hand."""

from math import log
from typing import Any

import pytest

from fastsvs.dynamics import sample_figures
from fastsvs.dynamics.samples import distinct_grams, novelty


def row(key: str, kind: str, question: str, responses: list[str], verdicts: list[str], **more: Any) -> dict[str, Any]:
    blank = {"parent": None, "parent_sample": None, "rewards": [0.0] * len(responses)}
    return {"key": key, "kind": kind, "question": question, "responses": responses, "verdicts": verdicts} | blank | more


SOURCE = "Tom has 3 red apples and buys 2 more"
STEP = [
    row("0", "original", SOURCE, [r"\boxed{5}", r"\boxed{5}", r"\boxed{6}", "none"], ["correct"] * 2 + ["wrong"] * 2),
    row("1", "original", "1+1?", [r"\boxed{3}"] * 4, ["wrong"] * 4),
    row("0/0", "synthesis", SOURCE, ["a", "b", "c", "d"], [], parent="0", rewards=[1.0, 0.0, 0.0, 0.0]),
    row("0/0/0", "variant", "Ann has 3 red apples and finds 2", [r"\boxed{5}", "?"], ["correct", "wrong"], parent="0/0",
        parent_sample=0),
    row("0/0/1", "variant", "1+1?", [r"\boxed{5}", r"\boxed{5}"], ["correct"] * 2, parent="0/0", parent_sample=1),
]  # fmt: skip


def test_a_step() -> None:
    figures = sample_figures(STEP)
    assert (figures["solved/original/0"], figures["solved/original/2"]) == (1, 1)
    assert (figures["solved/variant/1"], figures["solved/variant/2"]) == (1, 1)
    assert "solved/original/4" not in figures
    assert figures["distinct_answers/original"] == (2 / 4 + 1 / 4) / 2
    votes = [2 / 3, 1 / 3]
    assert figures["answer_entropy/original"] == pytest.approx(-sum(p * log(p) for p in votes) / 2)
    assert figures["question_words/original"] == (9 + 1) / 2
    assert figures["variants_valid"] == 2 / 4
    assert figures["variants_positive"] == 1 / 2
    assert figures["variants_new"] == 1 / 2  # "1+1?" is a problem of the step
    assert figures["variant_novelty"] == (3 / 6 + 0) / 2  # "1+1?" has no 3-gram at all
    assert "solved/synthesis/0" not in figures


def test_a_step_without_self_play() -> None:
    figures = sample_figures(STEP[:2])
    assert not [name for name in figures if "variant" in name or "synthesis" in name]
    assert sample_figures([]) == {}


def test_n_grams() -> None:
    assert distinct_grams(["a b c d", "a b c d", "a b c e"]) == 2 / 3
    assert distinct_grams(["a b"]) == 1.0
    assert novelty("One two three four", "one TWO  three five") == 1 / 2
    assert novelty(SOURCE, SOURCE) == 0.0
