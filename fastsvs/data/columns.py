"""Question, answer, worked solution and system message in a row, under any of the names that public sets use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from fastsvs.data.answers import is_missing
from fastsvs.data.formats import Row
from fastsvs.data.records import REASONING, Message
from fastsvs.data.sources import Table
from fastsvs.errors import UserError

QUESTION_NAMES = ("problem", "question", "prompt", "query", "instruction", "input", "messages", "conversations")
ANSWER_NAMES = (
    *("reward_model.ground_truth", "answer", "final_answer", "ground_truth", "ref_answer", "reference_answer"),
    *("expected_answer", "gold_answer", "gt_answer", "gt", "gold", "target", "label"),
)
SOLUTION_NAMES = ("solution", "rationale", "extra_info.answer", "response", "completion", "output")
"""Names of columns with worked solutions. Such a column gives the answer too where no answer column exists and the
solution ends in a mark."""
SYSTEM_NAMES = ("system", "system_prompt", "system_message")
INSTRUCTION, INPUT = "instruction", "input"
"""Names of Alpaca's two columns that are a question together."""
BODY, ASKED = "body", "question"
"""Names of the two columns of ASDiv and SVAMP that are a question together."""
SOURCE = "data_source"
"""Name of verl's column that says which set a row is from."""

_TURN_KEYS = ("role", "from", "content", "value", REASONING)
_ROLES = ("system", "user", "assistant")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of one table that hold what a problem needs; a nested column is `a.b`."""

    question: str
    answer: str
    solution: str | None = None
    input: str | None = None
    """Column whose text follows the question's, as in Alpaca's files."""
    body: str | None = None
    """Column whose text precedes the question's, as in ASDiv's and SVAMP's files, whose answers may bring a unit."""
    system: str | None = None
    answer_is_solution: bool = False
    """True where the answers are to be found at the end of worked solutions, for want of a column of their own."""

    def describe(self, table: Table) -> str:
        """Say which columns of `table` are read as what, and which are not read."""
        question = " and ".join(repr(name) for name in (self.body, self.question, self.input) if name)
        parts = [f"question from {question}", f"answer from {self.answer!r}"]
        parts += [f"system message from {self.system!r}"] if self.system else []
        named = (self.question, self.answer, self.solution, self.input, self.body, self.system, SOURCE)
        read = {head for name in named if name for head in (name, name.partition(".")[0])}
        unread = [column for column in table.columns() if column not in read]
        more = f", ... ({len(unread)} columns)" if len(unread) > 6 else ""
        said = f"; not read: {', '.join(unread[:6])}{more}" if unread else ""
        return f"{table.name}: {', '.join(parts)}{said}"


@dataclass(frozen=True, slots=True)
class Question:
    """A question as a row holds it."""

    text: str
    system: str | None = None
    reply: str | None = None
    """Text of the assistant's turn after the question, where the row's chat has one."""


def find_columns(table: Table, question: str | None, answer: str | None) -> Columns:
    """Find the columns of `table`, explicit names first. Raises UserError listing the columns when one is not found."""
    found_question = _explicit(table, question, "question") or first_filled(table, QUESTION_NAMES)
    found_answer = _explicit(table, answer, "answer") or first_filled(table, ANSWER_NAMES)
    solution = first_filled(table, [name for name in SOLUTION_NAMES if name != answer])
    for name, kind in ((found_question, "question"), (found_answer or solution, "answer")):
        if name is None:
            raise UserError(
                f"{table.where} has no {kind} column with a usual name and values in it; its columns are "
                f"{', '.join(table.columns())}; set data.{kind}_column to the right one (nested: a.b)"
            )
    assert found_question is not None
    used = (found_question, found_answer)
    return Columns(
        question=found_question,
        answer=found_answer or solution or "",
        solution=solution,
        input=find_input(table, found_question, used),
        body=find_body(table, found_question, used),
        system=find_system(table, used),
        answer_is_solution=found_answer is None,
    )


def find_system(table: Table, used: Sequence[str | None]) -> str | None:
    """Return the column of system messages, which holds texts only and is not `used`, or None."""
    column = first_filled(table, [name for name in SYSTEM_NAMES if name not in used])
    values = (pick(row, column) for row in table.rows)
    return column if all(value is None or isinstance(value, str) for value in values) else None


def find_input(table: Table, question: str | None, used: Sequence[str | None]) -> str | None:
    """Return the column that goes with Alpaca's `instruction` where the question is that column, unless it is
    `used`."""
    return _companion(table, question, INSTRUCTION, INPUT, used)


def find_body(table: Table, question: str | None, used: Sequence[str | None]) -> str | None:
    """Return the column that goes before ASDiv's or SVAMP's `question` where the question is that column, unless it is
    `used`."""
    return _companion(table, question, ASKED, BODY, used)


def pick(row: Row, name: str | None) -> Any:
    """Return the value at `name`, where dots step into nested columns, or None where there is none."""
    if name is None:
        return None
    value: Any = row
    for part in [name] if name in row else name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if is_missing(value) else value


def pick_text(row: Row, name: str | None, where: str) -> str | None:
    """Return the text at `name`, or None where there is none. Raises UserError for what is no text."""
    value = pick(row, name)
    if value is None or isinstance(value, str):
        return value
    raise UserError(f"{where}: the column {name} must hold texts, found {type(value).__name__}")


def read_messages(value: Sequence[Any], where: str) -> tuple[Message, ...]:
    """Read chat turns from role/content or from/value objects, with `reasoning_content` where there is some. Raises
    UserError for anything else."""
    messages = []
    for turn in value:
        role = turn.get("role", turn.get("from")) if isinstance(turn, Mapping) else None
        content = turn.get("content", turn.get("value")) if isinstance(turn, Mapping) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise UserError(f"{where}: a chat turn must hold the texts role and content, found {str(turn)[:200]}")
        thought = turn.get(REASONING)
        reasoning = {REASONING: thought} if isinstance(thought, str) and thought else {}
        messages.append({"role": _SHAREGPT_ROLES.get(role, role), "content": content, **reasoning})
    return tuple(messages)


def unread_keys(value: Any) -> set[str]:
    """Return the keys of chat turns that hold something and are not read, such as `tool_calls`."""
    turns = [turn for turn in value if isinstance(turn, Mapping)] if isinstance(value, list) else []
    return {key for turn in turns for key in turn if key not in _TURN_KEYS and not is_missing(turn[key])}


def read_question(value: Any, where: str) -> Question:
    """Read a question from a text or from chat turns: system messages, then one user message, then at most one of the
    assistant. The question may be empty. Raises UserError for anything else."""
    if value is None or isinstance(value, str):
        return Question(value or "")
    if not isinstance(value, Sequence):
        raise UserError(f"{where}: a question must be a text or a list of chat turns, found {type(value).__name__}")
    messages = read_messages(value, where)
    told = {role: [turn["content"] for turn in messages if turn["role"] == role] for role in _ROLES}
    if len(told["user"]) > 1:
        raise UserError(f"{where}: the question is a chat with {len(told['user'])} user turns; one is expected")
    roles = [turn["role"] for turn in messages if turn["role"] != "system"]
    if roles not in ([], ["user"], ["user", "assistant"]):
        raise UserError(
            f"{where}: the question is a chat of {', '.join(roles)}; expected is one user turn, after system turns and "
            "before at most one assistant turn"
        )
    return Question(
        "".join(told["user"]), "\n".join(told["system"]) or None, told["assistant"][0] if told["assistant"] else None
    )


def first_filled(table: Table, names: Sequence[str]) -> str | None:
    """Return the first of `names` that some row fills; capital letters do not matter."""
    spelled = {column.lower(): column for column in reversed(table.columns())}
    for name in names:
        head, dot, tail = name.partition(".")
        column = spelled.get(head, head) + dot + tail
        if any(pick(row, column) is not None for row in table.rows):
            return column
    return None


def _companion(table: Table, question: str | None, beside: str, name: str, used: Sequence[str | None]) -> str | None:
    column = first_filled(table, (name,)) if question and question.lower() == beside else None
    return None if column in used else column


def _explicit(table: Table, name: str | None, kind: str) -> str | None:
    if name is not None and not any(pick(row, name) is not None for row in table.rows):
        near = get_close_matches(name, table.columns(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(
            f"{table.where} has nothing under data.{kind}_column={name!r}{hint} (columns: {', '.join(table.columns())})"
        )
    return name
