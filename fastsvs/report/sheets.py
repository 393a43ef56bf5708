"""Sheets: what one model answered to the problems of one set, from the evaluations of a run and from `fastsvs eval`.

Verdicts of all problems are on the page. Of a run's evaluations the first and the newest bring their responses too, of
as many problems as fit: first those whose tokens were kept, then others, taken evenly over the set.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastsvs.config import flatten
from fastsvs.majority import majority_at_k, votes
from fastsvs.report.families import RESPONSES_PER_STEP, VERDICTS, File, as_it_is, read_groups, scattered
from fastsvs.report.folder import RunFiles
from fastsvs.report.headline import Interval, by_k, interval
from fastsvs.report.notices import Notices
from fastsvs.report.tokens import MOST_TOKENS, TokenRow, fitting, for_page
from fastsvs.stored_evaluation import EvaluationLayout

OF_A_RUN = "held-out"
"""Name of the set that a run answers."""


@dataclass(frozen=True, slots=True)
class EvaluationFiles:
    """One folder of `fastsvs eval`."""

    path: Path
    config: dict[str, Any]
    """Values of config.yaml by dotted key."""
    environment: dict[str, Any]
    model: str
    figures: dict[str, dict[str, Any]]
    """Figures of each set that is done."""
    samples: dict[str, Path]
    """Files of answers, by set."""
    tokens: dict[str, Path]
    """Files of their tokens, by set; they need not be there."""
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """Contents of a file of answers, and of that of their tokens."""

    problems: list[dict[str, Any]]
    """Problems with verdicts, in the order of their keys. `block` is the number of the block that has the responses,
    or None where they did not fit; `majority` has the problem's own part of each maj@k, by k."""
    blocks: list[dict[str, list[str]]]
    """Responses by the key of the problem."""
    tokens: list[dict[str, dict[str, Any]]]
    """Rendered prompt and tokens of some problems of each block, by key."""
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    set: str
    label: str
    run: int | None
    """Index of the run that it belongs to; None for an evaluation's."""
    step: int | None
    rates: dict[str, Interval]
    """Shares with intervals as `pass@8`, pass@k first, by k; empty while the set is not done."""
    answers: Answers

    def facts(self) -> dict[str, Any]:
        """Return what the page's head says of it."""
        problems = self.answers.problems
        return {
            "set": self.set,
            "label": self.label,
            "run": self.run,
            "step": self.step,
            "rates": {name: [rate.mean, rate.low, rate.high] for name, rate in self.rates.items()},
            "problems": len(problems),
            "samples": max((len(problem["verdicts"]) for problem in problems), default=0),
            "responses": sum(len(texts) for block in self.answers.blocks for texts in block.values()),
            "of_responses": sum(len(problem["verdicts"]) for problem in problems),
            "notices": list(self.answers.notices),
        }


def read_evaluation(path: Path) -> EvaluationFiles:
    """Read a folder of `fastsvs eval`, with whatever of its files is there yet."""
    layout, notices = EvaluationLayout(path), Notices()
    return EvaluationFiles(
        path=path,
        config=flatten(notices.mapping(layout.config)),
        environment=notices.mapping(layout.environment),
        model=str(notices.mapping(layout.model).get("path", "")),
        figures={name: notices.finite(notices.mapping(file), file) for name, file in _figures(layout)},
        samples={name: layout.samples(name) for name in layout.sets()},
        tokens={name: layout.tokens(name) for name in layout.sets()},
        notices=tuple(notices.lines()),
    )


def sheets_of_run(run: RunFiles, index: int, name: str, limit: int) -> list[Sheet]:
    """Return a sheet for each evaluation of the run; the first and the newest hold `limit` responses together."""
    steps = list(run.answers)
    with_texts = {*steps[:1], *steps[-1:]}
    shares = _shares(limit, len(with_texts))
    return [
        Sheet(
            set=OF_A_RUN,
            label=f"{name}, step {step}",
            run=index,
            step=step,
            rates=_rates(figures),
            answers=_read(
                as_it_is(file),
                as_it_is(run.answer_tokens.get(step)),
                *((*shares, _majorities(figures)) if step in with_texts else (0, 0, ())),
            ),
        )
        for step, file in run.answers.items()
        for figures in [run.evaluations.get(step, {})]
    ]


def sheets_of_evaluation(evaluation: EvaluationFiles, name: str, limit: int) -> list[Sheet]:
    """Return a sheet for each set, which hold `limit` responses together."""
    shares = _shares(limit, len(evaluation.samples))
    return [
        Sheet(
            set_name,
            name,
            None,
            None,
            _rates(figures),
            _read(as_it_is(file), as_it_is(evaluation.tokens[set_name]), *shares, _majorities(figures)),
        )
        for set_name, file in evaluation.samples.items()
        for figures in [evaluation.figures.get(set_name, {})]
    ]


def _shares(limit: int, count: int) -> tuple[int, int]:
    """Return how many responses and how many tokens each of `count` sheets may hold."""
    return limit // max(1, count), MOST_TOKENS // max(1, count)


def _figures(layout: EvaluationLayout) -> Iterator[tuple[str, Path]]:
    return ((name, layout.figures(name)) for name in layout.sets() if layout.figures(name).is_file())


def _rates(figures: Mapping[str, Any]) -> dict[str, Interval]:
    found = {name: rate for name in sorted(figures, key=by_k) if (rate := interval(figures[name])) is not None}
    return {name: rate for name, rate in found.items() if "@" in name}


def _majorities(figures: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the k of each maj@k among the figures."""
    found = (re.fullmatch(r"maj@([1-9][0-9]{0,8})", name) for name in _rates(figures))
    return tuple(int(match[1]) for match in found if match)


@lru_cache(maxsize=256)  # as a step's samples, an evaluation is written once
def _read(samples: File, kept: File, limit: int, token_room: int, majorities: tuple[int, ...]) -> Answers:
    notices = Notices()
    rows = sorted(read_groups(samples, notices), key=lambda row: str(row.get("key", "")))
    logged = {row["key"]: row for row in read_groups(kept, notices, TokenRow)} if limit else {}
    chosen = list(_fitting(rows, limit, logged))
    with_tokens = [logged[key] for index in chosen if (key := rows[index].get("key")) in logged]
    tokens = {row["key"]: for_page(row) for row in fitting([[row] for row in with_tokens], token_room)}
    block_of: dict[int, int] = {}
    blocks: list[dict[str, list[str]]] = []
    held = 0
    for index in sorted(chosen):
        texts = list(rows[index].get("responses", ()))
        if not blocks or held + len(texts) > RESPONSES_PER_STEP:
            blocks.append({})
            held = 0
        blocks[-1][str(rows[index].get("key", ""))] = texts
        block_of[index], held = len(blocks) - 1, held + len(texts)
    return Answers(
        [
            _problem(row, block_of.get(index), _majority(row, majorities, index), tokens)
            for index, row in enumerate(rows)
        ],
        blocks,
        [{key: tokens[key] for key in block if key in tokens} for block in blocks],
        tuple(notices.lines()),
    )


def _majority(row: Mapping[str, Any], ks: Sequence[int], index: int) -> dict[str, float]:
    """Return the problem's part of maj@k, by k, as the figures of its set count it; for each k that it has samples
    for."""
    responses, verdicts = row.get("responses", ()), row.get("verdicts", ())
    if not ks or len(responses) != len(verdicts):
        return {}
    ballot = votes(responses, verdicts)
    return {str(k): round(majority_at_k(ballot, k, seed=index), 6) for k in ks if k <= ballot.samples}


def _fitting(rows: Sequence[Mapping[str, Any]], limit: int, logged: Collection[str]) -> Iterator[int]:
    """Yield the rows whose responses fit within the limit, those of `logged` keys first, evenly over the set."""
    for index in sorted(scattered(list(range(len(rows)))), key=lambda index: rows[index].get("key") not in logged):
        limit -= len(rows[index].get("responses", ()))
        if limit < 0:
            return
        yield index


def _problem(
    row: Mapping[str, Any], block: int | None, majority: Mapping[str, float], tokens: Collection[str]
) -> dict[str, Any]:
    return {
        "key": str(row.get("key", "")),
        "id": str(row.get("id", "")),
        "question": str(row.get("question", "")),
        "answer": str(row.get("answer", "")),
        "verdicts": "".join(VERDICTS.get(str(verdict), "u") for verdict in row.get("verdicts", ())),
        "tokens": list(row.get("tokens", ())),
        "cut": [index for index, reason in enumerate(row.get("finish", ())) if reason == "length"],
        "block": block,
        "majority": majority,
        "logged": row.get("key") in tokens,
    }
