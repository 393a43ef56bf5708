"""A folder of runs, live: the list of all runs and evaluations in it, and the page of those that one opens from there.

`/` is the list, and `/open/NAME+NAME/` the page of these. A name is a folder's path from here with everything but
letters, digits and `-_.~` in percent codes; only names on the list are opened. Bytes of a path that are no UTF-8 stand
in its name as `\\xff`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fastsvs
from fastsvs.errors import UserError
from fastsvs.report.document import Document
from fastsvs.report.folder import read_run
from fastsvs.report.headline import headline
from fastsvs.report.page import live_page, pack
from fastsvs.report.runs import Answer, Runs, as_page, records, states
from fastsvs.report.sheets import read_evaluation
from fastsvs.stored_evaluation import is_evaluation
from fastsvs.stored_run import is_run

DEEPEST = 3
"""Largest number of folders between a shelf and a run."""
OPENED = 8
"""Number of pages whose documents are kept."""


class Shelf:
    """All runs and evaluations below a folder."""

    def __init__(self, root: Path, samples: int) -> None:
        self._root = root
        self._open = lru_cache(maxsize=OPENED)(lambda paths: Runs(list(paths), samples))

    def answer(self, path: str) -> Answer | None:
        """Return the content type and body of a known path, None for any other."""
        if path == "/":
            return as_page(live_page(Document(self.head(), [], {}, {}, [])))
        if path == "/data/head":
            return "application/octet-stream", pack(self.head())
        names, slash, rest = path.removeprefix("/open/").partition("/")
        chosen = [unquote(name) for name in names.split("+")]
        listed = folders(self._root)
        if not path.startswith("/open/") or not slash or not set(chosen) <= {*listed}:
            return None
        return self._open(tuple(listed[name] for name in chosen)).answer(f"/{rest}")

    def head(self) -> dict[str, Any]:
        """Return what the list says of each folder, the one that changed last first."""
        rows = [_told(name, path) for name, path in folders(self._root).items()]
        nothing: dict[str, Any] = {part: [] for part in ("arms", "runs", "evaluations", "sheets", "settings")}
        rows.sort(key=lambda row: (row["changed"], row["name"]), reverse=True)
        return {"version": fastsvs.__version__, **nothing, "root": str(self._root), "folders": rows}


def folders(root: Path) -> dict[str, Path]:
    """Return the runs and evaluations below a folder by their names. What lies within one is its own."""
    return {_name(path.relative_to(root)): path for path in _below(root, DEEPEST)}


def is_stored(path: Path) -> bool:
    """Return whether a folder holds a run or an evaluation."""
    return is_evaluation(path) or is_run(path)


def _name(path: Path) -> str:
    """Return a path as text that a page can hold and send back."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


def _below(folder: Path, deep: int) -> Iterator[Path]:
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:  # not ours to read
        return
    for path in inside:
        try:
            stored = is_stored(path)
        except OSError:  # nor what is in it
            continue
        if stored:
            yield path
        elif deep > 1:
            yield from _below(path, deep - 1)


State = tuple[tuple[str, int, int], ...]


def _state(path: Path) -> State:
    return tuple(states(file for file in records(path) if "samples" not in file.name and file.parent.name != "samples"))


def _told(name: str, path: Path) -> Mapping[str, Any]:
    """Return what the list says of a folder, or why it cannot be read: the others are listed all the same."""
    try:
        return _row(name, path, _state(path))
    except (UserError, OSError) as error:
        reason = {"kind": "cannot be read", "model": str(error), "progress": "", "finished": True}
        return {"name": name, "changed": 0, "date": "", **reason, "figure": "", "before": None, "after": None}


@lru_cache(maxsize=1024)
def _row(name: str, path: Path, state: State) -> Mapping[str, Any]:
    changed = max((time for _, time, _ in state), default=0)
    date = datetime.fromtimestamp(changed / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {
        "name": name,
        "changed": changed,
        "date": date,
        **(_evaluation(path) if is_evaluation(path) else _run(path)),
    }


def _run(path: Path) -> dict[str, Any]:
    run = read_run(path)
    told = headline(run)
    name, held_out = next(iter(told.held_out.items()), ("", None))
    return {
        "kind": run.method,
        "model": str(run.config.get("model.path", "")),
        "progress": f"{run.steps} of {run.planned_steps}" if run.planned_steps else str(run.steps),
        "finished": run.finished,
        "figure": name,
        "before": held_out.before.mean if held_out else None,
        "after": held_out.after.mean if held_out and held_out.after else None,
    }


def _evaluation(path: Path) -> dict[str, Any]:
    found = read_evaluation(path)
    return {
        "kind": "evaluation",
        "model": found.model,
        "progress": f"{len(found.figures)} of {len(found.samples)} sets",
        "finished": bool(found.samples) and len(found.figures) == len(found.samples),
        "figure": "",
        "before": None,
        "after": None,
    }
