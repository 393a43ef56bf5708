"""Runs whose files hold something else than they should: a page without it, or a message that names the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hand_made import write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsvs.cli import main
from fastsvs.errors import UserError
from fastsvs.report.document import build
from fastsvs.report.page import page

NAN, INFINITE = float("nan"), float("inf")
ODD = [NAN, INFINITE, -INFINITE, None, "x", [], {}, [1], {"a": 1}, 10**400, -1, True, 1.5, "\ud800"]


def places(tree: Any, above: tuple = ()) -> Iterator[tuple]:
    yield above
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in parts:
        yield from places(value, (*above, key))


def put(tree: Any, place: tuple, value: Any) -> Any:
    if not place:
        return value
    if isinstance(tree, dict):
        return {key: put(part, place[1:], value) if key == place[0] else part for key, part in tree.items()}
    return [put(part, place[1:], value) if index == place[0] else part for index, part in enumerate(tree)]


@settings(max_examples=100)
@given(st.data(), st.sampled_from(ODD))
def test_one_odd_value_anywhere(data: st.DataObject, value: Any) -> None:
    with TemporaryDirectory() as folder:
        run = write_run(Path(folder, "run"))
        file = data.draw(st.sampled_from(sorted(path for path in run.rglob("*") if path.is_file())))
        read, write = (yaml.safe_load, yaml.safe_dump) if file.suffix == ".yaml" else (json.loads, json.dumps)
        lines = file.read_text().splitlines(keepends=True) if file.suffix == ".jsonl" else [file.read_text()]
        line = data.draw(st.integers(0, len(lines) - 1))
        tree = read(lines[line])
        lines[line] = write(put(tree, data.draw(st.sampled_from(list(places(tree)))), value)) + "\n"
        file.write_text("".join(lines))
        try:
            page(build([run], 1000))
        except UserError as error:
            assert str(file.relative_to(run)) in str(error)  # noqa: PT017 (both may happen)


@pytest.mark.parametrize("value", [NAN, INFINITE])
def test_rewards_that_are_no_numbers_are_named(
    value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    file = run / "samples" / "step_2.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["rewards"][1] = value
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["report", str(run)]) == 2
    message = capsys.readouterr().err
    assert f"{file}: group '000000/001': rewards.1: Input should be a finite number, found {value}; mend or" in message
    assert not (run / "report.html").exists()


def test_metrics_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"step": 1, "policy/entropy": NaN, "reward/mean": Infinity, "loss": 0.5}\n')
    [shown] = build([run], 1000).head["runs"]
    assert shown["metrics"] == {"step": [1], "policy/entropy": [None], "reward/mean": [None], "loss": [0.5]}
