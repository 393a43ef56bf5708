"""The compiler's report on the kernels: read from a binary, and held against a table that was made worse on purpose."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from forking import Run

from bench.codegen.table import ARCHITECTURES, as_json, page, regressions

ROOT = Path(__file__).parents[2]
NAME = "row_statistics bf16 8192x8"
GOOD = {
    "registers": 40,
    "spilled_bytes": 0,
    "shared_bytes": 1024,
    "loads_128": 8,
    "stores_128": 4,
    "exp2": 32,
    "loop_instructions": 9.0,
    "loop_bytes_ahead": 64,
}


def arguments(table: Path) -> list[str]:
    return ["--check", str(table), "--arch", "sm_90a", "--match", NAME, "--processes", "1"]


def check(table: Path) -> subprocess.CompletedProcess[str]:
    return Run(*arguments(table), module="bench.codegen").completed(timeout=200)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is the compiler")
def test_a_table_of_better_code_fails_the_check(tmp_path):
    committed = ROOT / f"bench/codegen/triton-{version('triton')}.json"
    if not committed.exists():
        pytest.skip(f"no table is kept of Triton {version('triton')}, but of the locked torch's")
    command = [sys.executable, "-m", "bench.codegen", *arguments(committed)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}  # as in the tests of the kernels; it must not matter
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    table = json.loads(committed.read_text())
    case = table["reports"]["sm_90a"][NAME]
    assert case["spilled_bytes"] == 0
    assert case["loop_bytes_ahead"] >= 64
    case["registers"] -= 10
    case["loads_128"] += 1
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(table))
    result = check(broken)
    assert result.returncode == 1
    assert f"sm_90a, {NAME}: {case['registers'] + 10} registers, {case['registers']} recorded" in result.stdout
    assert f"sm_90a, {NAME}: {case['loads_128'] - 1} 128-bit loads, {case['loads_128']} recorded" in result.stdout
    assert len(result.stdout.splitlines()) == 3
    table["triton"] = "3.1.0"
    broken.write_text(json.dumps(table))
    assert "is of Triton 3.1.0" in check(broken).stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"registers": 45}, "45 registers, 40 recorded"),
        ({"spilled_bytes": 8}, "8 bytes of a thread spilled"),
        ({"shared_bytes": 232_449}, "232449 bytes of shared memory"),
        ({"loads_128": 7}, "7 128-bit loads, 8 recorded"),
        ({"stores_128": 0}, "0 128-bit stores, 4 recorded"),
        ({"loop_instructions": 9.5}, "9.5 instructions an entry, 9.0 recorded"),
    ],
)
def test_each_regression_is_named(change, message):
    assert not list(regressions({"sm_90a": {"kernel": GOOD}}, {"sm_90a": {"kernel": GOOD}}))
    (line,) = regressions({"sm_90a": {"kernel": GOOD | change}}, {"sm_90a": {"kernel": GOOD}})
    assert line.startswith(f"sm_90a, kernel: {message}")


def test_a_case_that_was_never_recorded_is_named():
    (line,) = regressions({"sm_80": {"new": GOOD}}, {"sm_80": {}})
    assert "sm_80, new: not in the table" in line


def test_the_page_says_what_the_tables_say():
    files = [ROOT / f"bench/codegen/triton-{name}.json" for name in ("3.7.1", "3.6.0")]
    tables = [json.loads(file.read_text()) for file in files]
    wanted = page({table["triton"]: table["reports"] for table in tables})
    assert wanted in (ROOT / "bench/README.md").read_text(), f"bench/README.md should have:\n{wanted}"


@pytest.mark.parametrize(("name", "architectures"), [("3.7.1", set(ARCHITECTURES)), ("3.6.0", {"sm_90a"})])
def test_nothing_spills_and_everything_fits(name, architectures):
    text = (ROOT / f"bench/codegen/triton-{name}.json").read_text()
    reports = json.loads(text)["reports"]
    assert text == as_json(name, reports)
    assert set(reports) == architectures
    assert not list(regressions(reports, reports))
