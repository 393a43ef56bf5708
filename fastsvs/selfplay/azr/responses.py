"""Reading of a response's answer: fenced blocks, each with a name."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"```(\w+)[^\S\n]*\n(.*?)```", re.DOTALL)

Blocks = dict[str, list[str]]


def read_blocks(response: str, tagged: bool) -> Blocks:
    """Return the contents of the closed blocks ```NAME ... ``` by name, in order, stripped.

    Blocks are looked for behind the last `</think>` and, if `tagged`, within the last `<answer> ... </answer>` there.
    Nothing is guessed: what is not in a block is no answer (the AZR code falls back to all of the text).
    """
    text = response.rpartition("</think>")[2]
    if tagged:
        text = text.rpartition("<answer>")[2].partition("</answer>")[0] if _closed(text) else ""
    blocks: Blocks = {}
    for name, content in _BLOCK.findall(text):
        blocks.setdefault(name, []).append(content.strip())
    return blocks


def last_block(blocks: Blocks, name: str) -> str | None:
    """Return the last block of that name, or None when there is none or it is empty."""
    return (blocks.get(name) or [""])[-1] or None


def _closed(text: str) -> bool:
    return "</answer>" in text.rpartition("<answer>")[2] and "<answer>" in text
