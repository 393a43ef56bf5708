"""Choice of the responses that a page shows: all of a run, or whole families spread evenly over its steps.

A family is an original problem with everything that self-play made of it: the contexts, the problems written from them,
and their solutions. Keys of a family begin with the key of its original.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from fastsvs.report.folder import RunFiles
from fastsvs.report.notices import Notices, total
from fastsvs.report.tokens import MOST_TOKENS, TokenRow, fitting, for_page

RESPONSES_PER_STEP = 250
"""Number of responses that each shown step has room for, a few families, when not all responses fit on the page."""
VERDICTS = {"correct": "c", "wrong": "w", "unverified": "u"}


class GroupRow(BaseModel):
    """Types that the page needs of the values in a row of a samples file, where they are there."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    parent: str | None = None
    parent_sample: int | None = None
    responses: list[str] = []
    verdicts: list[str] = []
    rewards: list[float] = []
    tokens: list[int] = []
    finish: list[str] = []
    rejections: list[str | None] = []


@dataclass(frozen=True, slots=True)
class StepSamples:
    """Groups of one step, parents before their children."""

    step: int
    groups: list[dict[str, Any]]
    """Rows of the samples file without their responses, which are `texts`."""
    texts: list[list[str]]
    tokens: dict[str, dict[str, Any]]
    """Rendered prompt and tokens of some groups, by key."""
    notices: list[str]
    """Lines about what of the file was left out."""


@dataclass(frozen=True, slots=True)
class Included:
    """Numbers of responses and steps that a page shows, and that the run has."""

    responses: int
    of_responses: int
    steps: int
    of_steps: int
    with_tokens: int
    """Number of the responses shown whose tokens are there, too."""


def choose(run: RunFiles, limit: int) -> tuple[list[StepSamples], Included]:
    """Choose at most `limit` responses (but one family at least) of the run, in whole families, evenly over its
    steps."""
    counts = {step: _responses(run, step) for step in run.samples}
    of_all = sum(counts.values())
    everything = of_all <= limit
    steps = list(counts) if everything else spread(list(counts), max(1, limit // RESPONSES_PER_STEP))
    share = None if everything else limit // len(steps)
    token_room = MOST_TOKENS >> (len(steps) - 1).bit_length()  # seldom another one, so that no file is read again
    chosen = [
        _read_step(step, as_it_is(run.samples[step]), as_it_is(run.tokens.get(step)), share, token_room)
        for step in sorted(steps)
    ]
    shown = sum(len(texts) for samples in chosen for texts in samples.texts)
    with_tokens = sum(len(group["texts"]) for samples in chosen for group in samples.tokens.values())
    return chosen, Included(shown, max(of_all, shown), len(chosen), len(counts), with_tokens)


def spread(items: list[Any], count: int) -> list[Any]:
    """Return `count` of the items at even distances, with the first and the last; only the last for a count of 1."""
    if count >= len(items):
        return items
    if count == 1:
        return items[-1:]
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


@lru_cache(maxsize=256)  # a server reads again whenever a file changes, and a step's files do not
def _read_step(step: int, samples: File, tokens: File, limit: int | None, token_room: int) -> StepSamples:
    """Read whole families up to `limit` responses, one family at least: first those whose tokens were kept, which are
    chosen at random as it is, then others, taken evenly over the file."""
    notices = Notices()
    families = _by_family(read_groups(samples, notices))
    logged = _by_family(read_groups(tokens, notices, TokenRow))
    sizes = {key: sum(len(row.get("responses", ())) for row in rows) for key, rows in families.items()}
    kept: list[str] = []
    room = sum(sizes.values()) if limit is None else limit
    for key in sorted(scattered(sorted(families)), key=lambda key: key not in logged):
        if kept and sizes[key] > room:
            break
        kept.append(key)
        room -= sizes[key]
    rows = sorted((row for key in kept for row in families[key]), key=lambda row: str(row.get("key", "")))
    found = {row["key"]: for_page(row) for row in fitting([logged[key] for key in kept if key in logged], token_room)}
    texts = [list(row.get("responses", ())) for row in rows]
    return StepSamples(step, [_group(row, found) for row in rows], texts, found, notices.lines())


def _by_family(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    families: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault(str(row.get("key", "")).split("/")[0], []).append(row)
    return families


def read_groups(file: File, notices: Notices, types: type[BaseModel] = GroupRow) -> Iterator[dict[str, Any]]:
    """Yield the groups in a file of samples that have these types: texts and finite numbers alone."""
    path, _ = file
    if path is None:
        return
    for row in notices.rows(path):
        try:
            types.model_validate(row)
        except ValidationError as error:
            fault = error.errors()[0]
            where, found = ".".join(map(str, fault["loc"])), str(fault["input"])[:80]
            notices.say(
                path,
                "groups",
                f"{path}: group {str(row.get('key'))[:80]!r}: {where}: {fault['msg']}, found {found}; mend or remove "
                "the line, and look at what wrote it",
            )
        else:
            yield row


File = tuple[Path | None, tuple[int, int]]
"""File and what changes with it; None where there is no file."""


def as_it_is(path: Path | None) -> File:
    return path, _file_state(path) if path else (0, 0)


def _file_state(path: Path) -> tuple[int, int]:
    """Return what changes with the file: its modification time and size, or zeros when it is gone."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def scattered(items: list[Any]) -> Iterator[Any]:
    """Yield all items, ordered so that any beginning of them lies evenly over the list (van der Corput's sequence)."""
    yield from (items[index] for index in sorted(range(len(items)), key=_reversed_bits))


def _reversed_bits(index: int) -> float:
    return int(f"{index:b}"[::-1], 2) / 2 ** index.bit_length() if index else 0.0


def _group(row: Mapping[str, Any], tokens: Collection[str]) -> dict[str, Any]:
    """Return what lists and filters of the page need, with the verdicts as one letter for each response. `tokens` has
    the keys of the groups whose tokens the page has."""
    return {
        "key": str(row.get("key", "")),
        "kind": str(row.get("kind", "original")),
        "parent": row.get("parent"),
        "sample": row.get("parent_sample"),
        "problem": str(row.get("problem", "")),
        "question": str(row.get("question", "")),
        "answer": str(row.get("answer", "")),
        "verdicts": "".join(VERDICTS.get(str(verdict), "u") for verdict in row.get("verdicts", ())),
        "rewards": list(row.get("rewards", ())),
        "tokens": list(row.get("tokens", ())),
        "cut": [index for index, reason in enumerate(row.get("finish", ())) if reason == "length"],
        "rejections": list(row.get("rejections", ())),
        "trained": bool(row.get("trained")),
        "logged": str(row.get("key", "")) in tokens,
    }


def _responses(run: RunFiles, step: int) -> int:
    """Return the number of responses in the step's file: as its metrics count them, else as the file does."""
    row: Mapping[str, Any] = next((row for row in run.metrics if row["step"] == step), {})
    counted = total(value for name, value in row.items() if name.startswith("samples/"))
    if counted and counted > 0:
        return int(counted)
    return sum(len(group.get("responses", ())) for group in read_groups(as_it_is(run.samples[step]), Notices()))
