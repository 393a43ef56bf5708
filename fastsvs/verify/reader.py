"""Reads a plain text (see `spelling.plain`) as one of the forms of an answer.

Each reader knows one form and returns None for every other text. The first that knows the text is right, so their
order matters: what is in brackets, say, is looked at before what relates two sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import product

from fastsvs.verify.forms import (
    Based,
    Choice,
    Congruence,
    Dots,
    Expression,
    Form,
    Items,
    Matrix,
    Named,
    Ratio,
    Relation,
)
from fastsvs.verify.measures import read_clock, read_compound, read_quantity, read_words
from fastsvs.verify.numbers import NUMERALS, read_number
from fastsvs.verify.spelling import flat, plain
from fastsvs.verify.structure import DEEPEST, deepest, enclosed, split

MOST_SIGNS = 4
"""Number of signs +- in one expression up to which all their combinations are read."""

_SEPARATOR = re.compile(r",|;|\\cr(?![a-z])|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_THOUSANDS = re.compile(r"(?<![\d.,(\[{])([1-9]\d{0,2}(?:,\d{3})+)(?![\d,]|\s?[)\]}])")
_RELATION = re.compile(r"\\(?:le|ge|ne|approx|in)(?![a-zA-Z])|(?<!\\)[<>=]")
_CUP = re.compile(r"\\cup(?![a-z])")
_COLON = re.compile(":")
_CHOICE = re.compile(
    r"(?:(?i:option|choice|answer)\s?:?\s?)?(?:\(([A-J])\)|\[([A-J])\]|([A-J])[.):]|([A-J])(?=$))(?:\s(?!(?:and|or)\s|[+*/^=<>_]|-\D|\\(?!frac|sqrt|pi|text|infty))(.*)|$)"
    r"|(?i:option|choice)\s?:?\s?\(?([A-J])\)?"
)
_NAME = re.compile(
    r"\\?[A-Za-z]+(?:\s[A-Za-z]+){0,6}'{0,3}(?:_(?:\{[^{}]{1,20}\}|\w))?'{0,3}\s?(?:\([^()]{0,40}\)|\^\{-1\}\([^()]{0,40}\))?"
    r"|\\(?:sin|cos|tan|cot|ln|log)\s?\\?[A-Za-z]+|\|\s?[A-Za-z]{1,3}\s?\||\\(?:angle|triangle|overline|vec)\s?\{?[A-Za-z]{1,4}\}?|[A-Z]{1,2}\s?\([^()]{0,40}\)"
    r"|\(\s?[a-z](?:_\{?\w\}?)?(?:,\s?[a-z](?:_\{?\w\}?)?){1,4}\s?\)"
)
_CLAUSE = re.compile(
    r"(?:for |where |with )?([a-z])\s?\\in\s?(?:\\mathbb\s?)?\{?[ZN]\}?(?:\s?[\^_]\s?\{?[+*>=0-9 ]{0,6}\}?)?"
    r"|(?:where |for |with )?([a-z]) (?:is |being )?(?:an? |any )?(?:\w+ )?integer"
    r"|(?:where |for |with )?(?:any |all |every )(?:\w+ )?integers? ([a-z])"
)
_BASED = re.compile(r"\(?([0-9A-Z]+)\)?\s?(?:_\s?(?:\{\s?\(?(\w+)\)?\s?\}|(\w+))|\(?\s?(?:in )?base (\w+)\)?)")
_CONGRUENCE = re.compile(r"(?:([^\\]{0,20}?)\s?\\equiv\s?)?((?:[^\\]|\\pm){1,200}?)\s?\\pmod\{(\d{1,9})\}")
_MATRIX = re.compile(
    r"\\begin\s?\{([pbB]?(?:small)?matrix|array)\}(?:\s?\{[lcr| ]{1,40}\})?(.*)\\end\s?\{\1\}", re.DOTALL
)
_SIGN = re.compile(r"\\pm(?![a-z])|\\mp(?![a-z])")
_KINDS = {
    ("(", ")"): "()",
    ("[", "]"): "[]",
    ("(", "]"): "(]",
    ("[", ")"): "[)",
    (r"\{", r"\}"): "{}",
    (r"\langle", r"\rangle"): "<>",
}
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}


@lru_cache(maxsize=4096)
def read(text: str) -> Form:
    """Return the form of an answer, of which `text` is any spelling."""
    text = flat(plain(text))
    return _read(text) if deepest(text) <= DEEPEST else Expression(text)


def is_name(text: str) -> bool:
    """Check whether a plain text only names something: a letter, a function of letters, a segment, words."""
    return _NAME.fullmatch(text) is not None and read_number(text) is None


def _read(text: str) -> Form:
    for reader in READERS:
        form = reader(text)
        if form is not None:
            return form
    return Expression(text)


def _choice(text: str) -> Form | None:
    match = _CHOICE.fullmatch(text)
    if match is None:
        return None
    letter = next(group for group in (*match.groups()[:4], match[6]) if group)
    content = (match[5] or "").strip()
    return Choice(letter, _read(content) if content else None)


def _matrix(text: str) -> Form | None:
    for opening, closing in (("(", ")"), ("[", "]")):
        text = enclosed(text, opening, closing) or text if text.count(r"\begin") == 1 else text
    match = _MATRIX.fullmatch(text)
    if match is None or r"\begin" in match[2]:
        return None
    rows = [row for row in re.split(r"\\cr(?![a-z])", match[2]) if row.strip()]
    return Matrix(tuple(tuple(_read(entry.strip()) for entry in row.split("&")) for row in rows)) if rows else None


def _congruence(text: str) -> Form | None:
    match = _CONGRUENCE.fullmatch(text)
    if match is None:
        return None
    pieces = [piece.replace(r"\pm", sign) for piece in split(match[2], _SEPARATOR)[0] for sign in ("", "-")]
    remainders = [read_number(piece) for piece in dict.fromkeys(pieces)]
    modulus = int(match[3])
    if not modulus or not all(number is not None and number.value.denominator == 1 for number in remainders):
        return None
    return Congruence(frozenset(int(number.value) % modulus for number in remainders if number), modulus)


def _list(text: str) -> Form | None:
    kept = _THOUSANDS.sub(lambda match: match[1].replace(",", ""), text)
    pieces = [piece for piece in split(kept, _SEPARATOR)[0] if piece]
    if len(pieces) < 2:
        return _read(pieces[0]) if pieces and pieces[0] != text else None
    clauses = {piece: letter for piece in pieces if (letter := _bound_letter(piece))}
    said = [piece for piece in pieces if piece not in clauses]
    for letter in clauses.values():
        said = [re.sub(rf"(?<![\\A-Za-z]){letter}(?![A-Za-z])", "k", piece) for piece in said]
    items = tuple(_items(said))
    if not items or (clauses and len(items) == 1):
        return items[0] if items else Expression(text)
    if isinstance(items[0], Named) and not any(isinstance(item, Named) for item in items[1:]):
        items = (items[0].value, *items[1:])
    return Items("list", items, text)


def _bound_letter(piece: str) -> str | None:
    """Return the letter about which a piece of text only says that it is any integer, else None."""
    match = _CLAUSE.fullmatch(piece)
    return (match[1] or match[2] or match[3]) if match else None


def _items(pieces: Iterable[str]) -> list[Form]:
    """Return the forms of the pieces; those with a sign +- give one each for plus and minus."""
    items: list[Form] = []
    for piece in pieces:
        form = Dots() if piece == r"\dots" else _read(piece)
        items += form.items if isinstance(form, Items) and form.kind == "list" else [form]
    return items


def _bracketed(text: str) -> Form | None:
    for (opening, closing), kind in _KINDS.items():
        inner = enclosed(text, opening, closing)
        if inner is None or (kind != "{}" and _SIGN.search(inner)):
            continue
        if kind == "{}" and (built := _set_builder(inner)):
            return built
        if kind != "{}" and ", " in inner:
            inner = _THOUSANDS.sub(lambda match: match[1].replace(",", ""), inner)
        pieces = [piece for piece in split(inner, re.compile("[,;]"))[0] if piece]
        if len(pieces) == 1 and kind == "()":
            return _read(pieces[0])
        return (
            Items(kind, tuple(_items(pieces)), text) if pieces else Expression(r"\emptyset") if kind == "{}" else None
        )
    return None


def _set_builder(inner: str) -> Form | None:
    """Read the `x | x > 2` of a set as the relation."""
    pieces, _ = split(inner, re.compile(r"[|:]"))
    return _read(pieces[1]) if len(pieces) == 2 and re.match(r"\\?[a-z]+(?:\s?\\in.*)?$", pieces[0]) else None


def _based(text: str) -> Form | None:
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    name = match[2] or match[3] or match[4]
    base = int(name) if name.isascii() and name.isdigit() and len(name) < 3 else NUMERALS.get(name.lower(), 0)
    if not 2 <= base <= 36 or not any(digit.isdigit() for digit in match[1]) or len(match[1]) > 4000:
        return None
    return Based(match[1].lstrip("0") or "0", base) if all(int(digit, 36) < base for digit in match[1]) else None


def _plus_minus(text: str) -> Form | None:
    signs = _SIGN.findall(text)
    if not signs or len(signs) > MOST_SIGNS:
        return None
    linked = any(sign == r"\mp" for sign in signs)
    choices = [(sign,) * len(signs) for sign in "+-"] if linked else list(product("+-", repeat=len(signs)))
    variants = []
    for chosen in choices:
        replacements = iter(chosen)
        variants.append(_SIGN.sub(lambda sign: _signed(sign[0], next(replacements)), text))  # noqa: B023
    return Items(
        "list", tuple(_items(re.sub(r"(^|[=(,{])\s?\+", r"\1", variant).strip() for variant in variants)), text
    )


def _signed(sign: str, chosen: str) -> str:
    return chosen if sign == r"\pm" else "-" if chosen == "+" else "+"


def _relation(text: str) -> Form | None:
    sides, signs = split(text, _RELATION)
    if not signs or not all(sides[1:]):
        return None
    if not sides[0]:
        return _read(sides[1]) if len(sides) == 2 and signs[0] in ("=", r"\approx") else None
    if signs[-1] == r"\approx":
        return (
            _read(sides[-1]) if len(sides) == 2 and is_name(sides[0]) else _read(text.rpartition(r"\approx")[0].strip())
        )
    if signs[0] == r"\in":
        return Named(sides[0], _read(sides[1]), sides[1]) if len(sides) == 2 and is_name(sides[0]) else None
    if set(signs) == {"="}:
        return _equation(sides)
    if r"\in" in signs or r"\approx" in signs:
        return None
    return _interval(sides, signs) or Relation(tuple(sides), tuple(signs))


def _equation(sides: list[str]) -> Form:
    chain = Relation(tuple(sides), ("=",) * (len(sides) - 1))
    if is_name(sides[0]):
        rest = "=".join(sides[1:])
        return Named(sides[0], _read(rest), rest)
    if len(sides) == 2 and is_name(sides[1]) and read_number(sides[0]) is not None:
        return Named(sides[1], _read(sides[0]), sides[0])
    return chain


def _interval(sides: list[str], signs: list[str]) -> Form | None:
    """Read an inequality for one name as the interval, or the two intervals, of its values."""
    if signs == [r"\ne"]:
        text = rf"(-\infty,{sides[1]})\cup({sides[1]},\infty)"
        return Named(sides[0], _read(text), text) if is_name(sides[0]) else None
    if r"\ne" in signs or len({sign in ("<", r"\le") for sign in signs}) > 1 or len(sides) > 3:
        return None
    if signs[0] in (">", r"\ge"):
        sides, signs = sides[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
    if len(sides) == 2:
        ends = (["-\\infty", *sides], ["<", *signs]) if is_name(sides[0]) else ([*sides, "\\infty"], [*signs, "<"])
        sides, signs = ends
    if not is_name(sides[1]):
        return None
    text = f"{'[' if signs[0] != '<' else '('}{sides[0]},{sides[2]}{']' if signs[1] != '<' else ')'}"
    return Named(sides[1], _read(text), text)


def _union(text: str) -> Form | None:
    pieces, signs = split(text, _CUP)
    return Items("union", tuple(_read(piece) for piece in pieces), text) if signs and all(pieces) else None


def _ratio(text: str) -> Form | None:
    terms, signs = split(text, _COLON)
    return Ratio(tuple(_items(terms)), text) if signs and all(terms) else None


READERS: tuple[Callable[[str], Form | None], ...] = (
    *(read_number, _matrix, _choice, read_compound, read_clock, _congruence, _list, _bracketed, _plus_minus, _based),
    *(_relation, _union, _ratio, lambda text: read_quantity(text, _read), read_words),
)
