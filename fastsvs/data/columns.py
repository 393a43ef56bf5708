"""Question, answer and worked solution in a row, under any of the names and wrappings that public sets use."""

from __future__ import annotations

import json
import re
from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from fastsvs.data.records import Message
from fastsvs.data.sources import Row, Table
from fastsvs.errors import UserError

QUESTION_NAMES = ("problem", "question", "prompt", "query", "instruction", "input", "messages", "conversations")
ANSWER_NAMES = (
    *("reward_model.ground_truth", "answer", "final_answer", "ground_truth", "ref_answer", "reference_answer"),
    *("expected_answer", "gold_answer", "gt_answer", "gt", "gold", "target", "label"),
)
SOLUTION_NAMES = ("solution", "rationale", "extra_info.answer", "response", "completion", "output")
"""Names of columns with worked solutions. Such a column gives the answer too where no answer column exists and the
solution ends in a mark."""

_MARKED = re.compile(r"####\s*([^\n]+?)\s*\Z")
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of one table that hold what a problem needs; a nested column is `a.b`."""

    question: str
    answer: str
    solution: str | None

    @property
    def answer_is_solution(self) -> bool:
        return self.answer == self.solution


def find_columns(table: Table, question: str | None, answer: str | None) -> Columns:
    """Find the columns of `table`, explicit names first. Raises UserError listing the columns when one is not found."""
    solution = _first_filled(table, SOLUTION_NAMES)
    found_question = _explicit(table, question, "question") or _first_filled(table, QUESTION_NAMES)
    found_answer = _explicit(table, answer, "answer") or _first_filled(table, ANSWER_NAMES) or solution
    for name, kind in ((found_question, "question"), (found_answer, "answer")):
        if name is None:
            raise UserError(
                f"{table.where} has no {kind} column with a usual name and values in it; its columns are "
                f"{', '.join(table.columns())}; set data.{kind}_column to the right one (nested: a.b)"
            )
    assert found_question is not None
    assert found_answer is not None
    return Columns(found_question, found_answer, solution)


def pick(row: Row, name: str) -> Any:
    """Return the value at `name`, where dots step into nested columns, or None where there is none."""
    value: Any = row
    for part in [name] if name in row else name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def read_messages(value: Sequence[Any], where: str) -> tuple[Message, ...]:
    """Read chat turns from role/content or from/value objects. Raises UserError for anything else."""
    messages = []
    for turn in value:
        role = turn.get("role", turn.get("from")) if isinstance(turn, Mapping) else None
        content = turn.get("content", turn.get("value")) if isinstance(turn, Mapping) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise UserError(f"{where}: a chat turn must hold the texts role and content, found {str(turn)[:200]}")
        messages.append({"role": _SHAREGPT_ROLES.get(role, role), "content": content})
    return tuple(messages)


def read_question(value: Any, where: str) -> tuple[str, str | None]:
    """Return (question, system message) from a text or from chat turns with at most one user message; the question may
    be empty. Raises UserError for anything else."""
    if value is None or isinstance(value, str):
        return value or "", None
    if not isinstance(value, Sequence):
        raise UserError(f"{where}: a question must be a text or a list of chat turns, found {type(value).__name__}")
    messages = read_messages(value, where)
    asked = [message["content"] for message in messages if message["role"] == "user"]
    if len(asked) > 1:
        raise UserError(f"{where}: the question is a chat with {len(asked)} user turns; one is expected")
    system = [message["content"] for message in messages if message["role"] == "system"]
    return asked[0] if asked else "", "\n".join(system) or None


def read_answer(value: Any, where: str, marked_only: bool = False) -> tuple[str, str | None]:
    """Return (final answer, the worked solution around it), the answer unwrapped and empty where there is none.

    Takes the end of a GSM8K text (`#### N`), the last `\\boxed{}`, or the value itself unless `marked_only`; lists are
    joined with commas. Removes `$...$`, `\\(...\\)`, `\\[...\\]` around the whole and a trailing full stop.
    """
    if value is None:
        return "", None
    if isinstance(value, (bool, int, float)):
        return str(value), None
    if isinstance(value, str):
        listed = _listed(value.strip())
        if listed is None:
            return _read_text(value.strip(), marked_only)
        value = listed
    if not isinstance(value, Sequence):
        raise UserError(f"{where}: an answer must be a text, a number or a list, found {type(value).__name__}")
    parts = [read_answer(part, where, marked_only)[0] for part in value]
    return ", ".join(part for part in parts if part), None


def last_boxed(text: str) -> str | None:
    """Return what the last `\\boxed{...}` or `\\fbox{...}` with balanced braces holds, or None."""
    for match in reversed(list(re.finditer(r"\\(?:boxed|fbox)\s*\{", text))):
        depth = 1
        for position in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[match.end() : position].strip()
    return None


def _read_text(text: str, marked_only: bool) -> tuple[str, str | None]:
    marked = _MARKED.search(text)
    if marked:
        number = marked[1].replace(",", "") if _THOUSANDS.fullmatch(marked[1]) else marked[1]
        return _unwrap(number), text
    boxed = last_boxed(text)
    if boxed is not None:
        alone = re.fullmatch(r"[\s$.]*\\(?:boxed|fbox)\s*\{.*\}[\s$.]*", text, re.DOTALL) is not None
        return _unwrap(boxed), None if alone else text
    return ("", text or None) if marked_only else (_unwrap(text), None)


def _unwrap(text: str) -> str:
    while True:
        bare = text.strip()
        if bare.endswith(("。", ".")) and not bare.endswith(("..", "\\right.", "\\left.")):
            bare = bare[:-1].rstrip()
        for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
            inner = bare[len(opening) : -len(closing)]
            wrapped = bare.startswith(opening) and bare.endswith(closing) and len(bare) > len(opening + closing)
            if wrapped and opening not in inner and closing not in inner:
                bare = inner.strip()
        if bare == text:
            return text
        text = bare


def _listed(text: str) -> list[Any] | None:
    """Return the list that `text` writes out (`["34"]`, `['a', 'b']`), or None; intervals such as `[-2,7]` are
    texts."""
    if not re.match(r"""\[\s*["']""", text):
        return None
    for parse in (json.loads, literal_eval):
        try:
            parsed = parse(text)
        except (ValueError, SyntaxError):
            continue
        return parsed if isinstance(parsed, list) else None
    return None


def _explicit(table: Table, name: str | None, kind: str) -> str | None:
    if name is not None and not any(pick(row, name) is not None for row in table.rows):
        near = get_close_matches(name, table.columns(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"{table.where} has nothing under data.{kind}_column={name!r}{hint} (columns: {', '.join(table.columns())})"
        )
    return name


def _first_filled(table: Table, names: Sequence[str]) -> str | None:
    """Return the first of `names` that some row fills; capital letters do not matter."""
    spelled = {column.lower(): column for column in reversed(table.columns())}
    for name in names:
        head, dot, tail = name.partition(".")
        column = spelled.get(head, head) + dot + tail
        if any(pick(row, column) not in (None, "", []) for row in table.rows):
            return column
    return None
