"""Encoding of dialogues as token ids with a loss mask.

An example is what the policy would have read and written: the chat before the assistant's turn with the template's
generation prompt, and what follows it up to the end token. Once a turn is over, chat templates show other things: that
of Qwen3 drops the thoughts of earlier turns, that of R1-Distill those of every turn. That is not what to learn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from fastsvs.data.chat import DEFAULT, Template, encode_rendered, render, shows
from fastsvs.data.prompts import FOLDED
from fastsvs.data.records import REASONING, Dialogue, Message
from fastsvs.data.report import LoadReport
from fastsvs.errors import UserError

Example = tuple[tuple[int, ...], tuple[bool, ...]]
"""Token ids [tokens], and whether each is learned [tokens]."""
_PROBE = "PROBE"
_OPENED = re.compile(r"(<[^<>\s]+>)(\s*)\Z")


@dataclass(slots=True)
class Encoded:
    """The examples of a dialogue, and what the template did to it."""

    examples: list[Example] = field(default_factory=list)
    as_written: int = 0
    """Number of assistant turns that the template would show in other words than they were written in."""
    folded: bool = False
    """True where the system message stands at the beginning of the user's."""


def encode_dialogue(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, template: Template = DEFAULT) -> Encoded:
    """Return the examples of a dialogue: a single one with all assistant turns learned, or, where the template shows
    earlier turns in another way, one for each stretch of turns that it leaves as they were.

    Learned is what the assistant writes, its end token included. What follows the end token (a line break in ChatML) is
    never sampled, so it carries no loss. Raises UserError for a dialogue that the template refuses.
    """
    encoded = Encoded()
    ids: tuple[int, ...] = ()
    mask: list[bool] = []
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    for turn, message in enumerate(dialogue.messages):
        if message["role"] != "assistant":
            continue
        asked = render(tokenizer, dialogue.messages[:turn], template)
        reply, changed = _reply(tokenizer, dialogue.messages[: turn + 1], asked.text, template)
        encoded.folded |= asked.folded
        encoded.as_written += changed
        prompt, written = encode_rendered(tokenizer, asked.text), encode_rendered(tokenizer, reply)
        if ids and prompt[: len(ids)] != ids:
            encoded.examples.append((ids, tuple(mask)))
            ids, mask = (), []
        ends = [index for index, token in enumerate(written) if token in special]
        learned = ends[-1] + 1 if ends else len(written)
        mask += [False] * (len(prompt) - len(ids)) + [True] * learned + [False] * (len(written) - learned)
        ids = prompt + written
    encoded.examples.append((ids, tuple(mask)))
    return encoded


def encode_dialogues(
    dialogues: Sequence[Dialogue],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    path: str,
    template: Template = DEFAULT,
) -> tuple[list[Example], LoadReport]:
    """Return the examples of all dialogues; dialogues that the template refuses, and examples over `max_tokens`, are
    left out and counted.

    Raises UserError when none is left.
    """
    encoded: list[Encoded] = []
    refusals: list[str] = []
    for dialogue in dialogues:
        try:
            encoded.append(encode_dialogue(tokenizer, dialogue, template))
        except UserError as error:
            refusals.append(str(error))
    examples = [example for one in encoded for example in one.examples]
    kept = [example for example in examples if len(example[0]) <= max_tokens]
    report = LoadReport(
        path=path,
        rows=len(examples) + len(refusals),
        kept=len(kept),
        what="encoded examples",
        notes=tuple(_notes(encoded)),
        refused=refusals,
        over_length=len(examples) - len(kept),
        max_tokens=max_tokens,
    )
    if not kept:
        raise UserError("no dialogue is left to learn from:\n" + "\n".join(report.describe()))
    return kept, report


def _notes(encoded: Sequence[Encoded]) -> list[str]:
    notes = []
    divided = [len(one.examples) for one in encoded if len(one.examples) > 1]
    if divided:
        notes.append(
            f"{len(divided):,} dialogues give {sum(divided):,} examples: the chat template shows earlier turns in "
            "another way than it showed them first"
        )
    if turns := sum(one.as_written for one in encoded):
        notes.append(
            f"{turns:,} assistant turns are learned as they are written, after the generation prompt: the chat "
            "template would show them otherwise"
        )
    if folded := sum(one.folded for one in encoded):
        notes.append(FOLDED.format(folded))
    return notes


def _reply(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], asked: str, template: Template
) -> tuple[str, bool]:
    """Return the text that the policy should write after the prompt `asked` as the last of `messages`, and whether it
    is another one than the template shows."""
    shown = render(tokenizer, messages, template, generation_prompt=False).text
    *before, last = messages
    thought = last.get(REASONING, "")
    rest = shown[len(asked) :]
    if shown.startswith(asked) and shows(rest, last["content"]) and shows(rest, thought):
        return rest, False
    probe = render(tokenizer, [*before, {"role": "assistant", "content": _PROBE}], template, generation_prompt=False)
    opening, found, closing = probe.text.rpartition(_PROBE)
    content = f"<think>\n{thought}\n</think>\n\n{last['content']}" if thought else last["content"]
    lead = opening[len(asked) :] if opening.startswith(asked) else ""
    blank = lead if lead.isspace() else ""
    return blank + _continuation(asked, content) + (closing if found else str(tokenizer.eos_token)), True


def _continuation(asked: str, content: str) -> str:
    """Return `content` without the tag that the prompt has opened already, as R1-Distill's opens `<think>`."""
    opened = _OPENED.search(asked)
    if opened and content.lstrip().startswith(opened[1]):
        return content.lstrip().removeprefix(opened[1]).removeprefix(opened[2])
    return content
