"""Worth of the problems that a policy wrote: whether answers are right, from which contexts, and how new."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

from fastsvs.data import tiny
from fastsvs.selfplay import SYNTHESIS, VARIANT

Sample = Mapping[str, Any]
"""A line of a run's samples."""
_read = cache(tiny.read_problem)


@dataclass(frozen=True, slots=True)
class Written:
    """One variant that was solved."""

    question: str
    right: bool
    """True where the answer that it inherits is its own."""
    sound: bool
    """True where the steps of its context are those of the original problem."""
    same: bool
    """True where it tells the computation of the original problem."""
    computation: tiny.Computation | None


def written(samples: Iterable[Sample]) -> Iterator[Written]:
    """Yield the variants in the samples of one step."""
    rows = {row["key"]: row for row in samples}
    for row in rows.values():
        if row["kind"] != VARIANT:
            continue
        synthesis = rows[row["parent"]]
        original, computation = rows[synthesis["parent"]], _read(row["question"])
        yield Written(
            question=row["question"],
            right=computation is not None and str(tiny.solve(row["question"])) == row["answer"],
            sound=_has_sound_context(synthesis, rows),
            same=computation is not None and computation == _read(original["question"]),
            computation=computation,
        )


def are_sound(samples: Iterable[Sample]) -> list[bool]:
    """Return for each context in the samples of one step whether its steps are those of its problem."""
    rows = {row["key"]: row for row in samples}
    return [_has_sound_context(row, rows) for row in rows.values() if row["kind"] == SYNTHESIS]


def _has_sound_context(synthesis: Sample, rows: Mapping[str, Sample]) -> bool:
    original = rows[synthesis["parent"]]
    return is_sound(original["question"], original["responses"][synthesis["parent_sample"]])


def is_sound(question: str, response: str) -> bool:
    """Return whether the lines of a response are the steps of the problem, with their results."""
    computation = _read(question)
    if computation is None:
        return False
    before = [computation.start, *computation.values()]
    steps = zip(before, computation.steps, before[1:], strict=False)
    expected = [f"{value}{operation}{operand}={result}" for value, (operation, operand), result in steps]
    return re.findall(r"\d+[-+*/]\d+=\d+", response) == expected


def worth(variants: Sequence[Written], known: set[tiny.Computation], seen: set[str]) -> dict[str, float]:
    """Return the shares that `WRITTEN` names, of those that there are variants for. `known` are the computations of the
    training problems, `seen` the questions before; those of the variants are added to it."""
    found = {
        "right": [each.right for each in variants],
        "sound": [each.sound for each in variants],
        "right, sound": [each.right for each in variants if each.sound],
        "right, lucky": [each.right for each in variants if not each.sound],
        "same": [each.same for each in variants],
        "other": [each.computation is not None and each.computation not in known for each in variants],
        "new": [_is_new(each.question, seen) for each in variants],
    }
    return {name: fmean(values) for name, values in found.items() if values}


def _is_new(question: str, seen: set[str]) -> bool:
    new = question not in seen
    seen.add(question)
    return new
