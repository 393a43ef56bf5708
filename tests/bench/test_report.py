"""The form of a benchmark's JSON file: what is written is read again, and the committed files are in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_runs import ROOT

from bench.report import Row, as_json, read, write

WORDS = st.text(max_size=8)
NUMBERS = st.floats(allow_nan=False) | st.integers(-(10**9), 10**9)
ROWS = st.builds(Row, WORDS, WORDS, WORDS, NUMBERS, WORDS, st.none() | NUMBERS, st.none() | WORDS)


@settings(max_examples=30)
@given(rows=st.lists(ROWS, min_size=1, max_size=4))
def test_every_row_stands_on_a_line_of_its_own_and_is_read_again(rows: list[Row], tmp_path_factory) -> None:
    file = tmp_path_factory.mktemp("report") / "rows.json"
    file.write_text(as_json({"suite": "test"}, rows), encoding="utf-8")
    assert read(file) == tuple(rows)
    lines = file.read_bytes().split(b"\n")[3:-3]
    assert [json.loads(line.removesuffix(b",")) for line in lines] == json.loads(file.read_bytes())["rows"]


def test_a_file_says_what_was_measured_where(tmp_path: Path) -> None:
    file = write("test", [Row("case", "fastsvs", "time", 1.0, "s")], tmp_path)
    about = json.loads(file.read_text())
    assert {"suite", "machine", "date", "versions", "commit", "command"} < about.keys()
    assert file.name.startswith("test-")


@pytest.mark.parametrize("file", sorted((ROOT / "bench" / "results").glob("*.json")), ids=lambda file: file.stem)
def test_a_committed_file_is_in_this_form(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    about = json.loads(text)
    del about["rows"]
    assert text == as_json(about, read(file))
    assert file.name.startswith(f"{about['suite']}-")
