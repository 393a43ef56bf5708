"""Judges an answer: reads it and the right one, and compares what they are."""

from __future__ import annotations

import re

from fastsvs.verify.answers import boxed_content, final_answer
from fastsvs.verify.comparison import equal
from fastsvs.verify.prose import stated, without_lead
from fastsvs.verify.reader import read
from fastsvs.verify.spelling import flat, plain, squeezed
from fastsvs.verify.verdict import Verdict

LONGEST = 20_000
"""Number of characters up to which an answer is read; a longer one is wrong."""
_VERDICTS = {True: Verdict.CORRECT, False: Verdict.WRONG, None: Verdict.UNVERIFIED}


def judge(answer: str, gold: str) -> Verdict:
    """Return the verdict on an answer (see `answers.final_answer`).

    UNVERIFIED is for a right answer that cannot be read, and for what cannot be compared.
    """
    expected = plain(_content(gold) or gold) if len(gold) <= LONGEST else ""
    if not re.search(r"[^\W_]|\\[A-Za-z{]", expected):
        return Verdict.UNVERIFIED
    found = _found(answer)
    if found is None:
        return Verdict.WRONG
    if squeezed(expected) == squeezed(found):
        return Verdict.CORRECT
    try:
        return _VERDICTS[equal(read(expected), read(found))]
    except RecursionError:
        return Verdict.UNVERIFIED


def _found(answer: str) -> str | None:
    """Return what the answer says, in plain spelling, or None where it says nothing."""
    content = _content(answer)
    if len(answer) > LONGEST:
        return None
    text = stated(answer) if content is None else content
    return (without_lead(flat(plain(text))) or None) if text is not None else None


def _content(text: str) -> str | None:
    """Return the content of the box that is the whole of `text`, without the boxes in it."""
    content = boxed_content(text)
    if content is not None and re.search(r"\\f?(?:box|boxed)\s*\{", content) and len(content) <= LONGEST:
        return boxed_content(final_answer(content)) or content
    return content
