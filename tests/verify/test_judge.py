"""Laws that hold for all answers: what is equal in any spelling, what never is, and what cannot fail."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastsvs.verify.judge import judge
from fastsvs.verify.numbers import read_number
from fastsvs.verify.spelling import STEPS, plain
from fastsvs.verify.verdict import Verdict

GOLDS = [
    *(
        "7",
        "-3",
        "0.25",
        ".5",
        "1,234",
        "10,\\!080",
        r"\frac{1}{2}",
        r"-\frac43",
        r"1\frac{4}{5}",
        "3/4",
        r"2^{10}",
        "5!",
    ),
    *(
        r"\sqrt{51}",
        r"11\sqrt2",
        r"\frac{\sqrt{3}}{3}",
        r"2\pi",
        r"\frac{\pi}{6}",
        r"6.02\times10^{23}",
        "1e-05",
        "4.5e33",
    ),
    *("6-5i", "2k+2", "x^3+3x-6", r"(a+5)(b+2)", r"\cot x", r"\log_2 x", r"\frac{n(n+1)}{2}", r"e^{-x}", "|x|"),
    *("x=5", "y = 2x + 3", r"f(x)=x^2+1", "5x - 7y + 11z + 4 = 0", "x > 2", r"x \in [-2,7]", r"x \ne 2"),
    *(
        "1,-2",
        "3, 5, 7",
        r"\pm 3",
        r"1 \pm \sqrt{19}",
        r"\{1\pm\sqrt{5},-2\}",
        "(6,31,-1)",
        r"\left( 3, \frac{\pi}{2} \right)",
    ),
    *(
        "(3,4]",
        r"(-\infty, 0]",
        r"(0,9) \cup (9,36)",
        r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}",
        r"\langle 1,2\rangle",
    ),
    *(
        r"\text{Evelyn}",
        r"\text{(C)}",
        "B",
        "Yes",
        "星期五",
        r"\text{no solution}",
        r"\emptyset",
        r"\infty",
        r"\mathbb{R}",
    ),
    *("52_8", "4210_{5}", r"x \equiv 3 \pmod 7", "12:30", r"\text{2:30 p.m.}", "1:2:3", r"1, 2, \ldots, n", r"28\%"),
    *(r"\$18.90", r"5.4 \text{ cents}", r"864 \mbox{ inches}^2", r"90^\circ", r"3 \text{ hours } 20 \text{ minutes}"),
    *(r"\frac{\pi}{2}+k\pi, k\in\mathbb{Z}", r"5 \text{ R } 3", r"0.\overline{27}", "1A_{16}", r"\binom{10}{3}"),
]
WRAPPERS = [
    *(r"\boxed{%s}", r"\boxed{ %s }", r"\boxed{$%s$}", r"\boxed{%s.}", r"\boxed{\displaystyle %s}", r"\boxed{{%s}}"),
    *(
        r"\boxed{\textcolor{red}{%s}}",
        r"\boxed{\underline{%s}}",
        r"\boxed{\mathbf{%s}}",
        r"\boxed{\text{The answer is } %s}",
    ),
    *(r"\boxed{\boxed{%s}}", r"\boxed{\quad %s\;}", "\\boxed{\u200b%s\u00a0}", r"\boxed{\large %s}", r"\boxed{\(%s\)}"),
]
SPELLINGS = [
    *("{sign}{digits}", "{sign}{digits}.0", "{sign}{digits}.", "{sign}0{digits}", "{sign}{grouped}", "{sign}{spaced}"),
    *(r"{sign}\text{{{digits}}}", r"\mathbf{{{sign}{digits}}}", r"{sign}{digits}\,", r"\frac{{{sign}{digits}}}{{1}}"),
    *("{sign}{digits}e0", "{sign}{digits}0e-1", r"{sign}{digits}\times 10^{{0}}", r"{sign}{digits}00\cdot10^{{-2}}"),
    *(
        r"\frac{{{sign}{twice}}}{{2}}",
        "{sign}{twice}/2",
        "x={sign}{digits}",
        r"{sign}{digits}\text{{ cm}}",
        r"{sign}{wide}",
    ),
    *("({sign}{digits})", r"\left({sign}{digits}\right)", r"\textcolor{{blue}}{{{sign}{digits}}}", "{sign} {digits}"),
    *(r"{sign}{digits}~", r"\num{{{sign}{digits}}}", r"{sign}{digits}\text{{ units}}"),
]
numbers = st.integers(-(10**25), 10**25)
decimals = st.tuples(st.integers(-(10**12), 10**12), st.integers(1, 30))
simple_text = st.text(st.sampled_from("0123456789.,+-*/^_=<>()[]{}|\\!%$ xyabek:'\n"), max_size=40)
_PIECES = (
    r"\frac \sqrt \pm \text{ \le \cup \pi \dots \pmod \equiv \in \mathbb{Z} \infty \{ \} \\ \begin{pmatrix} "
    r"\end{pmatrix} { } ( ) [ , 1 2 x k A + - = e : and_ cm ° ½ & ^ _ | % ."
)
PIECES = [*_PIECES.split(), " "]
commands = st.lists(st.sampled_from(PIECES), max_size=12).map(lambda pieces: "".join(pieces).replace("and_", " and "))


def spelled(number: int, form: str) -> str:
    digits = str(abs(number))
    return form.format(
        sign="-" if number < 0 else "",
        digits=digits,
        grouped=f"{abs(number):,}",
        spaced=f"{abs(number):,}".replace(",", r"\,"),
        twice=2 * abs(number),
        wide=digits.translate({48 + digit: 0xFF10 + digit for digit in range(10)}),
    )


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_right_answers_are_right_in_every_wrapper(wrapper):
    verdicts = {gold: judge(wrapper.replace("%s", gold), gold) for gold in GOLDS}
    assert verdicts == dict.fromkeys(GOLDS, Verdict.CORRECT)


def test_no_two_right_answers_are_equal():
    """Those that follow one another here have different values."""
    for gold, other in pairwise(GOLDS):
        assert judge(rf"\boxed{{{other}}}", gold) is not Verdict.CORRECT, (gold, other)
        assert judge(rf"\boxed{{{gold}}}", other) is not Verdict.CORRECT, (other, gold)


@given(numbers, st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS))
def test_an_integer_is_equal_to_itself_in_any_two_spellings(number, one, other):
    assert judge(rf"\boxed{{{spelled(number, other)}}}", spelled(number, one)) is Verdict.CORRECT


@given(numbers, st.sampled_from([-1, 1, 10, -7]), st.sampled_from(SPELLINGS), st.sampled_from(SPELLINGS))
def test_an_integer_is_never_equal_to_another(number, step, one, other):
    assert judge(rf"\boxed{{{spelled(number + step, other)}}}", spelled(number, one)) is not Verdict.CORRECT


def decimal_spellings(mantissa: int, places: int) -> list[str]:
    """Return some ways to write mantissa / 10**places."""
    sign, digits = "-" if mantissa < 0 else "", str(abs(mantissa)).rjust(places + 1, "0")
    point = f"{digits[:-places]}.{digits[-places:]}"
    return [
        *(f"{sign}{point}", f"{sign}{point}000", f"{mantissa}e-{places}", f"{mantissa}E-{places:02d}"),
        *(
            rf"{mantissa}\times 10^{{-{places}}}",
            rf"{mantissa}\cdot10^{{−{places}}}",
            rf"\frac{{{mantissa}}}{{10^{{{places}}}}}",
        ),
        rf"\frac{{{mantissa}}}{{{10**places}}}",
    ]


@given(decimals, st.integers(0, 7), st.integers(0, 7))
def test_a_decimal_is_equal_to_itself_in_any_spelling_and_never_to_one_with_another_last_digit(decimal, one, other):
    mantissa, places = decimal
    gold = decimal_spellings(mantissa, places)[one]
    assert judge(rf"\boxed{{{decimal_spellings(mantissa, places)[other]}}}", gold) is Verdict.CORRECT
    assert judge(rf"\boxed{{{decimal_spellings(mantissa + 1, places)[other]}}}", gold) is Verdict.WRONG
    assert (
        judge(rf"\boxed{{{decimal_spellings(mantissa, places + 1)[other]}}}", gold) is not Verdict.CORRECT
        or not mantissa
    )


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_that_python_writes_is_read_exactly(number):
    read = read_number(plain(str(number)))
    assert read is not None
    assert float(read.value) == number
    assert judge(rf"\boxed{{{number!r}}}", str(number)) is Verdict.CORRECT


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_fractions_are_equal_exactly_when_they_are(one, other):
    def written(number: Fraction) -> str:
        return rf"\frac{{{3 * number.numerator}}}{{{3 * number.denominator}}}"

    expected = Verdict.CORRECT if one == other else Verdict.WRONG
    assert judge(rf"\boxed{{{written(one)}}}", f"{other.numerator}/{other.denominator}") is expected
    assert judge(rf"\boxed{{{one.numerator}/{one.denominator}}}", written(other)) is expected


@settings(max_examples=25)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=4), st.integers(1, 60), st.sampled_from([0, 1]))
def test_polynomials_are_equal_exactly_when_their_coefficients_are(coefficients, power, change):
    def written(values: list[int], order: int) -> str:
        terms = [f"({value})x^{{{index}}}" for index, value in enumerate(values)]
        return "+".join(terms[::order]) + rf"+\frac{{x}}{{2^{{{power}}}}}"

    changed = [coefficients[0] + change, *coefficients[1:]]
    expected = Verdict.WRONG if change else Verdict.CORRECT
    assert judge(rf"\boxed{{{written(changed, -1)}}}", written(coefficients, 1)) is expected


@pytest.mark.parametrize("gold", GOLDS)
def test_equality_of_values_has_no_direction(gold):
    for other in GOLDS:
        one, two = judge(rf"\boxed{{{other}}}", gold), judge(rf"\boxed{{{gold}}}", other)
        assert (one is Verdict.CORRECT) == (two is Verdict.CORRECT), other


@given(st.one_of(simple_text, commands), st.sampled_from([*GOLDS, "", "?", r"\frac{3}{"]))
def test_any_answer_has_a_verdict(answer, gold):
    assert judge(rf"\boxed{{{answer}}}", gold) in set(Verdict)
    assert judge(answer, gold) in set(Verdict)


@given(st.one_of(simple_text, commands), st.sampled_from(["5", r"\frac12", "x^2"]))
def test_any_right_answer_gives_a_verdict(gold, answer):
    assert judge(rf"\boxed{{{answer}}}", gold) in set(Verdict)


@given(st.one_of(simple_text, commands))
@example(r"\*")
@example(r"\...")
@example(r"\<=")
@example(r"\**2")
def test_plain_spelling_is_reached_at_once(text):
    assert plain(plain(text)) == plain(text)


@given(st.integers(1, 19_000), st.sampled_from(range(len(STEPS))))
def test_steps_of_spelling_leave_digits_alone(number, step):
    assert STEPS[step](str(number)) == str(number)
