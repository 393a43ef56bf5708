"""Finds the parts of a text: what brackets enclose, and what separators outside all brackets divide."""

from __future__ import annotations

import re
from collections import deque

DEEPEST = 40
"""Depth of nested brackets up to which a text is read."""
_BRACKETS = re.compile(
    r"\\(?:begin|end)\s?\{[a-zA-Z*]+\}|\\[lr]angle(?![a-z])|\\[lr](?:floor|ceil)(?![a-z])|\\.|[()\[\]{}]", re.DOTALL
)
_OPENING = ("(", "[", "{", r"\{", r"\begin", r"\langle", r"\lfloor", r"\lceil")
_CLOSING = (")", "]", "}", r"\}", r"\end", r"\rangle", r"\rfloor", r"\rceil")


def enclosed(text: str, opening: str, closing: str) -> str | None:
    """Return what stands between `opening` and `closing` where these two belong together and enclose the whole text,
    else None. Other kinds of brackets may end each other, as half-open intervals have two kinds."""
    if not (text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing)):
        return None
    inner = text[len(opening) : len(text) - len(closing)]
    depth = 0
    for token in _BRACKETS.finditer(inner):
        depth += _step(token[0])
        if depth < 0:
            return None
    return inner.strip() if depth == 0 else None


def split(text: str, separator: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Return the pieces between the separators that stand outside all brackets, and these separators. Text with
    brackets that do not match is one piece."""
    pieces, separators, depth, start = [], [], 0, 0
    depths = _depths(text)
    if depths is None:
        return [text], []
    coming = deque(depths)
    for match in separator.finditer(text):
        while coming and coming[0][0] < match.start():
            depth = coming.popleft()[1]
        if depth == 0:
            pieces.append(text[start : match.start()].strip())
            separators.append(match[0].strip())
            start = match.end()
    return [*pieces, text[start:].strip()], separators


def deepest(text: str) -> int:
    """Return the depth of the innermost brackets."""
    depth = most = 0
    for token in _BRACKETS.finditer(text):
        depth += _step(token[0])
        most = max(most, depth)
    return most


def _depths(text: str) -> list[tuple[int, int]] | None:
    """Return the position of each bracket and the depth after it, or None where brackets do not match."""
    depths, depth = [], 0
    for token in _BRACKETS.finditer(text):
        if change := _step(token[0]):
            depth += change
            depths.append((token.start(), depth))
            if depth < 0:
                return None
    return depths if depth == 0 else None


def _step(token: str) -> int:
    return token.startswith(_OPENING) - token.startswith(_CLOSING)
