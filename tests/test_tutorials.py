"""The tutorials, followed from top to bottom: files are written, and commands are run, in one folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from forking import Run
from whole_runs import ROOT

from fastsvs.arguments import parse
from fastsvs.files import read_jsonl

TUTORIALS = {path.stem: path for path in sorted((ROOT / "docs" / "tutorials").glob("*.md"))}
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def follow(name: str, folder: Path) -> None:
    """Write the files of a tutorial, whose first line names them, and run its `sh` blocks, in order."""
    for _, language, text in BLOCK.findall(TUTORIALS[name].read_text()):
        named = re.match(r"# (\w+\.(?:py|yaml))\n", text)
        if named:
            (folder / named[1]).write_text(text)
        for line in text.splitlines() if language == "sh" else ():
            run(shlex.split(line), folder)


def run(words: list[str], folder: Path) -> None:
    if words[0] == "PYTHONPATH=.":
        words = words[1:]
    if words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], cwd=folder, check=True)
        return
    processes = int(words[words.index("--nproc-per-node") + 1]) if words[0] == "torchrun" else 1
    ended = Run(*words[words.index("fastsvs") + 1 :], processes=processes, folder=folder).completed(240)
    assert ended.returncode == 0, f"{shlex.join(words)}\n{ended.stderr}"


def test_your_own_model(tmp_path: Path) -> None:
    follow("own_model", tmp_path)
    rewards = {reward for row in read_jsonl(tmp_path / "runs/mine/samples/step_1.jsonl") for reward in row["rewards"]}
    assert 0.5 in rewards, "the reward of the tutorial was not used"
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    assert (tmp_path / "my-model" / "model.safetensors").exists()


def test_to_a_cluster(tmp_path: Path) -> None:
    follow("to_a_cluster", tmp_path)
    assert [row["step"] for row in read_jsonl(tmp_path / "runs/laptop/metrics.jsonl")] == [1, 2, 3, 4]


def test_reading_a_run(tmp_path: Path) -> None:
    follow("reading_a_run", tmp_path)
    names = set().union(*read_jsonl(tmp_path / "runs/look/metrics.jsonl"))
    quoted = re.findall(r"`((?:\w+/)?\w+(?:/\w+)?)`", "\n".join(tables(TUTORIALS["reading_a_run"].read_text())))
    metrics = [name for name in quoted if "/" in name]
    assert len(metrics) >= 8
    assert not set(metrics) - names


def tables(page: str) -> list[str]:
    return [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]


def test_a_method_of_your_own(tmp_path: Path) -> None:
    follow("own_method", tmp_path)
    rows = read_jsonl(tmp_path / "runs/second_look/metrics.jsonl")
    assert sum(row.get("groups/second_look", 0) for row in rows) > 0
    assert all("second_looks_too_long" in row for row in rows)


@pytest.mark.parametrize("name", TUTORIALS)
def test_commands_for_other_machines_are_commands(name: str) -> None:
    for _, language, text in BLOCK.findall(TUTORIALS[name].read_text()):
        for line in text.splitlines() if not language else ():
            words = shlex.split(line)
            if "fastsvs" in words:
                config = getattr(parse("", words[words.index("fastsvs") + 1 :]), "config", "fastsvs:")
                assert config.startswith("fastsvs:") or (ROOT / config).exists()
