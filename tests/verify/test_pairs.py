"""Pairs of right answers and answers of any spelling, with what is right: each line of pairs.jsonl is one right answer.

Answers stand in a box, unless the line says `"boxed": false`: then they are whole responses.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastsvs.verify.answers import final_answer
from fastsvs.verify.judge import judge
from fastsvs.verify.verdict import Verdict
from fastsvs.verify.verifier import compare

ROWS = [json.loads(line) for line in Path(__file__).with_name("pairs.jsonl").read_text(encoding="utf-8").splitlines()]
GIVEN = Path(__file__).resolve().parents[3] / "shared" / "cases" / "verifier.jsonl"
MEANINGS = {
    **{verdict: {verdict} for verdict in Verdict},
    "notcorrect": {Verdict.WRONG, Verdict.UNVERIFIED},
    "either": set(Verdict),
}


def verdict(response: str, gold: str) -> Verdict:
    """Return what the verifier says, without its processes."""
    answer = final_answer(response)
    return compare(answer, gold) or judge(answer, gold)


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['kind']}: {row['gold'][:30]}" for row in ROWS])
def test_pairs(row):
    for expected in Verdict:
        answers = row.get(expected, [])
        responses = [rf"So it is \boxed{{{answer}}}." if row.get("boxed", True) else answer for answer in answers]
        verdicts = {response: verdict(response, row["gold"]) for response in responses}
        assert verdicts == dict.fromkeys(responses, expected)


def test_there_are_pairs_of_both_kinds_for_each_kind_of_answer():
    for kind in {row["kind"] for row in ROWS} - {"unreadable golds"}:
        rows = [row for row in ROWS if row["kind"] == kind]
        assert any(row.get("correct") for row in rows)
        assert any(row.get("wrong") for row in rows)


def test_reported_pairs():
    """Pairs from public reports about other verifiers."""
    from fastsvs.data.answers import read_answer

    if not GIVEN.exists():
        pytest.skip(f"{GIVEN} is not here")
    rows = [json.loads(line) for line in GIVEN.read_text(encoding="utf-8").splitlines()]
    verdicts = {row["id"]: verdict(row["response"], read_answer(row["gold"], row["id"])[0]) for row in rows}
    assert {
        row["id"]: verdicts[row["id"]] for row in rows if verdicts[row["id"]] not in MEANINGS[row["expected"]]
    } == {}
    assert len(rows) > 200
