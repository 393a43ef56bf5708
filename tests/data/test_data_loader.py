"""Files become problems and dialogues; whatever is left out is counted; bad input is named."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.config import DataConfig, SftDataConfig
from fastsvs.data import load_dialogues, load_problems
from fastsvs.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the public problem sets are not here")


def write_lines(file: Path, rows: list[object]) -> Path:
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return file


@needs_shared
@pytest.mark.parametrize(
    ("name", "rows", "duplicates"),
    [
        ("dapo_math_17k.parquet", 17_917, 627),
        ("MATH-AIME-Evaluation.parquet", 560, 0),
        ("eval/math500.jsonl", 500, 0),
        ("eval/gsm8k.jsonl", 1319, 0),
        ("eval/aime24.jsonl", 30, 0),
        ("eval/aime25.jsonl", 30, 0),
        ("eval/amc23.jsonl", 40, 0),
        ("eval/BeyondAIME.jsonl", 100, 0),
        ("eval/OlymMATH-EN-EASY.jsonl", 100, 0),
        ("eval/OlymMATH-EN-HARD.jsonl", 100, 0),
        ("eval/math24o.jsonl", 21, 0),
        ("eval", 2240, 0),
    ],
)
def test_every_public_file_loads_whole(name: str, rows: int, duplicates: int) -> None:
    problems, report = load_problems(DataConfig(path=str(SHARED / name)))
    assert (report.rows, report.duplicates, report.incomplete) == (rows, duplicates, [])
    assert len(problems) == report.kept == rows - duplicates
    assert len({problem.id for problem in problems}) == len(problems)
    assert all(problem.question.strip() and problem.answer.strip() for problem in problems)
    both, _ = load_problems(DataConfig(path=str(SHARED / name), deduplicate=False))
    assert len(both) == rows


@needs_shared
def test_public_files_keep_their_contents() -> None:
    chinese, _ = load_problems(DataConfig(path=str(SHARED / "eval/math24o.jsonl")))
    assert chinese[0].question.startswith("设函数")
    gsm8k, _ = load_problems(DataConfig(path=str(SHARED / "eval/gsm8k.jsonl")))
    assert gsm8k[0].answer == "18"
    assert gsm8k[0].solution is not None
    assert gsm8k[0].solution.endswith("#### 18")
    verl, _ = load_problems(DataConfig(path=str(SHARED / "MATH-AIME-Evaluation.parquet")))
    assert (verl[0].answer, verl[0].source, verl[0].row["ability"]) == ("216", "MATH-500", "math")
    assert verl[0].solution is not None
    assert "\\boxed{216}" in verl[0].solution


def test_a_verl_parquet_keeps_its_system_message(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    row = {"prompt": prompt, "reward_model": {"ground_truth": "2", "style": "rule"}, "data_source": "sums"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train.parquet")
    [problem], _ = load_problems(DataConfig(path=str(tmp_path / "train.parquet")))
    assert (problem.id, problem.question, problem.answer, problem.source) == ("train/0", "1+1?", "2", "sums")
    assert problem.system == "Be brief."


def test_a_folder_gives_every_file_its_own_columns(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"question": "q0", "answer": "0"}])
    (tmp_path / "b.json").write_text(json.dumps({"data": [{"query": "q1", "label": 1}]}))
    write_lines(
        tmp_path / "c.json", [{"instruction": "q2", "output": "so #### 2"}, {"instruction": "q3", "output": "#### 3"}]
    )
    (tmp_path / "README.md").write_text("not data")
    problems, report = load_problems(DataConfig(path=str(tmp_path)))
    assert [(p.id, p.question, p.answer) for p in problems] == [
        ("a.jsonl/0", "q0", "0"),
        ("b.json/0", "q1", "1"),
        ("c.json/0", "q2", "2"),
        ("c.json/1", "q3", "3"),
    ]
    assert report.columns[1] == "b.json: question from 'query', answer from 'label'"


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", "", None]), st.sampled_from(["1", "2", "", None])), min_size=1
    ),
    deduplicate=st.booleans(),
    limit=st.none() | st.integers(1, 4),
)
def test_no_row_disappears_uncounted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple], deduplicate: bool, limit: int | None
) -> None:
    file = tmp_path_factory.mktemp("rows") / "x.jsonl"
    write_lines(file, [{"question": "seed", "answer": "0"}, *({"question": q, "answer": a} for q, a in rows)])
    problems, report = load_problems(DataConfig(path=str(file), deduplicate=deduplicate, limit=limit))
    assert report.rows == len(rows) + 1 == report.kept + report.left_out
    assert report.kept == len(problems) <= (limit or len(rows) + 1)
    assert len(report.incomplete) == sum(not q or not a for q, a in rows)
    if deduplicate:
        assert len({problem.question for problem in problems}) == len(problems)
    if limit is None:
        complete = [(q, a) for q, a in [("seed", "0"), *rows] if q and a]
        first = dict(reversed(complete))
        assert report.conflicting == sum(first[q] != a for q, a in complete)


def test_what_was_left_out_is_shown(tmp_path: Path) -> None:
    rows = [{"question": q, "answer": a} for q, a in [("a", "1"), ("a", "2"), ("b", ""), ("c", "3"), ("d", "4")]]
    _, report = load_problems(DataConfig(path=str(write_lines(tmp_path / "x.jsonl", rows)), limit=2))
    text = "\n".join(report.describe())
    assert "2 problems of 5 rows" in text
    assert "1 rows repeat an earlier question: left out, 1 of them with another answer" in text
    assert "1 rows without a question or an answer: left out (first: x/2)" in text
    assert "1 after the limit" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", '{"question": "q", "answer": "1"}\n\n{"question": ', r"x\.jsonl line 3 is not JSON"),
        ("x.jsonl", '{"question": "q", "answer": "1"}\n[1]', r"x\.jsonl line 2 must be an object.*list"),
        ("x.json", "{", r"x\.json is not JSON"),
        ("x.json", "3", r"x\.json must hold a list of objects, found int"),
        ("x.json", "[1]", r"x\.json row 0 must be an object"),
        ("x.txt", "question,answer", r"cannot read \.txt; known: \.parquet, .*\.jsonl, .*\.csv"),
        ("x", "question,answer", r"cannot read a file without a suffix"),
        ("x.parquet", "PAR", r"x\.parquet is not a readable parquet file"),
        ("x.jsonl", "", r"x\.jsonl holds no rows"),
        ("x.jsonl", '{"question": "q", "answer": ""}\n{"question": "q", "answer": null}', r"no answer column"),
        (
            "x.jsonl",
            '{"question": "q", "solution": "It is 4."}',
            r"no problem is left(.|\n)*1 rows whose solution ends in no",
        ),
        ("x.jsonl", '{"question": "q", "answer": {"a": 1}}', r"x\.jsonl row 0: an answer must be.*found dict"),
        ("x.jsonl", '{"question": 3, "answer": "1"}', r"x\.jsonl row 0: a question must be.*found int"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_problems(DataConfig(path=str(tmp_path / name)))


def test_bad_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.parquet, .*\.jsonl.* file"):
        load_problems(DataConfig(path=str(tmp_path / "empty")))
    with pytest.raises(UserError, match=r"nowhere\.jsonl does not exist"):
        load_problems(DataConfig(path=str(tmp_path / "nowhere.jsonl")))
    with pytest.raises(UserError, match=r"no file or folder ~nobody-here/nowhere\.jsonl in"):
        load_problems(DataConfig(path="~nobody-here/nowhere.jsonl"))
    with pytest.raises(UserError, match=r"unknown tiny data 'tiny:valid'.*tiny:train, tiny:validation, tiny:heldout"):
        load_problems(DataConfig(path="tiny:valid"))
    with pytest.raises(UserError, match=r"known are tiny:sft, tiny:misled_sft, tiny:skills, tiny:azr_sft, tiny:train$"):
        load_dialogues(SftDataConfig(path="tiny:heldout"))


def test_an_unreachable_hub_set_says_that_it_is_no_file_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"no file or folder nobody/no-such-set:main in .*, and as a hub data set"):
        load_problems(DataConfig(path="nobody/no-such-set:main"))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": "q", "completion": "a"},
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        {"Question": "q", "response": "a"},
        {"instruction": "q", "output": "a"},
        {"problem": "q", "answer": "7", "solution": "a"},
    ],
)
def test_dialogues_come_in_every_usual_form(tmp_path: Path, row: dict) -> None:
    [dialogue], report = load_dialogues(SftDataConfig(path=str(write_lines(tmp_path / "x.jsonl", [row]))))
    assert dialogue.messages == ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"})
    assert (report.rows, report.kept, report.what) == (1, 1, "dialogues")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"role": "user", "content": "q"}]}, "1 rows without an assistant turn .*first: x/0"),
        ({"prompt": "q", "completion": ""}, r"with a completion .* that has values.*columns are prompt, completion"),
        ({"prompt": "q", "completion": 3}, "row 0: expected a text or a list of chat turns, found int"),
        ({"text": "q"}, r"neither chat turns.*columns are text"),
    ],
)
def test_dialogues_without_anything_to_learn_are_named(tmp_path: Path, row: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_dialogues(SftDataConfig(path=str(write_lines(tmp_path / "x.jsonl", [row]))))


def test_a_limit_on_dialogues_is_counted(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "x.jsonl", [{"prompt": f"q{i}", "completion": "a"} for i in range(5)])
    dialogues, report = load_dialogues(SftDataConfig(path=str(file), limit=3))
    assert [d.messages[0]["content"] for d in dialogues] == ["q0", "q1", "q2"]
    assert (report.rows, report.kept, report.over_limit) == (5, 3, 2)


ASDIV = {
    "body": "Seven red apples and two green apples are in the basket.",
    "question": "How many apples are in the basket?",
    "solution_type": "Addition",
    "answer": "9 (apples)",
    "formula": "7+2=9",
}
SVAMP = {
    "ID": "chal-1",
    "Body": "Each pack costs 76 dollars with a discount of 25 dollars.",
    "Question": "How much do you pay for a pack?",
    "Equation": "( 76.0 - 25.0 )",
    "Answer": "51.0",
    "Type": "Subtraction",
    "question_concat": "Each pack costs 76 dollars with a discount of 25 dollars. How much do you pay for a pack?",
}


@pytest.mark.parametrize(("row", "answer"), [(ASDIV, "9"), (SVAMP, "51.0")], ids=["asdiv", "svamp"])
def test_a_body_stands_before_its_question(tmp_path: Path, row: dict[str, str], answer: str) -> None:
    """In the columns of EleutherAI/asdiv and ChilleD/SVAMP."""
    write_lines(tmp_path / "set.jsonl", [row])
    [problem], report = load_problems(DataConfig(path=str(tmp_path / "set.jsonl")))
    lower = {name.lower(): text for name, text in row.items()}
    assert problem.question == f"{lower['body']} {lower['question']}"
    assert problem.answer == answer
    body, question = (name for name in row if name.lower() in ("body", "question"))
    assert f"question from '{body}' and '{question}'" in report.columns[0]


def test_a_question_column_that_is_named_is_the_whole_question(tmp_path: Path) -> None:
    write_lines(tmp_path / "set.jsonl", [SVAMP])
    [problem], _ = load_problems(DataConfig(path=str(tmp_path / "set.jsonl"), question_column="question_concat"))
    assert problem.question == SVAMP["question_concat"]


def test_a_unit_is_left_out_of_answers_beside_a_body_alone(tmp_path: Path) -> None:
    """Elsewhere `2 (x + 1)` is a product."""
    write_lines(tmp_path / "set.jsonl", [{"problem": "Factor 2x + 2.", "answer": "2 (x + 1)"}])
    [problem], _ = load_problems(DataConfig(path=str(tmp_path / "set.jsonl")))
    assert problem.answer == "2 (x + 1)"
