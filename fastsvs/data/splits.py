"""Splits in the names of files, after the conventions of the hub: `train.jsonl`, `data/test-00000-of-00001.parquet`,
`validation/part1.csv`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from fastsvs.errors import UserError

_WORDS = {
    "train": ("train", "training", "trainset"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "testset", "eval", "evaluation", "heldout", "holdout"),
}
"""Splits, and the words in a name that tell them."""
_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}")


def split_of(name: str) -> str | None:
    """Return `train`, `validation` or `test`, as the path `name` says it in its last part that does, or None."""
    for part in reversed(PurePosixPath(name).parts):
        words = set(re.findall(r"[a-z]+", part.lower()))
        for split in ("test", "validation", "train"):
            if words & set(_WORDS[split]):
                return split
    return None


def choose(names: Sequence[str], split: str, where: str) -> tuple[list[str], list[str]]:
    """Return those of `names` (paths of files without suffixes) that belong to `split`, or to one of several as in
    `train+validation`, and lines about the others. Where no name tells a split, all belong.

    Raises UserError where names tell splits and none is the wanted one.
    """
    wanted = split.split("+")
    chosen = [name for name in names if any(_belongs(name, part.strip()) for part in wanted)]
    others = [name for name in names if name not in chosen]
    if chosen:
        lines = [f"split={split}: {len(others):,} of {len(names):,} files are not read: {_some(others)}"]
        return chosen, lines if others else []
    if all(_standard(part.strip()) for part in wanted) and not any(map(split_of, names)):
        return list(names), []
    found = ", ".join(f"{name} ({split_of(name) or 'no split'})" for name in names[:8])
    raise UserError(
        f"{where} has no file of split={split}: its files are {found}{', ...' if len(names) > 8 else ''}; set "
        "data.split (evaluation.split for held-out problems), or name the file itself as the path"
    )


def _belongs(name: str, split: str) -> bool:
    standard = _standard(split)
    if standard:
        return split_of(name) == standard
    shard = _SHARD.fullmatch(PurePosixPath(name).name)
    return split in (*PurePosixPath(name).parts, shard and shard["split"])


def _standard(split: str) -> str | None:
    return next((name for name, words in _WORDS.items() if split.lower() in words), None)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
