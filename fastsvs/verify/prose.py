"""Finds the answer in a text without a box: what an answer phrase introduces, or the one value of its last sentence."""

from __future__ import annotations

import re

_INTRODUCED = re.compile(
    r"(?i:\banswers?(?:\s+to\s+[^.\n:]{1,80})?\s*(?:\*{1,2}\s*)?(?:is|are|=|:)\s*:?)\s*", re.DOTALL
)
_SENTENCE_END = re.compile(r"[.!?]\s+(?=[A-Z\\$*#-]|$)|\n")
_EMPHASIS = re.compile(r"\*\*|__|`")
_MATH = re.compile(
    r"\$\$(.{1,600}?)\$\$|(?<!\\)\$((?:\\\$|[^$\n]){1,600}?)(?<!\\)\$|\\\((.{1,600}?)\\\)|\\\[(.{1,600}?)\\\]",
    re.DOTALL,
)
_MATH_END = re.compile(r"[.,;]\s*(?=\\\]|\\\)|\$(?:\s|$))")
_BETWEEN = re.compile(r"\s*(?:,|,?\s*(?:and|or))\s*")
_STATED = re.compile(
    r".*(?<![A-Za-z])(?:is|are|be|equals?|gives?|get|gets|obtain|have|has|:)(?![A-Za-z])\s*:?\s*(.+)", re.DOTALL
)
_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?|[+-]?\.\d+")
_CALCULATION = re.compile(r"(?:[A-Za-z,:]+\s+)*([\d\s.+\-*/()^=\\a-z{}%$€£]*=[\d\s.+\-*/()^=\\a-z{}%$€£]*)", re.DOTALL)
_LEADING = re.compile(
    r"(?:(?:so|thus|hence|therefore|the|our|final|correct|right),?\s+)*(?:answer|result)\s*(?:is|:|=)[\s:]*(?=\S)"
    r"|(?:(?:so|thus|hence|therefore|the|our|final|correct|right|required|approximately|about|roughly|exactly|only|value|"
    r"solution|option|choice|total|sum|is|are|equals|be|it|we|get|have)(?:\s|:|,|=)+)+(?=[^A-Za-z]|[A-Za-z](?![A-Za-z]))",
    re.IGNORECASE,
)
"""Words that introduce an answer. Only the first kind may stand before words, of which a name may be the answer."""


def stated(text: str) -> str | None:
    """Return the answer that a text without a box states, or None where it states none, as in a box that does not
    end, or several that are no list."""
    if "\\boxed" in text:
        return None
    text = _MATH.sub(lambda formula: " ".join(formula[0].split()), text)
    text = _MATH_END.sub("", text)
    introduced = list(_INTRODUCED.finditer(text))
    rest = text[introduced[-1].end() :] if introduced else text
    if introduced and rest.strip():
        return _first_sentence(rest)
    sentences = [sentence for part in _SENTENCE_END.split(_EMPHASIS.sub("", text)) if (sentence := part.strip(" -#*_"))]
    return _only_value(sentences[-1]) if sentences else None


def without_lead(text: str) -> str:
    """Return an answer without words that only introduce it, as `The answer is`."""
    return text[lead.end() :] if (lead := _LEADING.match(text)) else text


def _first_sentence(text: str) -> str | None:
    """Return the mathematics that the text begins with, else its first sentence."""
    text = _EMPHASIS.sub("", text).strip()
    found = _leading_math(text)
    if found:
        return found
    return _SENTENCE_END.split(text, maxsplit=1)[0].strip(" .") or None


def _leading_math(text: str) -> str | None:
    pieces, end = [], 0
    while match := _MATH.match(text, end):
        pieces.append(next(group for group in match.groups() if group))
        joint = _BETWEEN.match(text, match.end())
        end = joint.end() if joint else match.end()
        if joint is None:
            break
    return ", ".join(pieces) or None


def _only_value(sentence: str) -> str | None:
    formulas = [next(group for group in match.groups() if group) for match in _MATH.finditer(sentence)]
    if formulas:
        between = _MATH.sub("\x00", sentence).split("\x00")[1:-1]
        if len(set(formulas)) == 1 or all(_BETWEEN.fullmatch(words) for words in between):
            return ", ".join(dict.fromkeys(formulas))
        return None
    if calculation := _CALCULATION.fullmatch(sentence):
        return calculation[1].strip()
    match = _STATED.fullmatch(sentence)
    rest = match[1] if match else sentence
    numbers = list(dict.fromkeys(_NUMBER.findall(rest)))
    if len(numbers) > 1 or (len(numbers) == 1 and not match and len(rest.split()) > 12):
        return rest if match and len(rest.split()) < 8 else None
    return rest if match or len(sentence.split()) < 4 else numbers[0] if numbers else None
