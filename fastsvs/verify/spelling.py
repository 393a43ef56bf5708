"""Spells answers in one way: the many forms of one sign, space, wrapper or command become one LaTeX text.

`plain` is a pipeline of small steps over strings. Each step takes time linear in the length of the text, and none
changes what the text means.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import lru_cache

from fastsvs.verify.structure import enclosed

MOST_BRACES = 20
"""Number of pairs of braces around the whole that are removed."""
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
FRACTIONS = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
CHARACTERS: Mapping[str, str] = {
    **{"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "⁄": "/", "∕": "/"},
    **{"×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": r"\cdot "},
    **{"±": r"\pm ", "∓": r"\mp ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne "},
    **{"≈": r"\approx ", "≡": r"\equiv ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus "},
    **{"∞": r"\infty ", "∅": r"\emptyset ", "°": r"^\circ ", "º": r"^\circ ", "…": r"\dots ", "⋯": r"\dots "},
    **{"∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "√": r"\sqrt ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}"},
    **{"ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "⟨": r"\langle ", "⟩": r"\rangle "},
    **{"〈": r"\langle ", "〉": r"\rangle ", "∧": r"\land ", "∨": r"\lor ", "∑": r"\sum ", "∫": r"\int "},
    **{"α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon "},
    **{"θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "π": r"\pi ", "ρ": r"\rho ", "σ": r"\sigma "},
    **{"τ": r"\tau ", "φ": r"\phi ", "ϕ": r"\phi ", "ω": r"\omega ", "Δ": r"\Delta ", "Ω": r"\Omega "},
    **{"。": ".", "、": ",", "′": "'", "’": "'", "“": '"', "”": '"'},
}
COMMANDS: Mapping[str, str] = {
    **{"dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "dbinom": r"\binom", "tbinom": r"\binom"},
    **{"leq": r"\le ", "leqslant": r"\le ", "geq": r"\ge ", "geqslant": r"\ge ", "neq": r"\ne ", "lt": "<", "gt": ">"},
    **{"ldots": r"\dots ", "cdots": r"\dots ", "dotsc": r"\dots ", "dotsb": r"\dots ", "vdots": r"\dots "},
    **{"varnothing": r"\emptyset ", "degree": r"^\circ ", "textdegree": r"^\circ ", "ast": r"\cdot ", "colon": ":"},
    **{"lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")"},
    **{"lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "bar": r"\overline", "land": " and ", "lor": " or "},
    **{"wedge": " and ", "vee": " or ", "euro": "€", "pounds": "£", "textdollar": r"\$", "imath": "i"},
    **{"backslash": r"\setminus ", "smallsetminus": r"\setminus ", "varphi": r"\phi ", "varepsilon": r"\epsilon "},
    **{"iff": r"\Leftrightarrow ", "bmod": r"\mod ", "exponentialE": "e", "lg": r"\log "},
    **dict.fromkeys(("quad", "qquad", "enspace", "thinspace", "nobreakspace", "newline"), " "),
    **dict.fromkeys(("left", "right", "middle", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr"), ""),
    **dict.fromkeys(("biggl", "biggr", "Biggl", "Biggr", "bigm", "displaystyle", "textstyle", "limits"), ""),
    **dict.fromkeys(("nonumber", "notag", "bf", "rm", "it", "normalsize", "large", "Large", "LARGE", "huge"), ""),
}
"""Commands without arguments and what stands for them."""
SIGNS: Mapping[str, str] = {"<=": r"\le ", ">=": r"\ge ", "*": r"\cdot ", "...": r"\dots "}
"""Signs of plain text and the commands that stand for them."""
TEXT = ("text", "textbf", "textit", "textrm", "textnormal", "textsf", "texttt", "textup", "emph", "mbox", "hbox")
ROMAN = ("mathrm", "mathbf", "mathit", "mathsf", "mathnormal", "mathtt", "operatorname", "boldsymbol", "bm")
TRANSPARENT = ("underline", "boxed", "fbox", "framebox", "ensuremath", "smash", "cancel", "mathop", "overbrace")
_FUNCTIONS = "sin cos tan cot sec csc ln log exp arcsin arccos arctan sinh cosh tanh max min gcd lcm det"
FUNCTIONS = frozenset(_FUNCTIONS.split())
"""Functions that are commands, also where a response leaves out the backslash."""

_SUPERSCRIPT = re.compile(f"[{''.join(SUPERSCRIPTS)}]+")
_SUBSCRIPT = re.compile(f"[{''.join(SUBSCRIPTS)}]+")
_INVISIBLE = dict.fromkeys((173, 8203, 8204, 8205, 8206, 8207, 8288, 8289, 8290, 65279))
_CHARACTERS = str.maketrans(dict(CHARACTERS))
_MEASURE = re.compile(r"\\(?:(ang|num)|SI|qty)\s{0,9}\{([^{}]*)\}(?:\s{0,9}\{([^{}]*)\})?")
_COLOUR = re.compile(r"\\(?:textcolor|colorbox|color)\s{0,9}(?:\[[^\]{}]{0,40}\])?\s{0,9}\{[^{}]{0,60}\}")
_NOTHING = re.compile(r"\\(?:phantom|hphantom|vphantom|hspace\*?|vspace\*?|label|tag)\s{0,9}\{[^{}]{0,60}\}")
_LAYOUT = re.compile(r"\\(?:begin|end)\s{0,9}\{(?:aligned|align\*?|gathered|gather\*?|equation\*?|split)\}|&(?==)")
_DELIMITER = re.compile(r"\\(?:left|right)\s{0,9}\.")
_COMMAND = re.compile(r"\\([A-Za-z]+)\s*")
_NEGATIVE_SPACE = re.compile(r"(,?)\\!\s{0,9}")
_SPACING = re.compile(r"\\[,;: >]|\\$|~|\s")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")
_ROW_END = re.compile(r"\\\\(?:\[[^\]]{0,20}\])?")
_TOKEN = re.compile(r"\\([A-Za-z]+)\s*\{|\\.|[{}]", re.DOTALL)
_SCRIPT_CIRCLE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)")
_BRACKETED_ROOT = re.compile(r"\\sqrt\s*\(([^()]*)\)")
_BARE_ROOT = re.compile(r"\\sqrt\s*(\d|[A-Za-z]|\\pi)")
_WRITTEN_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*[({]([^(){}]*)[)}]")
_BARE_FRACTION = re.compile(
    r"\\frac\s*(\d|[A-Za-z]|\\pi)\s*(\d|[A-Za-z]|\\pi|(?=\{))|\\frac\s*(\{[^{}]*\})\s*(\d|[A-Za-z])"
)
_CHOOSE = re.compile(r"\{([^{}]*)\\choose([^{}]*)\}")
_BARE_BINOMIAL = re.compile(r"\\binom\s*([A-Za-z\d])\s*([A-Za-z\d])")
_BARE_ACCENT = re.compile(r"\\(hat|vec|tilde|overline)\s*([A-Za-z])(?![A-Za-z])")
_POWER = re.compile(r"\^\s?\(([^()]*)\)")
_NATURAL = re.compile(r"\\log\s?_\s?(?:\{\s?e\s?\}|e(?![A-Za-z]))\s?")
_WRITTEN = re.compile(r"(?<![\\A-Za-z])(pi|infty|infinity|inf|theta)(?![A-Za-z])")
_SIGN = re.compile(r"\\?(<=|>=|\*|\.{3})")  # with a backslash before it, which would be doubled
_MODULUS = re.compile(
    r"\(\s?\\?mod(?![a-z])\s?\{?(\w+)\}?\s?\)|(?:\\p?mod|(?<![\\a-z])mod)(?![a-z])\s?\{?\s?(\w+)\s?\}?"
)
_GROUPED = re.compile(r"(?<![\d.,_^])[1-9]\d{0,2}(?:(?: |\{,\})\d{3})+(?![\d/])")
_MATH_MARK = re.compile(r"(\\\\(?:\[\d)?|\\\$)|\$|\\[()\[\]]")


@lru_cache(maxsize=8192)
def plain(text: str) -> str:
    """Return the text in the one spelling that the readers know: `\\text{...}` for all kinds of text, `\\frac{a}{b}`
    for all kinds of fractions, single spaces, and no layout, dollar signs or full stop around it."""
    for step in STEPS:
        text = step(text)
    return text


def flat(text: str) -> str:
    """Return a plain text with what stands in `\\text{...}` put beside the rest, between spaces."""
    return " ".join(_unwrap(text, {"text": (" ", " ")}).split()) if "\\text" in text else text


def squeezed(text: str) -> str:
    """Return a plain text without the spaces and braces that do not matter to its meaning, in lower case only where it
    is words."""
    text = re.sub(r"(?<=\d) (?=\d)", "_", flat(text))
    text = re.sub(r"([\^_])\{([A-Za-z0-9])\}", r"\1\2", text)
    return re.sub(r"(?<![A-Za-z]) | (?![A-Za-z])", "", text)


def _characters(text: str) -> str:
    text = re.sub(r"[\t\n\v\f\r]", " ", text.translate(_INVISIBLE))
    text = _SUPERSCRIPT.sub(lambda match: "^{" + "".join(SUPERSCRIPTS[sign] for sign in match[0]) + "}", text)
    text = _SUBSCRIPT.sub(lambda match: "_{" + "".join(SUBSCRIPTS[sign] for sign in match[0]) + "}", text)
    if text.isascii():
        return text
    text = "".join(sign if sign.isascii() else str(unicodedata.decimal(sign, sign)) for sign in text)
    for sign in FRACTIONS:
        over, _, under = unicodedata.normalize("NFKC", sign).partition("⁄")
        text = text.replace(sign, rf"\frac{{{over}}}{{{under}}}")
    return unicodedata.normalize("NFKC", text.translate(_CHARACTERS))


def _symbols(text: str) -> str:
    return text if text.isascii() else re.sub(r"(√|∛|∜)\s*(\d+)", r"\1{\2}", text).translate(_CHARACTERS)


def _marks(text: str) -> str:
    """Remove what only says that mathematics or bold type begins or ends."""
    bare = text.strip()
    text = bare[2:-2] if bare.startswith("**") and bare.endswith("**") and len(bare) > 4 else text
    return _MATH_MARK.sub(lambda mark: mark[1] or ("" if mark[0] == "$" else " "), text)


def _layout(text: str) -> str:
    if "\\\\" in text:
        text = text if r"\begin" in text else _DOUBLED.sub(r"\\", text)
        text = _ROW_END.sub(r"\\cr ", text)
    text = _MEASURE.sub(_measured, text)
    for pattern in (_COLOUR, _NOTHING, _LAYOUT, _DELIMITER):
        text = pattern.sub("", text)
    return text


def _measured(match: re.Match[str]) -> str:
    """Return the number and the unit of a command of siunitx."""
    if match[1]:
        return match[2] + ("^\\circ " if match[1] == "ang" else "")
    unit = (match[3] or "").replace("\\per", " per ").replace("\\", " ")
    return f"{match[2]} \\text{{{unit}}}"


def _commands(text: str) -> str:
    return _COMMAND.sub(
        lambda match: COMMANDS[match[1]] if match[1] in COMMANDS else match[0], text.replace("\\%", "%")
    )


def _wrappers(text: str) -> str:
    pairs = dict.fromkeys(TEXT, ("\\text{", "}")) | dict.fromkeys(TRANSPARENT, ("", ""))
    text = re.sub(r"\\(?:" + "|".join(ROMAN) + r")\s*\{\s*([A-Za-z])\s*\}", r" \1", text)
    text = re.sub(r"\\operatorname\s*\{\s*([a-z]+)\s*\}", lambda m: f"\\{m[1]} " if m[1] in FUNCTIONS else m[0], text)
    words = re.compile(
        r"\\(?:"
        + "|".join(ROMAN)
        + r")\s*\{(?=(?:[^{}\\]|\\[,;:! ]|\^\{-?\d\})*\})(?=[~\s]*(?:[A-Za-z]+(?:[A-Za-z/]|\\[,;: ])|\([A-Z]\)))"
    )
    text = words.sub(r"\\text{", text)
    return _unwrap(text, pairs | dict.fromkeys(ROMAN, ("{", "}")))


def _unwrap(text: str, pairs: Mapping[str, tuple[str, str]]) -> str:
    """Put the pair of texts for a command in place of `\\command{` and its closing brace, for all commands of
    `pairs`."""
    pieces, closings, end = [], [], 0
    for token in _TOKEN.finditer(text):
        replacement = ""
        if token[0] == "{" or token[1]:
            opening, closing = pairs.get(token[1] or "", (token[0], "}"))
            closings.append(closing)
            replacement = opening
        elif token[0] == "}":
            replacement = closings.pop() if closings else "}"
        else:
            replacement = token[0]
        pieces += [text[end : token.start()], replacement]
        end = token.end()
    return "".join([*pieces, text[end:]])


def _spaces(text: str) -> str:
    return " ".join(_SPACING.sub(" ", _NEGATIVE_SPACE.sub(r"\1", text)).split())


def _thousands(text: str) -> str:
    """Join the groups of a number that spaces or commas in braces separate; commas stay."""
    return (
        _GROUPED.sub(lambda match: match[0].replace(" ", "").replace("{,}", ""), text)
        .replace("{,}", ",")
        .replace("{:}", ":")
    )


def _operators(text: str) -> str:
    text = _SCRIPT_CIRCLE.sub(r"^\\circ ", text.replace("**", "^"))
    text = _SIGN.sub(lambda match: SIGNS[match[1]], text)
    for pattern in (_BRACKETED_ROOT, _BARE_ROOT, _WRITTEN_ROOT):
        text = pattern.sub(lambda match: f"\\sqrt{{{match[1]}}}", text)
    text = _BARE_FRACTION.sub(_fraction, _CHOOSE.sub(r"\\binom{\1}{\2}", text))
    text = _BARE_BINOMIAL.sub(r"\\binom{\1}{\2}", _BARE_ACCENT.sub(r"\\\1{\2}", text))
    text = _NATURAL.sub(r"\\ln ", _POWER.sub(r"^{\1}", text))
    text = _WRITTEN.sub(lambda match: "\\infty " if match[1].startswith("inf") else f"\\{match[1]} ", text)
    text = _MODULUS.sub(lambda match: f" \\pmod{{{match[1] or match[2]}}}", text) if "mod" in text else text
    return " ".join(text.split())


def _fraction(match: re.Match[str]) -> str:
    over = match[3] or f"{{{match[1]}}}"
    under = match[4] or match[2]
    return f"\\frac{over}{{{under}}}" if under else f"\\frac{over}"


def _trimmed(text: str) -> str:
    """Remove braces around the whole, and the punctuation that ends it."""
    for _ in range(MOST_BRACES):
        bare = text.strip().rstrip(",;").rstrip()
        bare = bare[:-1].rstrip() if bare.endswith(".") and not bare.endswith("..") and len(bare) > 1 else bare
        inner = enclosed(bare, "{", "}")
        bare = bare if inner is None else inner
        if bare == text:
            break
        text = bare
    return text


STEPS: tuple[Callable[[str], str], ...] = (
    *(_characters, _symbols, _marks, _layout, _commands, _wrappers, _spaces, _thousands, _operators, _trimmed),
)
