"""Problems from any source, with a report of what was kept and what was not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

from fastsvs.config import DataConfig
from fastsvs.data import tiny
from fastsvs.data.answers import read_answer, without_unit
from fastsvs.data.columns import SOURCE, Columns, Question, find_columns, pick, pick_text, read_question, unread_keys
from fastsvs.data.formats import Row
from fastsvs.data.records import Problem
from fastsvs.data.report import LoadReport
from fastsvs.data.sources import Table, read_tables
from fastsvs.errors import UserError

NO_PROBLEMS = "none"
"""Data path of a run whose stage makes its own tasks."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def load_problems(config: DataConfig) -> tuple[list[Problem], LoadReport]:
    """Load the problems at `config.path` in the order of its rows; ids are `<table>/<row>`.

    Rows without a question or an answer are left out and counted. Raises UserError for unreadable data, for columns
    that are not found, and when no problem is left.
    """
    if config.path.startswith(tiny.SCHEME):
        problems = tiny.problems(config.path, config.limit)
        return problems, LoadReport(config.path, rows=len(problems), kept=len(problems))
    tables, notes = read_tables(config.path, config.split)
    plan = [(table, find_columns(table, config.question_column, config.answer_column)) for table in tables]
    counted = _Counted()
    answers: dict[tuple[str | None, str], str] = {}
    kept: list[Problem] = []
    duplicates = conflicting = over_limit = 0
    for problem in (problem for table, columns in plan for problem in _problems(table, columns, config, counted)):
        asked = problem.system, problem.question
        if asked in answers:
            duplicates += 1
            conflicting += answers[asked] != problem.answer
            if config.deduplicate:
                continue
        answers.setdefault(asked, problem.answer)
        if config.limit is not None and len(kept) == config.limit:
            over_limit += 1
            continue
        kept.append(problem)
    report = LoadReport(
        path=config.path,
        rows=sum(len(table.rows) for table in tables),
        kept=len(kept),
        columns=tuple(columns.describe(table) for table, columns in plan),
        notes=(*notes, *counted.notes(config)),
        duplicates=duplicates,
        conflicting=conflicting,
        duplicates_kept=not config.deduplicate,
        incomplete=counted.incomplete,
        unmarked=counted.unmarked,
        broken=counted.broken,
        over_limit=over_limit,
    )
    if not kept:
        raise UserError("no problem is left:\n" + "\n".join(report.describe()))
    return kept, report


def is_broken(*texts: str | None) -> bool:
    """Return whether a text has half a character: a lone surrogate, as a cut file or an escape such as \\ud83d has."""
    return any(_SURROGATE.search(text) for text in texts if text)


def unread_note(keys: set[str]) -> list[str]:
    """Say which keys of chat turns are not read, if there are any."""
    return [f"chat turns hold {', '.join(sorted(keys))} as well: not read"] if keys else []


@dataclass
class _Counted:
    """Rows that became no problem, by id, and those that brought more than a question."""

    incomplete: list[str] = field(default_factory=list)
    unmarked: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    systems: int = 0
    replies: int = 0
    unread: set[str] = field(default_factory=set)
    """Keys of chat turns that are not read."""

    def notes(self, config: DataConfig) -> list[str]:
        notes = []
        if self.systems:
            fate = "data.system_prompt stands in its place" if config.system_prompt is not None else "it is sent"
            notes.append(f"{self.systems:,} rows bring a system message: {fate}")
        if self.replies:
            notes.append(f"{self.replies:,} chats go on with an assistant's turn: it is not sent, but kept as solution")
        return [*notes, *unread_note(self.unread)]


def _problems(table: Table, columns: Columns, config: DataConfig, counted: _Counted) -> Iterator[Problem]:
    for index, row in enumerate(table.rows):
        where, name = f"{table.where} row {index}", f"{table.name}/{index}"
        asked = _question(row, columns, where)
        given = pick(row, columns.answer)
        given = without_unit(given) if columns.body and isinstance(given, str) else given
        answer, worked = read_answer(given, where, marked_only=columns.answer_is_solution)
        solution = pick(row, columns.solution)
        solution = solution if isinstance(solution, str) else worked or asked.reply
        counted.systems += asked.system is not None
        counted.replies += asked.reply is not None
        counted.unread |= unread_keys(pick(row, columns.question))
        if is_broken(asked.text, asked.system, answer, solution):
            counted.broken.append(name)
        elif asked.text.strip() and not answer and worked:
            counted.unmarked.append(name)
        elif not asked.text.strip() or not answer:
            counted.incomplete.append(name)
        else:
            yield Problem(
                id=name,
                question=asked.text,
                answer=answer,
                solution=solution,
                source=str(row.get(SOURCE) or PurePath(table.name).stem),
                system=asked.system if config.system_prompt is None else None,
                row=row,
            )


def _question(row: Row, columns: Columns, where: str) -> Question:
    asked = read_question(pick(row, columns.question), where)
    told = " ".join(part for part in (pick_text(row, columns.body, where), asked.text) if part)
    text = "\n".join(part for part in (told, pick_text(row, columns.input, where)) if part)
    return Question(text, asked.system or pick_text(row, columns.system, where), asked.reply)
