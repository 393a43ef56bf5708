"""Runs whose files hold something else than they should: a page without it, and a notice that names the file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hand_made import write_run, write_tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsvs.cli import main
from fastsvs.report.document import build
from fastsvs.report.page import page
from fastsvs.report.runs import Runs
from fastsvs.report.server import open_server

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
        write_tokens(run)
        file = data.draw(st.sampled_from(sorted(path for path in run.rglob("*") if path.is_file())))
        read, write = (yaml.safe_load, yaml.safe_dump) if file.suffix == ".yaml" else (json.loads, json.dumps)
        lines = file.read_text().splitlines(keepends=True) if file.suffix == ".jsonl" else [file.read_text()]
        line = data.draw(st.integers(0, len(lines) - 1))
        tree = read(lines[line])
        lines[line] = write(put(tree, data.draw(st.sampled_from(list(places(tree)))), value)) + "\n"
        file.write_text("".join(lines))
        document = build([run], 1000)
        page(document).encode()
        assert all(str(file) in notice for notice in document.head["runs"][0]["notices"])


@pytest.mark.parametrize("value", [NAN, INFINITE])
def test_rewards_that_are_no_numbers_are_named(
    value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    file = run / "samples" / "step_2.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["rewards"][1] = value
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["report", str(run)]) == 0
    message = capsys.readouterr().err
    assert f"{file}: group '000000/001': rewards.1: Input should be a finite number, found {value}; mend or" in message
    assert (run / "report.html").exists()
    [kept] = [step for step in build([run], 1000).groups[0]["steps"] if step["step"] == 2]
    assert [group["key"] for group in kept["groups"]] == ["000000", "000000/001/001"]


def test_metrics_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"step": 1, "policy/entropy": NaN, "reward/mean": Infinity, "loss": 0.5}\n')
    [shown] = build([run], 1000).head["runs"]
    assert shown["metrics"] == {"step": [1], "policy/entropy": [None], "reward/mean": [None], "loss": [0.5]}


def rewrite(name: str, change: Callable[[str], str]) -> Callable[[Path], Path]:
    """Return what changes the text of a run's file, and returns its path."""

    def spoil(run: Path) -> Path:
        (run / name).write_text(change((run / name).read_text()), encoding="utf-8", errors="surrogatepass")
        return run / name

    return spoil


def in_place_of(name: str) -> Callable[[Path], Path]:
    def spoil(run: Path) -> Path:
        (run / name).unlink()
        (run / name).mkdir()
        return run / name

    return spoil


def binary(name: str) -> Callable[[Path], Path]:
    def spoil(run: Path) -> Path:
        (run / name).write_bytes(b"\xff\xfe\x00\x80" + (run / name).read_bytes())
        return run / name

    return spoil


DEEP = "[" * 100_000 + "]" * 100_000
NESTED = '{"a":' * 300 + "1" + "}" * 300
METRICS, CONFIG, FACTS = "metrics.jsonl", "config.yaml", "environment.json"
HELD_OUT, SAMPLES = "evaluations/step_2.json", "samples/step_2.jsonl"
SPOILED = {
    "NaN in metrics": rewrite(METRICS, lambda text: text.replace("0.875", "NaN")),
    "infinity in metrics": rewrite(METRICS, lambda text: text.replace("0.875", "-Infinity")),
    "sums beyond all numbers": rewrite(
        METRICS, lambda text: text.replace('"kept_samples/original": 8', '"kept_samples/original": 1e999')
    ),
    "a number of 5,000 digits": rewrite(METRICS, lambda text: text.replace("0.875", "9" * 5000)),
    "a number of 400 digits": rewrite(METRICS, lambda text: text.replace("0.875", "9" * 400)),
    "NaN in an evaluation": rewrite(HELD_OUT, lambda text: text.replace("0.35", "NaN")),
    "NaN in samples": rewrite(SAMPLES, lambda text: text.replace("[0.0, 1.0]", "[0.0, NaN]")),
    "impossible dates": rewrite(CONFIG, lambda text: text + "when: 2026-02-31\n"),
    "no timestamp": rewrite(CONFIG, lambda text: text + "when: !!timestamp x\n"),
    "an int of 5,000 digits": rewrite(CONFIG, lambda text: text + f"much: {'9' * 5000}\n"),
    "deep nesting in YAML": rewrite(CONFIG, lambda text: f"a: {'[' * 5000}{']' * 5000}\n"),
    "nested mappings in YAML": rewrite(CONFIG, lambda text: "a: " + "{a: " * 100 + "1" + "}" * 100 + "\n"),
    "a mapping that holds itself": rewrite(CONFIG, lambda text: "a: &a\n  b: *a\n"),
    "deep nesting in metrics": rewrite(METRICS, lambda text: f'{text}{{"step": 5, "a": {DEEP}}}\n'),
    "nested environment": rewrite(FACTS, lambda text: NESTED),
    "nested evaluation": rewrite(HELD_OUT, lambda text: NESTED),
    "wrong types in metrics": rewrite(METRICS, lambda text: text.replace("0.875", '"much"')),
    "wrong types in samples": rewrite(SAMPLES, lambda text: text.replace('["stop", "stop"]', '"stop"')),
    "a list as configuration": rewrite(CONFIG, lambda text: "- 1\n"),
    "cut lines in the middle": rewrite(METRICS, lambda text: text.replace("\n", "\n" + text[:40] + "\n", 1)),
    "no steps": rewrite(METRICS, lambda text: text.replace('"step": 2,', "")),
    "steps twice": rewrite(METRICS, lambda text: text + text),
    "not UTF-8 in YAML": binary(CONFIG),
    "not UTF-8 in metrics": binary(METRICS),
    "not UTF-8 in an evaluation": binary(HELD_OUT),
    **{f"a folder as {name}": in_place_of(name) for name in (CONFIG, FACTS, METRICS, HELD_OUT, SAMPLES)},
    **{f"nothing in {name}": rewrite(name, lambda text: "") for name in (CONFIG, FACTS, HELD_OUT)},
    "lines without end": rewrite(METRICS, lambda text: text + "x" * 20_000_000 + "\n"),
}
QUIET = {
    "times at the edge": rewrite(CONFIG, lambda text: text + "when: 0001-01-01 00:00:00 +23:59\n"),
    "surrogates in samples": rewrite(SAMPLES, lambda text: text.replace("Twice", "\\ud800")),
    "surrogates in the configuration": rewrite(CONFIG, lambda text: text.replace("svs", '"\\ud800"')),
    "names of metrics without sense": rewrite(
        HELD_OUT, lambda text: text.replace("pass@2", f"pass@{'9' * 5000}").replace("pass@8", "pass@\u00b2")
    ),
    "a huge step": rewrite(METRICS, lambda text: text.replace('"step": 4,', '"step": 1e300,')),
    "sums of large numbers": rewrite(METRICS, lambda text: re.sub(r"(?<!step\"): [\d.]+(?=[,}])", ": 1.7e308", text)),
    "a line that is being written": rewrite(METRICS, lambda text: text + '{"step": 5, "a'),
    "no columns": rewrite(METRICS, lambda text: '{"step": 1}\n'),
    "no lines": rewrite(METRICS, lambda text: ""),
    "rows of nothing": rewrite(SAMPLES, lambda text: "{}\n" * 3),
}
"""Ways to spoil a run that leave nothing out."""


@pytest.mark.parametrize("kind", [*SPOILED, *QUIET])
def test_a_spoiled_run_is_a_page_with_a_notice(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    file = (SPOILED | QUIET)[kind](run)
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    said = capsys.readouterr().err.splitlines()
    [shown] = build([run], 1000).head["runs"]
    assert said == [f"fastsvs: left out: {line}" for line in shown["notices"]]
    assert all(str(file) in line and len(line) < 2000 for line in said)
    assert bool(said) == (kind in SPOILED)
    with open_server(Runs([run], 1000), 0) as server:
        source = server.RequestHandlerClass.source  # type: ignore[attr-defined]
        for path in ("/", "/data/head", "/data/groups/0", "/data/texts/0/1"):
            assert source.answer(path) is not None
    if file.name != METRICS:
        assert len(shown["metrics"]["step"]) == 4
