"""Every format gives the same rows, numbers come back equal, and folders give the split that is asked for."""

import bz2
import gzip
import json
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.config import DataConfig, SftDataConfig
from fastsvs.data import Problem, load_dialogues, load_problems
from fastsvs.data.answers import number_text, read_answer
from fastsvs.data.formats import read_file, rows_of
from fastsvs.data.splits import choose, split_of
from fastsvs.errors import UserError

ROWS = [
    {"question": "Say, one", "answer": "1/2"},
    {"question": 'Say "two"\nor two', "answer": "007"},
    {"question": "Sag drei: ½", "answer": "1e-05"},
]


def lines(rows: list[dict]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def write_csv(path: Path, separator: str = ",") -> None:
    quoted = [[f'"{value.replace(chr(34), chr(34) * 2)}"' for value in row.values()] for row in ROWS]
    path.write_text("\n".join(separator.join(fields) for fields in [list(ROWS[0]), *quoted]), encoding="utf-8-sig")


def write_stream(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def write_zst(path: Path) -> None:
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write(lines(ROWS))


def write_parquet_gz(path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    path.write_bytes(gzip.compress(sink.getvalue().to_pybytes()))


FILES: dict[str, Callable[[Path], object]] = {
    "x.jsonl": lambda path: path.write_bytes(lines(ROWS)),
    "x.ndjson": lambda path: path.write_bytes(b"\xef\xbb\xbf" + lines(ROWS)),
    "x.json": lambda path: path.write_text(json.dumps(ROWS)),
    "lines.json": lambda path: path.write_bytes(lines(ROWS)),
    "named.json": lambda path: path.write_text(json.dumps({"version": 1, "data": ROWS})),
    "columns.json": lambda path: path.write_text(json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]})),
    "x.csv": write_csv,
    "x.tsv": lambda path: write_csv(path, "\t"),
    "X.CSV": write_csv,
    "x.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
    "x.feather": lambda path: pyarrow.feather.write_feather(pa.Table.from_pylist(ROWS), path),
    "x.arrow": write_stream,
    "x.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(ROWS))),
    "x.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(lines(ROWS))),
    "x.jsonl.zst": write_zst,
    "x.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "x.parquet.gz": write_parquet_gz,
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    FILES[name](tmp_path / name)
    assert read_file(tmp_path / name) == ROWS
    problems, report = load_problems(DataConfig(path=str(tmp_path / name)))
    assert [(problem.question, problem.row) for problem in problems] == [(row["question"], row) for row in ROWS]
    assert problems[0].id == f"{name.partition('.')[0]}/0"
    assert report.left_out == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"question,answer\nq,1,2\n", r"x\.csv line 2 has more fields than the 2 of its head"),
        ("x.csv", b'question,answer\n"q,1\n', r"x\.csv is not csv after line 1: unexpected end"),
        ("x.csv", b"question,answer\nq,\xff\n", r"x\.csv is not a readable csv file"),
        ("x.jsonl.gz", b"not packed", r"x\.jsonl\.gz is not a readable jsonl file"),
        ("x.jsonl.zst", b"not packed", r"x\.jsonl\.zst is not a readable jsonl file"),
        ("x.arrow", b"ARROW1 no", r"x\.arrow is not a readable arrow file"),
        ("x.arrow", b"", r"x\.arrow is not a readable arrow file|holds no rows"),
        ("x.jsonl", b'{"question": ' + b"[" * 100_000, r"x\.jsonl line 1 is not JSON"),
        ("x.jsonl", b'[\n{"question": "q", "answer": "1"}\n]\n', r"x\.jsonl holds one JSON array, .*: call it \.json$"),
        ("x.json", b"[" * 100_000, r"x\.json is not JSON that can be read"),
        ("x.json", b'{"train": [{"q": 1}], "test": [{"q": 2}]}', r"several lists of rows \(train, test\): write each"),
        ("x.jsonl.xz", b"", r"cannot read \.xz; known: \.parquet"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_problems(DataConfig(path=str(tmp_path / name)))


@given(st.floats(allow_nan=False, allow_infinity=False) | st.decimals(allow_nan=False, allow_infinity=False))
def test_numbers_are_written_so_that_they_come_back_equal(value: float | Decimal) -> None:
    text = number_text(value)
    assert type(value)(text) == value
    assert set(text) <= set("-0123456789.")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-05, "0.00001"),
        (1e16, "10000000000000000"),
        (3e22, "30000000000000000000000"),
        (1.6e-19, "0.00000000000000000016"),
        (8.0, "8"),
        (-0.5, "-0.5"),
        (100.0, "100"),
        (Decimal("1.50"), "1.5"),
        (Decimal("3E+3"), "3000"),
        (math.inf, "\\infty"),
        (-math.inf, "-\\infty"),
        (math.nan, ""),
        (Decimal("NaN"), ""),
        ([1e-05, math.nan, 2.0], "0.00001, 2"),
        (True, "True"),
    ],
)
def test_numbers_are_answers(value: object, text: str) -> None:
    assert read_answer(value, "here")[0] == text


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.list_(pa.float32())])
def test_narrow_floats_are_the_numbers_that_they_were_written_as(tmp_path: Path, kind: pa.DataType) -> None:
    values = [[0.1, 0.2], None] if pa.types.is_list(kind) else [0.1, None, 0.25, 3.0]
    pq.write_table(pa.table({"answer": pa.array(values).cast(kind)}), tmp_path / "x.parquet")
    assert [row["answer"] for row in read_file(tmp_path / "x.parquet")] == values


def test_nested_narrow_floats_too() -> None:
    kind = pa.struct([("gold", pa.float32()), ("more", pa.list_(pa.struct([("x", pa.float32())])))])
    table = pa.table({"reward_model": pa.array([{"gold": 0.1, "more": [{"x": 0.2}]}, None], kind)})
    assert rows_of(table) == [{"reward_model": {"gold": 0.1, "more": [{"x": 0.2}]}}, {"reward_model": None}]


def test_numbers_beyond_the_limits_of_python_keep_their_digits(tmp_path: Path) -> None:
    digits = "7" * 5000
    text = f'{{"question": "a", "answer": {digits}}}\n{{"question": "b", "answer": -{digits}}}\n'
    text += '{"question": "c", "answer": 1e999}\n{"question": "d", "answer": [' + digits + "]}"
    (tmp_path / "x.jsonl").write_text(text)
    problems, _ = load_problems(DataConfig(path=str(tmp_path / "x.jsonl")))
    assert [problem.answer for problem in problems] == [digits, f"-{digits}", "1e999", digits]


@pytest.mark.parametrize("missing", ["null", "NaN", '""', "[]", '"  "'])
def test_nothing_in_an_answer_or_a_question_is_counted(tmp_path: Path, missing: str) -> None:
    rows = ['{"question": "a", "answer": "1"}', f'{{"question": "b", "answer": {missing}}}']
    rows += [f'{{"question": {missing}, "answer": 2}}']
    (tmp_path / "x.jsonl").write_text("\n".join(rows))
    problems, report = load_problems(DataConfig(path=str(tmp_path / "x.jsonl")))
    assert [problem.id for problem in problems] == ["x/0"]
    assert report.incomplete == ["x/1", "x/2"]


@pytest.mark.parametrize("place", ["question", "answer", "solution", "system"])
def test_half_a_character_is_left_out_and_counted(tmp_path: Path, place: str) -> None:
    rows = [{"question": f"q{n}", "answer": "1", "solution": "so 1", "system": "Be brief."} for n in range(3)]
    rows[1][place] = "a \ud83d b"
    rows[2][place] = "a \ud83d\ude00 b"  # two halves, as json writes one character
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    problems, report = load_problems(DataConfig(path=str(tmp_path / "x.jsonl")))
    assert [problem.id for problem in problems] == ["x/0", "x/2"]
    assert "1 rows with half a character (a lone surrogate): left out (first: x/1)" in "\n".join(report.describe())
    chats = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": text}] for text in ("a", "\udc00")]
    (tmp_path / "y.jsonl").write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))
    _, counted = load_dialogues(SftDataConfig(path=str(tmp_path / "y.jsonl")))
    assert (counted.kept, len(counted.broken), counted.left_out) == (1, 1, 1)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("data/train-00000-of-00002", "train"),
        ("TEST", "test"),
        ("math_test", "test"),
        ("test2", "test"),
        ("validation/part-1", "validation"),
        ("dev", "validation"),
        ("my.valid", "validation"),
        ("MATH-AIME-Evaluation", "test"),
        ("test/train", "train"),
        ("train/contest", "train"),
        ("train_vs_test", "test"),
        ("latest", None),
        ("contest", None),
        ("trained", None),
        ("dapo_math_17k", None),
    ],
)
def test_names_tell_splits(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_a_split_is_chosen_and_the_rest_is_said() -> None:
    names = ["data/test-00000-of-00001", "data/train-00000-of-00002", "data/train-00001-of-00002", "extra"]
    assert choose(names, "train", "x")[0] == names[1:3]
    assert choose(names, "test", "x") == (
        [names[0]],
        ["split=test: 3 of 4 files are not read: data/train-00000-of-00002, data/train-00001-of-00002, extra"],
    )
    assert choose(names, "train+test", "x")[0] == names[:3]
    assert choose(["a", "b"], "test", "x") == (["a", "b"], [])
    assert choose(["train_sft-00000-of-00001", "train_dpo-00000-of-00001"], "train_sft", "x")[0] == [
        "train_sft-00000-of-00001"
    ]
    assert choose(["easy", "hard/1", "hard/2"], "hard", "x")[0] == ["hard/1", "hard/2"]
    for names, split in ((["test"], "train"), (["a", "test"], "train"), (["easy"], "hard"), (["train"], "train[:10]")):
        with pytest.raises(UserError, match=r"x has no file of split=.*set data\.split"):
            choose(names, split, "x")


def save(folder: Path, name: str, questions: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(lines([{"question": question, "answer": "1"} for question in questions]))


def questions(problems: list[Problem]) -> str:
    return "".join(problem.question for problem in problems)


def test_a_folder_never_mixes_splits(tmp_path: Path) -> None:
    save(tmp_path, "data/train-00000-of-00001.jsonl", "abc")
    save(tmp_path, "data/test-00000-of-00001.jsonl", "de")
    (tmp_path / "dataset_infos.json").write_text('{"default": {"features": {}}}')
    save(tmp_path, ".cache/huggingface/train.jsonl", "zzz")
    problems, report = load_problems(DataConfig(path=str(tmp_path)))
    assert (questions(problems), problems[0].id) == ("abc", "data/train-00000-of-00001.jsonl/0")
    assert "1 of 2 files are not read: data/test-00000-of-00001" in report.notes[0]
    assert questions(load_problems(DataConfig(path=str(tmp_path), split="test"))[0]) == "de"
    with pytest.raises(UserError, match=r"no file of split=validation.*\(test\).*\(train\)"):
        load_problems(DataConfig(path=str(tmp_path), split="validation"))
    one = load_problems(DataConfig(path=str(tmp_path / "data" / "test-00000-of-00001.jsonl")))[0]
    assert questions(one) == "de", "a file that is named itself is read"


def test_an_empty_file_of_a_folder_is_said(tmp_path: Path) -> None:
    save(tmp_path, "a.jsonl", "ab")
    (tmp_path / "b.jsonl").write_text("\n")
    problems, report = load_problems(DataConfig(path=str(tmp_path)))
    assert questions(problems) == "ab"
    assert report.notes == (f"{tmp_path}/b.jsonl holds no rows",)


def test_what_datasets_saved_is_read(tmp_path: Path) -> None:
    train, test = (
        datasets.Dataset.from_list([{"question": question, "answer": 0.1} for question in part])
        for part in ("abc", "d")
    )
    train.save_to_disk(str(tmp_path / "one"))
    assert questions(load_problems(DataConfig(path=str(tmp_path / "one")))[0]) == "abc"
    datasets.DatasetDict({"train": train, "test": test, "hard": test}).save_to_disk(str(tmp_path / "all"))
    problems, report = load_problems(DataConfig(path=str(tmp_path / "all")))
    assert (questions(problems), problems[0].id, problems[0].answer) == ("abc", "train/0", "0.1")
    assert "2 of 3 files are not read: hard, test" in report.notes[0]
    assert questions(load_problems(DataConfig(path=str(tmp_path / "all"), split="hard"))[0]) == "d"
    with pytest.raises(UserError, match="no file of split=validation"):
        load_problems(DataConfig(path=str(tmp_path / "all"), split="validation"))
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"")
    with pytest.raises(UserError, match=r"one looks like the work of `save_to_disk` and cannot be loaded"):
        load_problems(DataConfig(path=str(tmp_path / "one")))
