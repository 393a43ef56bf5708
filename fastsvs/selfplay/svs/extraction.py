"""Reading of a problem that is worth solving from a synthesis response, or of the reason why there is none.

Extraction follows the SvS code: a `text` fence, else any fence, else a "Reconstructed Question" heading, in what stands
after the thoughts. Three things are stricter here, because in the SvS code each of them trains on a wrong label: a
fence that is never closed (a truncated response) gives no problem, a response without a marker never reuses the
previous response's problem, and degenerate problems are rejected. The language of a fence is no part of the problem.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

FENCE = "```"
TEXT_FENCE = f"{FENCE}text"
HEADING = "**Reconstructed Question:**\n\n"


class Rejection(StrEnum):
    """Reason for which a synthesis response gives no problem to solve."""

    NO_MARKER = "no_marker"
    """The response has neither a fence nor a heading, or the one that counts stands in its thoughts alone."""
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


def read_variants(responses: Sequence[str], original: str, template: str, thoughts_end: str) -> list[Variant]:
    """Return one `Variant` for each response to one context, in order. `thoughts_end` is the text that ends thoughts.
    Texts are compared without case and white space."""
    seen: set[str] = set()
    stand_in = normalize(extract_problem(template, thoughts_end).question)
    variants = []
    for response in responses:
        variant = extract_problem(response, thoughts_end)
        if variant.rejection is None:
            text = normalize(variant.question)
            variant = Variant(variant.question, _rejection(text, normalize(original), stand_in, seen))
            seen.add(text)
        variants.append(variant)
    return variants


def extract_problem(response: str, thoughts_end: str) -> Variant:
    """Return the text that the response offers as its problem, stripped and not yet compared with anything."""
    answer = response.rpartition(thoughts_end)[2]
    # as in the SvS code, a marker in the thoughts alone rules out those of lower rank
    marker = next((marker for marker in (TEXT_FENCE, FENCE, HEADING) if marker in response), None)
    if marker is None or marker not in answer:
        return Variant("", Rejection.NO_MARKER)
    rest = answer.partition(marker)[2]
    return Variant(rest.partition("\n\n")[0].strip()) if marker == HEADING else _fenced(rest)


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
