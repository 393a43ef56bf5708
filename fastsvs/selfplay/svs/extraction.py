"""Reading of a problem that is worth solving from a synthesis response, or of the reason why there is none.

Extraction follows the SvS code: a `text` fence, else any fence, else a "Reconstructed Question" heading, in what stands
after the last `</think>`. Three things are stricter here, because in the SvS code each of them trains on a wrong label:
a fence that is never closed (a truncated response) gives no problem, a response without a marker never reuses the
previous response's problem, and degenerate problems are rejected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

FENCE = "```"
TEXT_FENCE = f"{FENCE}text"
HEADING = "**Reconstructed Question:**"


class Rejection(StrEnum):
    """Reason for which a synthesis response gives no problem to solve."""

    NO_MARKER = "no_marker"
    """The response has neither a fence nor a heading where they count, or a `text` fence in its thoughts alone."""
    UNCLOSED = "unclosed"
    """The fence is opened and never closed."""
    EMPTY = "empty"
    PLACEHOLDER = "placeholder"
    """The text is the template's example line, a bracketed stand-in, or nothing but punctuation."""
    COPY = "copy"
    """The text equals the problem that the context solves."""
    DUPLICATE = "duplicate"
    """The text equals an earlier variant of the same context."""
    TOO_LONG = "too_long"
    """The problem's prompt exceeds the token limit."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The problem in one synthesis response; `rejection` is None when it is to be solved."""

    question: str
    rejection: Rejection | None = None


def read_variants(responses: Sequence[str], original: str, template: str) -> list[Variant]:
    """Return one `Variant` for each response to one context, in order. Texts are compared without case and white
    space."""
    seen: set[str] = set()
    stand_in = normalize(extract_problem(template).question)
    variants = []
    for response in responses:
        variant = extract_problem(response)
        if variant.rejection is None:
            text = normalize(variant.question)
            variant = Variant(variant.question, _rejection(text, normalize(original), stand_in, seen))
            seen.add(text)
        variants.append(variant)
    return variants


def extract_problem(response: str) -> Variant:
    """Return the text that the response offers as its problem, stripped and not yet compared with anything."""
    answer = response.rpartition("</think>")[2]
    if TEXT_FENCE in response:  # in the thoughts alone it rules out other markers, as in the SvS code
        return _fenced(answer.partition(TEXT_FENCE)[2]) if TEXT_FENCE in answer else Variant("", Rejection.NO_MARKER)
    if FENCE in answer:
        return _fenced(answer.partition(FENCE)[2])
    if HEADING in answer:
        paragraphs = re.split(r"\n[ \t]*\n", answer.partition(HEADING)[2])
        return Variant(paragraphs[1].strip() if len(paragraphs) > 1 else "")
    return Variant("", Rejection.NO_MARKER)


def normalize(text: str) -> str:
    """Return the text without differences of case and white space, which do not make another problem."""
    return " ".join(text.casefold().split())


def _fenced(rest: str) -> Variant:
    body, closing, _ = rest.partition(FENCE)
    if not closing:
        return Variant("", Rejection.UNCLOSED)
    language = re.match(r"[\w+-]*[ \t]*\n", body)
    return Variant(body[language.end() :].strip() if language else body.strip())


def _rejection(text: str, original: str, stand_in: str, seen: set[str]) -> Rejection | None:
    if not text:
        return Rejection.EMPTY
    if text == stand_in or re.fullmatch(r"[\W_]*|\[[^\[\]]*\]|<[^<>]*>", text):
        return Rejection.PLACEHOLDER
    if text == original:
        return Rejection.COPY
    return Rejection.DUPLICATE if text in seen else None
