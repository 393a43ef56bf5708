"""The page as a file: what is inside, what it allows itself, and the command that makes it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hand_made import CONTEXT, HOSTILE, PROBLEM, write_run

from fastsvs.cli import main
from fastsvs.report.document import build
from fastsvs.report.page import ASSETS, STYLES, live_page, page

VENDOR = Path(str(ASSETS)) / "vendor"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "hand")


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return page(build([run], 1000))


def chunks(text: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/octet-stream" data-chunk="([^"]+)">([^<]*)</script>', text)
    return {name: json.loads(gzip.decompress(base64.b64decode(data))) for name, data in found}


def test_the_page_holds_the_runs_files(text: str) -> None:
    found = chunks(text)
    assert list(found) == ["head", "groups/0", *(f"texts/0/{step}" for step in (1, 2, 3, 4))]
    assert found["head"]["runs"][0]["metrics"]["policy/entropy"] == [0.875, 0.75, 0.625, 0.5]
    assert found["texts/0/2"]["000000"][1] == CONTEXT
    original, synthesis, variant = found["groups/0"]["steps"][0]["groups"]
    assert (original["question"], original["verdicts"], original["cut"]) == (PROBLEM, "wcuw", [0])
    assert (synthesis["rejections"], synthesis["rewards"]) == (["copy", None], [0.0, 1.0])
    assert (variant["parent"], variant["sample"], variant["trained"]) == (synthesis["key"], 1, False)


def test_nothing_that_a_policy_wrote_is_markup(text: str) -> None:
    assert HOSTILE not in text
    assert "onerror" not in text
    assert "<img src=x" not in text


@pytest.mark.parametrize(("make", "network"), [(page, "'none'"), (live_page, "'self'")])
def test_the_policy_allows_this_script_and_style_alone(run: Path, make: Any, network: str) -> None:
    text = make(build([run], 10))
    [told] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    rules = dict(rule.split(" ", 1) for rule in html.unescape(told).split("; "))
    assert (rules["default-src"], rules["connect-src"]) == ("'none'", network)
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    for name, body in (("script-src", script), ("style-src-elem", style)):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"


def test_a_live_page_holds_no_data(run: Path) -> None:
    assert chunks(live_page(build([run], 10))) == {}


def test_vendored_files_are_those_of_the_note() -> None:
    note = (VENDOR / "README.md").read_text()
    told = dict(re.findall(r"\| `([^`]+)` \| ([0-9a-f]{64}) \|", note))
    assert told == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.name != "README.md"
    }
    assert all(re.search(rf"{name} \d+\.\d+\.\d+ \(MIT\).*https://", note) for name in ("uPlot", "Temml"))


def test_every_asset_is_in_the_page(text: str) -> None:
    scripts = {path.name for path in (Path(str(ASSETS)) / "scripts").iterdir()}
    assert set(re.findall(r'^modules\["(.+)"\] =', text, re.MULTILINE)) == scripts
    assert {path.name for path in (Path(str(ASSETS)) / "styles").iterdir()} == {n for n in STYLES if "/" not in n}
    for licence in VENDOR.glob("*.LICENSE"):
        assert licence.read_text() in text


def test_the_command_names_the_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"report: {run}/report.html\n"
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    other = tmp_path / "deep" / "page.html"
    again = write_run(tmp_path / "again")
    assert main(["report", str(run), str(again), "--out", str(other), "--samples", "10"]) == 0
    assert chunks(other.read_text())["head"]["runs"][1]["samples"]["of_responses"] == 32


def test_several_runs_make_a_page_here(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write_run(tmp_path / "other", steps=1)
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run), str(other)]) == 0
    assert (tmp_path / "report.html").exists()


def test_what_is_no_run_gives_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err


@pytest.mark.parametrize("samples", ["0", "-1", "many"])
def test_a_number_of_samples_is_one(samples: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", str(run), "--samples", samples])
    assert "is not a whole number above 0" in capsys.readouterr().err


def test_the_trainer_is_not_loaded_for_it(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from fastsvs.cli import main\n"
        f"main(['report', {str(run)!r}, '--out', {str(tmp_path / 'page.html')!r}])\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'matplotlib'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"
