"""Figures of difficulty, of diversity and of the problems that the policy makes up, from a step's samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import log
from statistics import fmean
from typing import Any

from fastsvs.majority import votes

Row = Mapping[str, Any]
"""One group: an object of samples/step_N.jsonl."""
ANSWER_GRAM, QUESTION_GRAM = 4, 3
"""Number of words in the n-grams by which responses, and problems, are compared."""


def sample_figures(rows: Sequence[Row]) -> dict[str, float]:
    """Return figures of one step's groups.

    `solved/<kind>/<c>` is the number of groups with c correct responses. `distinct_answers/<kind>`,
    `answer_entropy/<kind>` (nats), `distinct_text/<kind>` and `question_words/<kind>` are means over groups. For
    `variants_valid`, `variants_positive`, `variants_new` and `variant_novelty` see docs/dynamics.md.
    """
    figures: dict[str, float] = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        groups = [row for row in rows if row["kind"] == kind]
        figures[f"distinct_text/{kind}"] = fmean(distinct_grams(row["responses"]) for row in groups)
        checked = [row for row in groups if row["verdicts"]]
        if not checked:
            continue
        figures[f"question_words/{kind}"] = fmean(len(row["question"].split()) for row in checked)
        ballots = [votes(row["responses"], row["verdicts"]) for row in checked]
        figures[f"distinct_answers/{kind}"] = fmean(ballot.distinct / ballot.samples for ballot in ballots)
        figures[f"answer_entropy/{kind}"] = fmean(_entropy((ballot.correct, *ballot.wrong)) for ballot in ballots)
        solved = Counter(ballot.correct for ballot in ballots)
        figures |= {f"solved/{kind}/{correct}": solved[correct] for correct in sorted(solved)}
    return figures | _synthesis_figures(rows)


def distinct_grams(texts: Iterable[str], size: int = ANSWER_GRAM) -> float:
    """Return the number of different n-grams of words over the number of all n-grams of the texts (distinct-n, Li et
    al. 2016, arXiv 1510.03055). It is 1 when the texts are too short to have any."""
    grams = [gram for text in texts for gram in _grams(text, size)]
    return len(set(grams)) / len(grams) if grams else 1.0


def novelty(question: str, source: str) -> float:
    """Return 1 - the share of the question's word 3-grams that the source has too: 0 for a copy, 1 for other words."""
    grams = set(_grams(_plain(question), QUESTION_GRAM))
    return 1 - len(grams & set(_grams(_plain(source), QUESTION_GRAM))) / len(grams) if grams else 0.0


def _synthesis_figures(rows: Sequence[Row]) -> dict[str, float]:
    """Return shares of the synthesis responses, or no figures when there are none."""
    by_key = {row["key"]: row for row in rows}
    synthesis = [row for row in rows if row["kind"] == "synthesis"]
    asked = sum(len(row["responses"]) for row in synthesis)
    variants = [row for row in rows if row["kind"] == "variant"]
    if not asked:
        return {}
    figures = {"variants_valid": len(variants) / asked}
    if variants:
        sources = [by_key[by_key[row["parent"]]["parent"]]["question"] for row in variants]
        times = Counter(_plain(row["question"]) for row in rows if row["kind"] != "synthesis")
        rewards = [by_key[row["parent"]]["rewards"][row["parent_sample"]] for row in variants]
        figures["variants_positive"] = fmean(reward == 1.0 for reward in rewards)
        figures["variants_new"] = fmean(times[_plain(row["question"])] == 1 for row in variants)
        figures["variant_novelty"] = fmean(
            novelty(row["question"], source) for row, source in zip(variants, sources, strict=True)
        )
    return figures


def _grams(text: str, size: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _entropy(counts: Sequence[int]) -> float:
    total = sum(counts)
    return -sum(count / total * log(count / total) for count in counts if count) if total else 0.0
