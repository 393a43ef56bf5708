"""Answers and questions come out of every wrapping that public sets use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.data.answers import last_boxed, read_answer
from fastsvs.data.columns import Question, find_columns, read_question
from fastsvs.data.sources import Table
from fastsvs.errors import UserError


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (42, "42"),
        (2.5, "2.5"),
        ("  34 ", "34"),
        ("216.", "216"),
        ("$x^2$", "x^2"),
        ("$$7$$.", "7"),
        ("\\(3\\)", "3"),
        ("\\[ \\frac12 \\]", "\\frac12"),
        ("$a$ and $b$", "$a$ and $b$"),
        ("\\left(1,2\\right.", "\\left(1,2\\right."),
        ("[-2,7]", "[-2,7]"),
        ('["34"]', "34"),
        ("['2', '3']", "2, 3"),
        (["\\frac{1}{2}"], "\\frac{1}{2}"),
        (["$2$", 3], "2, 3"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("两", "两"),
        (None, ""),
        ("", ""),
    ],
)
def test_answers_are_unwrapped(value: object, answer: str) -> None:
    assert read_answer(value, "here") == (answer, None)


def test_the_end_of_a_worked_text_is_its_answer_and_the_text_its_solution() -> None:
    gsm8k = "She sells 9 * 2 = <<9*2=18>>18.\n#### 70,000"
    assert read_answer(gsm8k, "here") == ("70000", gsm8k)
    boxed = "First \\boxed{1}, so the sum is $\\boxed{\\{1,\\frac{2}{3}\\}}$, as claimed."
    assert read_answer(boxed, "here") == ("\\{1,\\frac{2}{3}\\}", boxed)
    heading = "#### Step 1\nAdd them."
    assert read_answer(heading, "here", marked_only=True) == ("", heading)


@given(st.recursive(st.text("ab^+ ", max_size=4), lambda inner: inner.map(lambda text: f"{{{text}}}"), max_leaves=5))
def test_the_last_box_is_found_whole_however_deep_its_braces(content: str) -> None:
    assert last_boxed(f"\\boxed{{0}} then \\boxed{{{content}}} and {{some}} more") == content.strip()
    assert last_boxed(f"\\boxed{{{content}") is None


def test_a_chat_gives_its_user_turn_and_keeps_its_system_turn() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " What is 1+1? "}]
    assert read_question(chat, "here") == Question(" What is 1+1? ", "Be brief.")
    assert read_question([{"from": "human", "value": "Why?"}], "here") == Question("Why?")
    with pytest.raises(UserError, match=r"row 3.*2 user turns"):
        read_question(chat + chat, "row 3")
    with pytest.raises(UserError, match="role and content"):
        read_question([{"text": "Why?"}], "row 3")


def test_usual_names_are_found_in_any_case_and_empty_columns_passed_over() -> None:
    table = Table("t", "t.jsonl", [{"ID": 1, "Problem": "q", "answer": None, "Final_Answer": ["7"], "Solution": "s"}])
    columns = find_columns(table, None, None)
    assert (columns.question, columns.answer, columns.solution) == ("Problem", "Final_Answer", "Solution")


def test_a_solution_column_stands_in_for_a_missing_answer() -> None:
    columns = find_columns(Table("t", "t", [{"problem": "q", "solution": "so \\boxed{3}"}]), None, None)
    assert columns.answer == columns.solution == "solution"


def test_explicit_columns_win_and_wrong_ones_are_named() -> None:
    table = Table("t", "t.jsonl", [{"problem": "q", "text": "q2", "answer": "1", "meta": {"key": "2"}}])
    columns = find_columns(table, "text", "meta.key")
    assert (columns.question, columns.answer) == ("text", "meta.key")
    with pytest.raises(UserError, match=r"data.answer_column='anwser'.*did you mean 'answer'.*problem, text"):
        find_columns(table, None, "anwser")


def test_missing_columns_list_what_is_there_and_the_key_to_set() -> None:
    with pytest.raises(UserError, match=r"no question column.*columns are foo, answer; set data.question_column"):
        find_columns(Table("t", "t", [{"foo": "x", "answer": "1"}]), None, None)
    with pytest.raises(UserError, match=r"no answer column.*set data.answer_column"):
        find_columns(Table("t", "t", [{"question": "x"}]), None, None)
