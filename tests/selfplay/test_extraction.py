"""From responses to problems: the order of the markers, and everything that must not become a problem."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.selfplay.svs.extraction import Rejection, extract_problem, normalize, read_variants
from fastsvs.selfplay.svs.stage import load_template

TEMPLATE, END = load_template(None), "</think>"
plain_text = st.text(st.characters(exclude_characters="`", exclude_categories=["Cs"]))


def fenced(question: str) -> str:
    return f"Here it is.\n```text\n{question}\n```"


@pytest.mark.parametrize(
    ("response", "question"),
    [
        ("```text\nWhat is 3?\n```", "What is 3?"),
        ("```text What is 3? ``` done", "What is 3?"),
        ("draft ```text\nold\n``` then\n```text\nnew\n```", "old"),
        ("```\nWhat is 3?\n```", "What is 3?"),
        ("```markdown\nWhat is 3?\n```", "What is 3?"),
        ("```\nfirst\n``` and ```text\nWhat is 3?\n```", "What is 3?"),
        ("so\n**Reconstructed Question:**\n\nWhat is\n3?\n\nBye.", "What is\n3?"),
        ("The **Reconstructed Question:** is\n**Reconstructed Question:**\n\nWhat is 3?", "What is 3?"),
        ("<think>```text\nold\n```</think>```text\nnew\n```", "new"),
        ("<think>a</think>```text\nold\n```</think>```text\nnew\n```", "new"),
        ("<think>```\nold\n```</think>```\nnew\n```", "new"),
    ],
)
def test_marker_order_and_thinking(response, question):
    variant = extract_problem(response, END)
    assert variant.question == question
    assert variant.rejection is None


@pytest.mark.parametrize(
    ("response", "rejection"),
    [
        ("", Rejection.NO_MARKER),
        ("What is 3?", Rejection.NO_MARKER),
        ("**Reconstructed Question (in natural English):**\n\nWhat is 3?", Rejection.NO_MARKER),
        ("```text\nold\n```</think>What is 3?", Rejection.NO_MARKER),
        ("<think>```text\nold\n```</think>```\nnew\n```", Rejection.NO_MARKER),
        ("```text\nold\n```</think>**Reconstructed Question:**\n\nWhat is 3?", Rejection.NO_MARKER),
        ("```\nold\n```</think>**Reconstructed Question:**\n\nWhat is 3?", Rejection.NO_MARKER),
        ("**Reconstructed Question:** What is 3?\n\nIt asks for the same.", Rejection.NO_MARKER),
        ("**Reconstructed Question:**\nWhat is 3?\n\nIt asks for the same.", Rejection.NO_MARKER),
        ("```text\nWhat is 3? And then it was cut", Rejection.UNCLOSED),
        ("```text\n\n \n```", Rejection.EMPTY),
        ("**Reconstructed Question:**\n\n", Rejection.EMPTY),
        (fenced("[your problem]"), Rejection.PLACEHOLDER),
        (fenced("[Your synthetic problem here]"), Rejection.PLACEHOLDER),
        (fenced("<problem>"), Rejection.PLACEHOLDER),
        (fenced("..."), Rejection.PLACEHOLDER),
        (fenced("What IS\n  2 + 2?"), Rejection.COPY),
        (fenced("What is [2] + 2?"), None),
        (fenced("[Hard] What is 2 + 3? [2 points]"), None),
    ],
)
def test_degenerate_variants_are_rejected_with_their_reason(response, rejection):
    (variant,) = read_variants([response], "What is 2 + 2?", TEMPLATE, END)
    assert variant.rejection is rejection


def test_thoughts_end_where_the_configuration_says():
    response = f"{fenced('old')}[/T] {fenced('new')}"
    assert extract_problem(response, "[/T]").question == "new"
    assert extract_problem(response, END).question == "old"


def test_first_of_equal_siblings_stays():
    responses = [fenced("What is 3?"), fenced("What is 4?"), fenced("  what is\n3?"), fenced("What is 3?")]
    rejections = [variant.rejection for variant in read_variants(responses, "?", TEMPLATE, END)]
    assert rejections == [None, None, Rejection.DUPLICATE, Rejection.DUPLICATE]


def test_response_without_marker_never_takes_the_previous_problem():
    """B4: the reference code reuses the loop's last extracted question."""
    variants = read_variants([fenced("What is 3?"), "no idea"], "?", TEMPLATE, END)
    assert variants[1].question == ""
    assert variants[1].rejection is Rejection.NO_MARKER


def test_the_example_of_a_custom_template_is_a_placeholder():
    template = "{response}\n```text\nWrite it here\n```"
    assert read_variants([fenced("write it here")], "?", template, END)[0].rejection is Rejection.PLACEHOLDER


@given(
    st.lists(st.one_of(plain_text, plain_text.map(fenced), plain_text.map("```text{}".format)), max_size=6), plain_text
)
def test_any_text_gives_one_variant_each_and_valid_ones_are_distinct(responses, original):
    variants = read_variants(responses, original, TEMPLATE, END)
    assert len(variants) == len(responses)
    valid = [normalize(variant.question) for variant in variants if variant.rejection is None]
    assert len(set(valid)) == len(valid)
    assert "" not in valid
    assert normalize(original) not in valid


@given(plain_text)
def test_a_fenced_problem_comes_back_stripped(question):
    assert extract_problem(fenced(question), END).question == question.strip()
