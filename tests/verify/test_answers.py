"""The answer of a response, and the integers that are compared without mathematics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.verify.answers import TAIL_CHARACTERS, final_answer, plain_integer
from fastsvs.verify.verdict import Verdict
from fastsvs.verify.verifier import compare

integers = st.integers(-(10**30), 10**30)
no_markup = st.text(st.characters(exclude_characters="\\{}#<", exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so \boxed{5}.", r"\boxed{5}"),
        (r"\boxed{1} but then \boxed{2}", r"\boxed{2}"),
        (r"\boxed{\frac{1}{2}}", r"\boxed{\frac{1}{2}}"),
        (r"\boxed{\{1, 2\}}", r"\boxed{\{1, 2\}}"),
        (r"\boxed{\left\{ x \\{y}\right.}", r"\boxed{\left\{ x \\{y}\right.}"),
        (r"\fbox{3} or \framebox{204}", r"\boxed{3, 204}"),
        (r"$\boxed{1}$ and $\boxed{2}$", r"\boxed{1, 2}"),
        (r"\boxed{1}, \boxed{2}, and \boxed{3}", r"\boxed{1, 2, 3}"),
        (r"\boxed{7}, \boxed{7}", r"\boxed{7}"),
        (r"\boxed{7} \boxed{}", r"\boxed{7}"),
        (r"\boxed{7} and then \boxed{8", r"\boxed{7}"),
        (r"} { \boxed{7} {", r"\boxed{7}"),
        (r"<think>\boxed{1}</think>It is 2.", "It is 2."),
        (r"<think>a</think>\boxed{1}</think>\boxed{2}", r"\boxed{2}"),
        (r"\boxed{5}" + " and so on" * 1000, r"\boxed{5}"),
        ("1 + 1 = 2\n#### 2", r"\boxed{2}"),
        ("#### Step 1\n1 + 1 = 2", "#### Step 1\n1 + 1 = 2"),
        ("a" * 5000 + "b" * TAIL_CHARACTERS, "b" * TAIL_CHARACTERS),
        ("so <answer>5</answer>", r"\boxed{5}"),
        ("<answer>4</answer> no, <answer> 5 </answer>", r"\boxed{5}"),
        (r"<answer>\boxed{5}</answer>", r"\boxed{5}"),
        ("<answer></answer>", "<answer></answer>"),
        ("  \n", ""),
    ],
)
def test_final_answer(response, answer):
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    "piece", [r"\boxed{", "{", "}", r"\boxed ", r"\boxed{1} ", r"\boxed{1},", "####", "\n####", " "]
)
def test_long_degenerate_responses_take_linear_time(piece):
    """A quadratic scan would run into the suite's time limit."""
    response = piece * (200_000 // len(piece))
    plain_integer(final_answer(response))
    plain_integer("$" + response)


@pytest.mark.parametrize("opening", [r"\boxed{", "{", r"\boxed{{", r"\boxed{ \text{"])
def test_deeply_nested_boxes_take_linear_time_and_memory(opening):
    """Contents of all boxes of this text would take gigabytes."""
    depth = 256_000 // len(opening)
    response = opening * depth + "5" + "}" * (depth * opening.count("{"))
    answer = final_answer(rf"\boxed{{{response}}}")
    assert answer == rf"\boxed{{{response}}}"
    assert compare(answer, "5") is None


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("5", "5"),
        (" 5. ", "5"),
        ("+5", "5"),
        ("-5", "-5"),
        ("- 5", "-5"),
        ("−5", "-5"),
        ("-0", "0"),
        ("007", "7"),
        ("000", "0"),
        ("1,234", "1234"),
        ("1{,}234", "1234"),
        (r"1\,234\,567", "1234567"),
        (r"10,\!000", "10000"),
        ("$18$", "18"),
        ("$18", "18"),
        (r"\$1,800", "1800"),
        (r"\text{12}", "12"),
        (r"\textbf{(073) }", "73"),
        (r"\boxed{5}", "5"),
        ("(5)", "5"),
        ("9" * 5000, "9" * 5000),
        ("", None),
        ("-", None),
        ("5.0", None),
        ("1,23", None),
        ("0,123", None),
        ("1 2", None),
        ("1/2", None),
        (r"50\%", None),
        ("5 apples", None),
        (r"\text{12}3", None),
        ("(5", None),
        ("1234,567", None),
        ("5..", None),
        ("--5", None),
        ("2^3", None),
        ("٣", None),
        ("five", None),
    ],
)
def test_plain_integer(text, digits):
    assert plain_integer(text) == digits


@given(integers, st.sampled_from(["{}", "{:,}", " {} ", "{}.", "${}$", r"\text{{{}}}", "({})", "{:+}", "{:045}"]))
def test_every_way_of_writing_an_integer_reads_as_that_integer(number, form):
    assert plain_integer(form.format(number)) == str(number)


@given(integers, integers)
def test_integers_are_equal_exactly_when_they_are(number, gold):
    verdict = Verdict.CORRECT if number == gold else Verdict.WRONG
    assert compare(rf"\boxed{{{number}}}", str(gold)) is verdict
    assert compare(rf"\boxed{{{number:,}}}", f"{gold:,}") is verdict


@given(no_markup, integers, no_markup)
def test_a_box_is_found_wherever_it_stands(before, number, after):
    assert final_answer(f"{before}\\boxed{{{number}}}{after}") == f"\\boxed{{{number}}}"


@given(st.text(st.sampled_from("\\boxed{}</think>#0123,.$+- \n"), max_size=200))
def test_any_text_has_an_answer_and_no_error(text):
    plain_integer(final_answer(text))


@given(st.text(), st.text())
def test_what_is_not_two_plain_integers_is_left_to_mathematics(answer, gold):
    if answer and (plain_integer(gold) is None or plain_integer(answer) is None):
        assert compare(rf"\boxed{{{answer}}}", gold) in (None, Verdict.UNVERIFIED)
