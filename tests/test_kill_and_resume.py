"""A run killed with SIGKILL at random moments ends with the same weights and records as one left alone."""

import random
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from whole_runs import OF_THE_MACHINE, ROOT, SMALL, command, environment

from fastsvs.files import read_jsonl


def arguments(folder: Path, steps: int) -> list[str]:
    sizes = [override for override in SMALL if not override.startswith("run.steps")]
    return ["train", "configs/tiny_svs.yaml", *sizes, f"run.steps={steps}", f"run.dir={folder}"]


def start(folder: Path, steps: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(*arguments(folder, steps)),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def run_with_kills(folder: Path, steps: int, kills: int, longest_wait: float, seed: int) -> int:
    """Kill up to `kills` sessions, each after its own random time; then let one finish. How many were killed."""
    moments = random.Random(seed)
    killed = 0
    for _ in range(kills):
        session = start(folder, steps)
        time.sleep(moments.uniform(0.1, 1.0) * longest_wait)
        session.kill()
        killed += session.wait() != 0
    assert start(folder, steps).wait(timeout=300) == 0
    return killed


def record(folder: Path) -> list[dict]:
    rows = read_jsonl(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith(OF_THE_MACHINE)} for row in rows]


def assert_same_end(fastsvs, folder: Path, other: Path) -> None:
    assert record(folder) == record(other)
    weights = []
    for run in (folder, other):
        out = run.with_suffix(".hf")
        assert fastsvs("export", str(run), "--out", str(out)).returncode == 0
        weights.append(load_file(out / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    samples = [sorted((run / "samples").iterdir()) for run in (folder, other)]
    for one, two in zip(*samples, strict=True):
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("kills", "steps"),
    [pytest.param(3, 3), pytest.param(20, 12, marks=[pytest.mark.slow, pytest.mark.timeout(1500)])],
)
def test_killed_at_random_moments(fastsvs, tmp_path: Path, kills: int, steps: int) -> None:
    began = time.perf_counter()
    result = fastsvs(*arguments(tmp_path / "alone", steps), timeout=600)
    assert result.returncode == 0, result.stderr
    killed = run_with_kills(tmp_path / "killed", steps, kills, longest_wait=time.perf_counter() - began, seed=kills)
    assert killed > kills // 3
    assert_same_end(fastsvs, tmp_path / "alone", tmp_path / "killed")
