"""A run killed with SIGKILL at random moments ends with the same weights and records as one left alone."""

import random
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from forking import Run
from killed_runs import assert_same_end
from whole_runs import ROOT, SMALL, command, environment

from fastsvs.files import read_jsonl
from fastsvs.processes import descendants, runs

WAVES = ("train.waves=3", "algorithm.old_logprobs=engine")
"""Options under which a step is learned from in parts, so that a kill meets one that is half learned."""


def arguments(folder: Path, steps: int, options: tuple[str, ...]) -> list[str]:
    sizes = [override for override in SMALL if not override.startswith("run.steps")]
    kept = ("logging.token_share=0.5", f"run.steps={steps}", f"run.dir={folder}")
    return ["train", "configs/tiny_svs.yaml", *sizes, *options, *kept]


def launch(words: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(*words),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def written(folder: Path) -> dict[str, int]:
    """Bytes by step of the samples."""
    sizes = {}
    for path in (folder / "samples").glob("*.jsonl"):
        with suppress(FileNotFoundError):  # a session cleans up behind the one before
            sizes[path.name] = path.stat().st_size
    return sizes


def run_with_kills(words: list[str], folder: Path, kills: int, start_seconds: float, step_seconds: float) -> int:
    """Kill up to `kills` sessions, one in four while it starts, the others within a step of the first that they
    record; then let one finish. How many were killed. The first session and the last are fresh interpreters."""
    moments = random.Random(kills)
    for killed in range(kills):
        session = Run(*words) if killed else launch(words)
        before = written(folder)
        if moments.random() < 0.25:
            time.sleep(moments.uniform(0, start_seconds))
        else:
            while session.poll() is None and written(folder) == before:
                time.sleep(0.02)
            time.sleep(moments.uniform(0, step_seconds))
        session.kill()
        if session.wait() == 0:
            return killed
    assert launch(words).wait(timeout=300) == 0
    return kills


@pytest.mark.parametrize(
    ("kills", "steps", "options"),
    [
        pytest.param(3, 3, ()),
        pytest.param(6, 4, WAVES, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
        pytest.param(20, 12, (), marks=[pytest.mark.slow, pytest.mark.timeout(1500)]),
    ],
)
def test_killed_at_random_moments(fastsvs, tmp_path: Path, kills: int, steps: int, options: tuple[str, ...]) -> None:
    began = time.perf_counter()
    result = fastsvs(*arguments(tmp_path / "alone", steps, options), timeout=600)
    assert result.returncode == 0, result.stderr
    stepping = sum(row["time/step"] for row in read_jsonl(tmp_path / "alone" / "metrics.jsonl"))
    starting = time.perf_counter() - began - stepping
    words = arguments(tmp_path / "killed", steps, options)
    killed = run_with_kills(words, tmp_path / "killed", kills, starting, stepping / steps)
    assert killed > steps // 4  # none of them can have got far
    assert_same_end(fastsvs, tmp_path / "alone", tmp_path / "killed")


@pytest.mark.slow
def test_ranks_end_with_the_torchrun_that_started_them(tmp_path: Path) -> None:
    """They would go on beside the ranks of the job's next start, in the same folder."""
    words = command(*arguments(tmp_path / "run", 50, ("policy.tensor_parallel=2",)), processes=2)
    agent = subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not read_jsonl(tmp_path / "run" / "metrics.jsonl"):
        assert agent.poll() is None
        time.sleep(0.1)
    ranks = [one for one in descendants([agent.pid]) if one.parent == agent.pid and not one.ended]
    assert len(ranks) >= 2
    agent.kill()
    agent.wait()
    deadline = time.monotonic() + 30
    while any(runs(rank.pid, rank.started) for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.1)
