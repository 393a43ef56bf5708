"""Final answers out of what a data set gives: bare values, boxes, ends of worked solutions, lists, numbers."""

from __future__ import annotations

import json
import math
import re
from ast import literal_eval
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from fastsvs.errors import UserError

_MARKED = re.compile(r"####\s*([^\n]+?)\s*\Z")
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|[{}]")
_WITH_UNIT = re.compile(r"\s*([-+]?[\d.,/]*\d)\s*\([^()]*\)\s*")
_ALONE = re.compile(r"[-+]?[\d.,/]*\d|\$[^$\n]+\$|\$\$[^$\n]+\$\$")
"""Text that is an answer whatever column it stands in: a number or a single formula."""


def is_missing(value: Any) -> bool:
    """Return whether a value stands for nothing: None, NaN, or an empty text or list."""
    return value is None or value in ("", []) or (isinstance(value, (float, Decimal)) and math.isnan(value))


def read_answer(value: Any, where: str, marked_only: bool = False) -> tuple[str, str | None]:
    """Return (final answer, the worked solution around it), the answer unwrapped and empty where there is none.

    Takes the end of a GSM8K text (`#### N`), the last `\\boxed{}`, or the value itself; with `marked_only` the value
    itself only where it is nothing but a number or a formula. Lists are joined with commas. Removes `$...$`,
    `\\(...\\)`, `\\[...\\]` around the whole and a trailing full stop. Raises UserError for any other value.
    """
    if is_missing(value):
        return "", None
    if isinstance(value, (bool, int, float, Decimal)):
        return number_text(value), None
    if isinstance(value, str):
        listed = _listed(value.strip())
        if listed is None:
            return _read_text(value.strip(), marked_only)
        value = listed
    if not isinstance(value, Sequence):
        raise UserError(f"{where}: an answer must be a text, a number or a list, found {type(value).__name__}")
    parts = [read_answer(part, where, marked_only)[0] for part in value]
    return ", ".join(part for part in parts if part), None


def without_unit(text: str) -> str:
    """Return the number of an answer such as ASDiv's `9 (apples)`, and any other text as it is."""
    number = _WITH_UNIT.fullmatch(text)
    return number[1] if number else text


def number_text(value: float | Decimal) -> str:
    """Return a number in digits that every reader takes for the same number: no exponent, and no `.0`."""
    if isinstance(value, (bool, int)):
        return str(value)
    if math.isinf(value):
        return "\\infty" if value > 0 else "-\\infty"
    text = format(Decimal(repr(value)) if isinstance(value, float) else value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def last_boxed(text: str) -> str | None:
    """Return what the last `\\boxed{...}` or `\\fbox{...}` with balanced braces holds, or None. `text` is read once."""
    opened: list[re.Match[str]] = []
    last: tuple[int, int] | None = None
    for brace in _BRACES.finditer(text):
        if brace[0] != "}":
            opened.append(brace)
        elif opened:
            opening = opened.pop()
            if opening[0] != "{" and (last is None or opening.end() > last[0]):
                last = opening.end(), brace.start()
    return None if last is None else text[last[0] : last[1]].strip()


def _read_text(text: str, marked_only: bool) -> tuple[str, str | None]:
    marked = _MARKED.search(text)
    if marked:
        number = marked[1].replace(",", "") if _THOUSANDS.fullmatch(marked[1]) else marked[1]
        return _unwrap(number), text
    boxed = last_boxed(text)
    if boxed is not None:
        alone = re.fullmatch(r"[\s$.]*\\(?:boxed|fbox)\s*\{.*\}[\s$.]*", text, re.DOTALL) is not None
        return _unwrap(boxed), None if alone else text
    if marked_only and not _ALONE.fullmatch(text):
        return "", text or None
    return _unwrap(text), None


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
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return parsed if isinstance(parsed, list) else None
    return None
