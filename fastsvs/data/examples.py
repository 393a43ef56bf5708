"""Dialogues to fine-tune on, from any source, with a report of what was kept and what was not."""

from __future__ import annotations

from fastsvs.config import SftDataConfig
from fastsvs.data import tiny
from fastsvs.data.columns import find_input, find_system, first_filled, pick, pick_text, read_messages, unread_keys
from fastsvs.data.formats import Row
from fastsvs.data.loader import is_broken, unread_note
from fastsvs.data.records import Dialogue, Message
from fastsvs.data.report import LoadReport
from fastsvs.data.sources import Table, read_tables
from fastsvs.errors import UserError

CHAT_NAMES = ("messages", "conversations", "dialogue", "chat")
PROMPT_NAMES = ("prompt", "question", "problem", "instruction", "query")
COMPLETION_NAMES = ("completion", "response", "output", "solution", "answer", "chosen")


def load_dialogues(config: SftDataConfig) -> tuple[list[Dialogue], LoadReport]:
    """Load supervised examples: chat turns, or prompt and completion (texts or chat turns), in the order of the rows. A
    problem set's question and worked solution are such a pair.

    Rows without an assistant turn that has text are left out and counted. Raises UserError for unreadable data, missing
    columns, and when no dialogue is left.
    """
    if config.path.startswith(tiny.SCHEME):
        dialogues = tiny.dialogues(config.path, config.limit)
        return dialogues, LoadReport(config.path, rows=len(dialogues), kept=len(dialogues), what="dialogues")
    tables, notes = read_tables(config.path, config.split)
    dialogues, incomplete, broken = [], [], []
    columns: list[str] = []
    unread: set[str] = set()
    for table in tables:
        reader = _Reader(table)
        columns.append(reader.describe())
        for index, row in enumerate(table.rows):
            name, messages = f"{table.name}/{index}", reader.messages(row, f"{table.where} row {index}")
            unread |= reader.unread(row)
            if is_broken(*(text for message in messages for text in message.values())):
                broken.append(name)
            elif not any(message["role"] == "assistant" and message["content"] for message in messages):
                incomplete.append(name)
            else:
                dialogues.append(Dialogue(messages))
    kept = dialogues[: config.limit]
    report = LoadReport(
        path=config.path,
        rows=sum(len(table.rows) for table in tables),
        kept=len(kept),
        what="dialogues",
        columns=tuple(columns),
        notes=(*notes, *unread_note(unread)),
        incomplete=incomplete,
        needed="an assistant turn with text",
        broken=broken,
        over_limit=len(dialogues) - len(kept),
    )
    if not kept:
        raise UserError("no dialogue is left to learn from:\n" + "\n".join(report.describe()))
    return kept, report


class _Reader:
    """A reader of the dialogues of one table. Raises UserError where the table has no columns for them."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._chat = first_filled(table, CHAT_NAMES)
        self._prompt = first_filled(table, PROMPT_NAMES)
        self._completion = first_filled(table, COMPLETION_NAMES)
        if self._chat is None and (self._prompt is None or self._completion is None):
            raise UserError(
                f"{table.where} has neither chat turns ({', '.join(CHAT_NAMES)}) nor a prompt "
                f"({', '.join(PROMPT_NAMES)}) with a completion ({', '.join(COMPLETION_NAMES)}) that has values; its "
                f"columns are {', '.join(table.columns())}"
            )
        self._input = find_input(table, self._prompt, (self._completion,))
        self._system = find_system(table, ())

    def describe(self) -> str:
        """Say which columns are read."""
        read = [self._chat] if self._chat else [self._prompt, self._input, self._completion]
        return f"{self._table.name}: from {', '.join(repr(name) for name in (self._system, *read) if name)}"

    def unread(self, row: Row) -> set[str]:
        """Return the keys of a row's chat turns that are not read."""
        chats = [self._chat] if self._chat else [self._prompt, self._completion]
        return {key for name in chats for key in unread_keys(pick(row, name))}

    def messages(self, row: Row, where: str) -> tuple[Message, ...]:
        """Return the turns of a row, after the message of its system column unless they begin with one. A completion
        that begins with the user's turn is a whole chat."""
        if self._chat is not None:
            messages = _turns(pick(row, self._chat), "user", where)
        else:
            asked = _turns(pick(row, self._prompt), "user", where)
            more = pick_text(row, self._input, where)
            if more and asked:
                asked = (*asked[:-1], asked[-1] | {"content": f"{asked[-1]['content']}\n{more}"})
            given = _turns(pick(row, self._completion), "assistant", where)
            messages = given if given and given[0]["role"] != "assistant" else asked + given
        system = pick_text(row, self._system, where)
        if not system or any(message["role"] == "system" for message in messages):
            return messages
        return ({"role": "system", "content": system}, *messages)


def _turns(value: object, role: str, where: str) -> tuple[Message, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return ({"role": role, "content": value},)
    if isinstance(value, list):
        return read_messages(value, where)
    raise UserError(f"{where}: expected a text or a list of chat turns, found {type(value).__name__}")
