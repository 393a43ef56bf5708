"""Judges an answer: reads it and the right one, and compares what they are."""

from __future__ import annotations

import re

from fastsvs.verify.answers import LONGEST_ANSWER, boxed_content, final_answer
from fastsvs.verify.comparison import equal
from fastsvs.verify.prose import stated, without_lead
from fastsvs.verify.reader import read
from fastsvs.verify.spelling import flat, plain, squeezed
from fastsvs.verify.verdict import Verdict

_SCIENTIFIC = re.compile(r"\d[eE]\s?[+-]?\s?\d")
"""Pattern of what becomes another number with spaces in it."""
_VERDICTS = {True: Verdict.CORRECT, False: Verdict.WRONG, None: Verdict.UNVERIFIED}


def judge(answer: str, gold: str) -> Verdict:
    """Return the verdict on an answer (see `answers.final_answer`).

    UNVERIFIED is for a right answer that cannot be read, and for what cannot be compared.
    """
    if len(answer) > LONGEST_ANSWER:
        return Verdict.WRONG if len(gold) <= LONGEST_ANSWER else Verdict.UNVERIFIED
    expected = plain(_content(gold) or gold) if len(gold) <= LONGEST_ANSWER else ""
    if not re.search(r"[^\W_]|\\[A-Za-z{]", expected):
        return Verdict.UNVERIFIED
    found = _found(answer)
    if found is None:
        return Verdict.WRONG
    if expected == found or (squeezed(expected) == squeezed(found) and not _SCIENTIFIC.search(expected)):
        return Verdict.CORRECT
    try:
        right = read(expected)
    except RecursionError:
        return Verdict.UNVERIFIED
    try:
        return _VERDICTS[equal(right, read(found))]
    except RecursionError:
        return Verdict.WRONG


def _found(answer: str) -> str | None:
    """Return what the answer says, in plain spelling, or None where it says nothing."""
    content = _content(answer)
    text = stated(answer) if content is None else content
    return (without_lead(flat(plain(text))) or None) if text is not None else None


def _content(text: str) -> str | None:
    """Return the content of the box that is the whole of `text`, without the boxes in it."""
    content = boxed_content(text)
    if content is not None and re.search(r"\\f?(?:box|boxed)\s*\{", content):
        return boxed_content(final_answer(content)) or content
    return content
