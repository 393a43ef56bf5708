"""Every figure of an evaluation on a case whose answers are known by hand."""

from __future__ import annotations

import pytest

from fastsvs.config import SamplingPlan
from fastsvs.evaluate import Answered, figures, show_comparison
from fastsvs.evaluate.published import compare, published

FIRST = Answered(
    key="000000",
    id="set/0",
    question="1+1?",
    answer="2",
    responses=[r"\boxed{2}", r"\boxed{2}", r"\boxed{3}", "?"],
    verdicts=["correct", "correct", "wrong", "unverified"],
    finish=["stop", "stop", "stop", "length"],
    tokens=[2, 4, 6, 8],
    logprobs=[-1.0, -2.0, -3.0, -4.0],
)
SECOND = Answered(
    key="000001",
    id="set/1",
    question="1+2?",
    answer="3",
    responses=[r"\boxed{4}"] * 4,
    verdicts=["wrong"] * 4,
    finish=["stop"] * 4,
    tokens=[5, 5, 5, 5],
    logprobs=[-2.5, -2.5, -2.5, -2.5],
)


def test_figures_of_two_problems() -> None:
    result = figures([FIRST, SECOND], SamplingPlan(samples=4, k=(1, 2, 4)))
    assert result["pass@1"]["mean"] == (2 / 4 + 0) / 2
    assert result["pass@2"]["mean"] == pytest.approx((1 - 1 / 6) / 2)  # C(2,2)/C(4,2) of the pairs are both wrong
    assert result["pass@4"]["mean"] == 0.5
    assert "maj@1" not in result
    assert result["maj@4"]["mean"] == 0.5
    assert (result["problems"], result["samples_per_problem"]) == (2, 4)
    assert result["response_tokens"] == (2 + 4 + 6 + 8 + 20) / 8
    assert result["truncated"] == 1 / 8
    assert result["unverified"] == 1 / 8
    assert result["distinct_answers"] == (2 / 4 + 1 / 4) / 2
    assert result["entropy_estimate"] == pytest.approx(20 / 40)
    low, high = result["pass@4"]["low"], result["pass@4"]["high"]
    assert (low, high) == (0.0, 1.0)  # of two problems, one solved


def test_rows_come_back() -> None:
    assert Answered.from_row(FIRST.as_row()) == FIRST


def test_published_averages_are_means_of_their_rows() -> None:
    rows, sources = published()
    assert {row.source for row in rows} == set(sources)
    full = [row for row in rows if row.values]
    assert len(full) == 28
    off = [row for row in full if abs(sum(row.values.values()) / len(row.values) - row.average) > 0.06]
    assert [(row.model, row.metric, row.average) for row in off] == [("Qwen2.5-32B-Instruct", "pass@1", 49.0)]


def test_our_row_stands_above_the_published_ones() -> None:
    rate = {"mean": 0.5, "low": 0.4, "high": 0.6}
    tables = compare("ours", {"aime24": {"pass@1": rate, "pass@32": rate}, "heldout": {"pass@1": rate}})
    assert [table.metric.partition(":")[0] for table in tables] == ["pass@1", "pass@32", "pass@1"]
    readme = tables[0]
    assert readme.sets[0] == "aime24"
    assert readme.rows[0] == ("ours", [50.0, None, None, None, None, None, None])
    assert ("32B: SvS, DAPO-17k", [39.3, 40.5, 19.2, 44.1, 21.8, 2.7, 27.9]) in readme.rows
    everything = {name: {"pass@1": rate} for name in readme.sets}
    assert compare("ours", everything)[0].rows[0] == ("ours", [50.0] * 7)
    assert compare("ours", {"heldout": {"pass@1": rate}}) == []


def test_the_cells_that_our_row_lacks_are_named(capsys) -> None:
    rate = {"mean": 0.5, "low": 0.4, "high": 0.6}
    results = {"aime24": {"pass@1": rate, "pass@32": rate}, "math24o": {"pass@1": rate}}
    few, many, nine = compare("ours", results)
    assert list(few.missing) == ["aime25", "beyond_aime", "olymmath_easy", "olymmath_hard"]
    assert set(few.missing.values()) == {"not evaluated"}
    assert many.rows[0] == ("ours", [50.0, None, None, None, None, None, None])
    assert many.missing["math24o"].startswith("no pass@32")
    assert len(nine.missing) == 8
    show_comparison("ours", results)
    shown = " ".join(capsys.readouterr().out.split())
    assert "missing in the row of ours: not evaluated: aime25, beyond_aime, olymmath_easy, olymmath_hard" in shown
    assert "too small: math24o" in shown
    show_comparison("ours", {name: {"pass@1": rate, "pass@32": rate} for row in published()[0] for name in row.values})
    assert "missing" not in capsys.readouterr().out
