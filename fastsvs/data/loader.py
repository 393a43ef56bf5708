"""Problems and dialogues from any source, with a report of what was kept and what was not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from fastsvs.config import DataConfig, SftDataConfig
from fastsvs.data import tiny
from fastsvs.data.columns import Columns, find_columns, pick, read_answer, read_messages, read_question
from fastsvs.data.records import Dialogue, Message, Problem
from fastsvs.data.report import LoadReport
from fastsvs.data.sources import Row, Table, read_tables
from fastsvs.errors import UserError

NO_PROBLEMS = "none"
"""Data path of a run whose stage makes its own tasks."""
CHAT_NAMES = ("messages", "conversations", "dialogue", "chat")
PROMPT_NAMES = ("prompt", "question", "problem", "instruction", "query")
COMPLETION_NAMES = ("completion", "response", "output", "solution", "answer", "chosen")


def load_problems(config: DataConfig) -> tuple[list[Problem], LoadReport]:
    """Load the problems at `config.path` in the order of its rows; ids are `<table>/<row>`.

    Rows without a question or an answer are left out and counted. Raises UserError for unreadable data, for columns
    that are not found, and when no problem is left.
    """
    if config.path.startswith(tiny.SCHEME):
        problems = tiny.problems(config.path, config.limit)
        return problems, LoadReport(config.path, rows=len(problems), kept=len(problems))
    tables = read_tables(config.path, config.split)
    plan = [(table, find_columns(table, config.question_column, config.answer_column)) for table in tables]
    answers: dict[str, str] = {}
    kept: list[Problem] = []
    incomplete: list[str] = []
    duplicates = conflicting = over_limit = 0
    for table, columns in plan:
        for index, row in enumerate(table.rows):
            problem = _problem(table, index, row, columns)
            if not problem.question.strip() or not problem.answer:
                incomplete.append(problem.id)
                continue
            if problem.question in answers:
                duplicates += 1
                conflicting += answers[problem.question] != problem.answer
                if config.deduplicate:
                    continue
            answers.setdefault(problem.question, problem.answer)
            if config.limit is not None and len(kept) == config.limit:
                over_limit += 1
                continue
            kept.append(problem)
    report = LoadReport(
        path=config.path,
        rows=sum(len(table.rows) for table in tables),
        kept=len(kept),
        columns=tuple(f"{t.name}: question from {c.question!r}, answer from {c.answer!r}" for t, c in plan),
        duplicates=duplicates,
        conflicting=conflicting,
        duplicates_kept=not config.deduplicate,
        incomplete=len(incomplete),
        first_incomplete=tuple(incomplete[:3]),
        over_limit=over_limit,
    )
    if not kept:
        raise UserError("no problem is left:\n" + "\n".join(report.describe()))
    return kept, report


def load_dialogues(config: SftDataConfig) -> tuple[list[Dialogue], LoadReport]:
    """Load supervised examples: chat turns, or prompt and completion (texts or chat turns), in the order of the rows. A
    problem set's question and worked solution are such a pair.

    Raises UserError for unreadable data, missing columns, and a dialogue without an assistant turn.
    """
    if config.path.startswith(tiny.SCHEME):
        dialogues = tiny.dialogues(config.path, config.limit)
        return dialogues, LoadReport(config.path, rows=len(dialogues), kept=len(dialogues), what="dialogues")
    tables = read_tables(config.path, config.split)
    dialogues = [dialogue for table in tables for dialogue in _dialogues(table)]
    kept = dialogues[: config.limit]
    report = LoadReport(
        path=config.path,
        rows=len(dialogues),
        kept=len(kept),
        what="dialogues",
        over_limit=len(dialogues) - len(kept),
    )
    return kept, report


def _problem(table: Table, index: int, row: Row, columns: Columns) -> Problem:
    where = f"{table.where} row {index}"
    question, system = read_question(pick(row, columns.question), where)
    answer, worked = read_answer(pick(row, columns.answer), where, marked_only=columns.answer_is_solution)
    solution = pick(row, columns.solution) if columns.solution else None
    used = {columns.question, columns.answer, columns.solution}
    extra = {name: value for name, value in row.items() if name not in used}
    return Problem(
        id=f"{table.name}/{index}",
        question=question,
        answer=answer,
        solution=(solution if isinstance(solution, str) else None) or worked,
        source=str(row.get("data_source") or PurePath(table.name).stem),
        extra=extra | {"system": system} if system else extra,
    )


def _dialogues(table: Table) -> Iterator[Dialogue]:
    columns = {column.lower(): column for column in reversed(table.columns())}
    chat = next((columns[name] for name in CHAT_NAMES if name in columns), None)
    prompt = next((columns[name] for name in PROMPT_NAMES if name in columns), None)
    completion = next((columns[name] for name in COMPLETION_NAMES if name in columns), None)
    if chat is None and (prompt is None or completion is None):
        raise UserError(
            f"{table.where} has neither chat turns ({', '.join(CHAT_NAMES)}) nor a prompt ({', '.join(PROMPT_NAMES)}) "
            f"with a completion ({', '.join(COMPLETION_NAMES)}); its columns are {', '.join(table.columns())}"
        )
    for index, row in enumerate(table.rows):
        where = f"{table.where} row {index}"
        if chat is not None:
            messages = _turns(row.get(chat), "user", where)
        else:
            assert prompt is not None
            assert completion is not None
            messages = _turns(row.get(prompt), "user", where) + _turns(row.get(completion), "assistant", where)
        if not any(message["role"] == "assistant" and message["content"] for message in messages):
            raise UserError(f"{where} has no assistant turn with text: nothing to learn from")
        yield Dialogue(messages)


def _turns(value: object, role: str, where: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        return ({"role": role, "content": value},)
    if isinstance(value, list):
        return read_messages(value, where)
    raise UserError(f"{where}: expected a text or a list of chat turns, found {type(value).__name__}")
