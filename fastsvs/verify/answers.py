"""Finds the answer in a response, and the answers that are plain integers and can simply be compared.

Everything here is linear in the length of the response and runs in the trainer's own process.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

LONGEST_ANSWER = 20_000
"""Number of characters beyond which an answer is not read, and wrong."""
TAIL_CHARACTERS = 600
"""Number of characters that are read from the end of a response without a box."""

_TOKEN = re.compile(r"\\\\|\\[{}]|\\(?:boxed|fbox|framebox)\s*\{|[{}]")
_BETWEEN_BOXES = re.compile(r"\s{0,9}\$?\s{0,9}(?:,|,?\s{0,9}(?:and|or|\\text\{\s?(?:and|or)\s?\}))\s{0,9}\$?\s{0,9}")
_SPACE = re.compile(r"\s*")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathbf|mathrm|boxed)\s*\{([^{}]*)\}")
_SEPARATOR = re.compile(r",?\\!|\{,\}|\\[,;: ]")
_INTEGER = re.compile(r"(?:\\?\$)?\s*(?:([+-])\s*)?(\d+|[1-9]\d{0,2}(?:,\d{3})+)\s*\$?", re.ASCII)


def final_answer(response: str) -> str:
    """Return what the response gives as its answer, after the last `</think>`.

    This is its last box as `\\boxed{...}`; several boxes become one list when only commas, `and` or `or` stand between
    them. Without a box it is what stands in the last `<answer>...</answer>`, boxed too, or what follows `####` at the
    start of the last line (GSM8K's mark). Without these it is the last `TAIL_CHARACTERS` characters.
    """
    text = response.rpartition("</think>")[2].strip()
    found = _boxes(text)
    if not found:
        marked = _tagged(text) or _marked(text)
        return f"\\boxed{{{marked}}}" if marked else text[-TAIL_CHARACTERS:]
    start, content = found.pop()
    contents = [text[content].strip()]
    while found and _BETWEEN_BOXES.fullmatch(text, found[-1][1].stop + 1, start):
        start, content = found.pop()
        contents.insert(0, text[content].strip())
    return "\\boxed{" + ", ".join(dict.fromkeys(contents)) + "}"


def boxed_content(answer: str) -> str | None:
    """Return the content of the box that is the whole of `answer`, or None when `answer` is no box."""
    return answer[len("\\boxed{") : -1] if answer.startswith("\\boxed{") and answer.endswith("}") else None


def canonical_answer(response: str) -> str | None:
    """Return the content of the response's last box in one form: the digits of an integer, else its text without white
    space. Return None when the response gives no answer."""
    content = boxed_content(final_answer(response))
    return None if content is None else plain_integer(content) or "".join(without_full_stop(content).split())


def majority_share(answers: Sequence[str | None]) -> float:
    """Return the share of the most frequent one among a group's canonical answers. None is a response without an
    answer: it counts, but has no vote."""
    votes = Counter(answer for answer in answers if answer is not None)
    return max(votes.values(), default=0) / len(answers)


def without_full_stop(text: str) -> str:
    """Return the text without white space around it and without one full stop that ends it."""
    return text.strip().removesuffix(".").rstrip()


def plain_integer(text: str) -> str | None:
    """Return the canonical digits of a plain integer ("1,234" or "\\textbf{(+01234)}" -> "1234"), or None for anything
    else.

    The digits are text, as there is no limit to their number. "1,23" is no integer, as it may be a list.
    """
    text = without_full_stop(text)
    if wrapped := _WRAPPER.fullmatch(text):
        text = without_full_stop(wrapped[1])
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    match = _INTEGER.fullmatch(_SEPARATOR.sub(",", text.replace("−", "-")))
    if match is None:
        return None
    digits = match[2].replace(",", "").lstrip("0") or "0"
    return f"-{digits}" if match[1] == "-" and digits != "0" else digits


def _boxes(text: str) -> list[tuple[int, slice]]:
    """Return (start, where its content is) of the closed boxes that are not empty, in the order in which they close."""
    open_braces: list[re.Match[str]] = []
    found = []
    for token in _TOKEN.finditer(text):
        if token[0].endswith("{") and token[0] != r"\{":
            open_braces.append(token)
        elif token[0] == "}" and open_braces:
            opening = open_braces.pop()
            if opening[0] != "{" and _SPACE.match(text, opening.end()).end() < token.start():  # type: ignore[union-attr]
                found.append((opening.start(), slice(opening.end(), token.start())))
    return found


def _tagged(text: str) -> str:
    """Return what stands in the last answer tag of a text that ends with it."""
    _, opening, tagged = text.rpartition("<answer>")
    return tagged.removesuffix("</answer>").strip() if opening and text.endswith("</answer>") else ""


def _marked(text: str) -> str:
    mark, _, marked = text.rpartition("\n")[2].partition("####")
    return "" if mark else marked.strip()
