"""The document of some folders, kept current, and the answers to what their page asks."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fastsvs.report.document import Document, build
from fastsvs.report.page import live_page, pack
from fastsvs.stored_evaluation import EvaluationLayout, is_evaluation
from fastsvs.stored_run import StoredRun

NUMBER = re.compile("[0-9]{1,400}")
"""Number of a run, step, sheet or block in a path: longer ones than a file's name has there are not."""
Answer = tuple[str, bytes]
"""Content type and body."""


class Runs:
    """The document of some folders, built again when their files have changed."""

    def __init__(self, paths: Sequence[Path], samples: int) -> None:
        self._paths, self._samples = paths, samples
        self._lock = threading.Lock()
        self._state: Any = None
        self._document = self.document()

    def document(self) -> Document:
        with self._lock:
            state = states(file for path in self._paths for file in records(path))
            if state != self._state:
                self._document = build(self._paths, self._samples)
                self._state = state
            return self._document

    def answer(self, path: str) -> Answer | None:
        """Return the content type and body of a known path, None for any other. Data are JSON under gzip."""
        document = self.document()
        if path == "/":
            return as_page(live_page(document))
        data = self._data(document, path.removeprefix("/data/").split("/")) if path.startswith("/data/") else None
        return None if data is None else ("application/octet-stream", pack(data))

    def _data(self, document: Document, names: Sequence[str]) -> Any:
        match names:
            case ["head"]:
                return document.head
            case ["groups", run] if NUMBER.fullmatch(run) and int(run) < len(document.groups):
                return document.groups[int(run)]
            case ["texts", run, step] if NUMBER.fullmatch(run) and NUMBER.fullmatch(step):
                return document.texts.get((int(run), int(step)))
            case ["tokens", run, step] if NUMBER.fullmatch(run) and NUMBER.fullmatch(step):
                return document.tokens.get((int(run), int(step)))
            case ["answers", sheet] if NUMBER.fullmatch(sheet) and int(sheet) < len(document.answers):
                return document.answers[int(sheet)].problems
            case ["responses" | "response_tokens" as kind, sheet, block] if (
                NUMBER.fullmatch(sheet) and NUMBER.fullmatch(block) and int(sheet) < len(document.answers)
            ):
                answers = document.answers[int(sheet)]
                blocks = answers.blocks if kind == "responses" else answers.tokens
                return blocks[int(block)] if int(block) < len(blocks) else None
        return None


def as_page(text: str) -> Answer:
    return "text/html; charset=utf-8", text.encode()


def records(path: Path) -> list[Path]:
    """Return the files that a folder's part of a document is built from."""
    return EvaluationLayout(path).records() if is_evaluation(path) else StoredRun(path).records()


def states(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return (path, modification time, size) of every file, to find out what changed."""
    found = []
    for file in files:
        try:
            state = file.stat()
        except OSError:  # replaced just now
            continue
        found.append((str(file), state.st_mtime_ns, state.st_size))
    return sorted(found)
