"""The campaign of kills: that it sees every difference and all that is left behind, and that a run survives it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from whole_runs import ROOT

from bench.kills.__main__ import left_behind
from bench.kills.disturb import PORT, Event, disturb
from bench.kills.host import open_host
from bench.kills.jobs import JOBS, Job, differences

EXACT = Job("exact", "", steps=2)
COUNTED = Job("counted", "", steps=2, exact=False)


def group(key: str) -> dict:
    two = {name: [0, 1] for name in ("responses", "tokens", "finish", "weight_versions", "rewards")}
    return {"key": key, **two}


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    disk = tmp_path / "alone"
    write_rows(disk / "run" / "metrics.jsonl", [{"step": step, "reward": 0.5, "time/step": step} for step in (1, 2)])
    for step in (1, 2):
        write_rows(disk / "run" / "samples" / f"step_{step}.jsonl", [group("000000"), group("000001")])
    write_rows(disk / "run" / "evaluations" / "step_2.json", [{"pass@1": 0.5}])
    (disk / "exported").mkdir()
    save_file({"weight": torch.ones(3)}, disk / "exported" / "model.safetensors")
    return disk


@pytest.fixture
def ended(alone: Path, tmp_path: Path) -> Path:
    return shutil.copytree(alone, tmp_path / "ended")


def other_time(disk: Path) -> None:
    write_rows(disk / "run" / "metrics.jsonl", [{"step": step, "reward": 0.5, "time/step": 9} for step in (1, 2)])


def other_metric(disk: Path) -> None:
    write_rows(disk / "run" / "metrics.jsonl", [{"step": step, "reward": 0.25} for step in (1, 2)])


def step_twice(disk: Path) -> None:
    write_rows(disk / "run" / "metrics.jsonl", [{"step": step, "reward": 0.5} for step in (1, 1, 2)])


def sample_twice(disk: Path) -> None:
    write_rows(disk / "run" / "samples" / "step_1.jsonl", [group("000000"), group("000000")])


def sample_lost(disk: Path) -> None:
    write_rows(disk / "run" / "samples" / "step_1.jsonl", [group("000000") | {"responses": [0]}])


def other_evaluation(disk: Path) -> None:
    write_rows(disk / "run" / "evaluations" / "step_2.json", [{"pass@1": 0.25}])


def no_evaluation(disk: Path) -> None:
    (disk / "run" / "evaluations" / "step_2.json").unlink()


def other_weights(disk: Path) -> None:
    save_file({"weight": torch.full((3,), 1.0 + 2**-23)}, disk / "exported" / "model.safetensors")


def weights_not_finite(disk: Path) -> None:
    save_file({"weight": torch.tensor([1.0, float("nan")])}, disk / "exported" / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "exact", "counted"),
    [
        (other_time, [], []),
        (other_metric, ["metrics differ"], []),
        (step_twice, ["metrics have the steps [1, 1, 2]", "metrics differ"], ["metrics have the steps [1, 1, 2]"]),
        (
            sample_twice,
            ["step 1 has 2 groups under 1 keys", "step_1.jsonl differs"],
            ["step 1 has 2 groups under 1 keys"],
        ),
        (sample_lost, ["step 1: 000000 is not whole", "step_1.jsonl differs"], ["step 1: 000000 is not whole"]),
        (other_evaluation, ["step_2.json differs"], []),
        (no_evaluation, ["step_2.json differs"], []),
        (other_weights, ["model.safetensors differs"], []),
        (weights_not_finite, ["model.safetensors differs"], ["weights are not finite"]),
    ],
)
def test_every_difference_is_seen(
    alone: Path, ended: Path, change: Callable[[Path], None], exact: list[str], counted: list[str]
) -> None:
    change(ended)
    assert differences(EXACT, ended, alone) == exact
    assert differences(COUNTED, ended, alone) == counted


def test_the_configurations_of_all_jobs_are_there() -> None:
    assert all((ROOT / job.config).exists() for job in JOBS)


def needs_namespaces() -> None:
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip", "mount"))):
        pytest.skip("needs root and namespaces")
    if subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("namespaces are not permitted here")


def test_what_is_left_on_a_host_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_namespaces()
    monkeypatch.setattr("bench.kills.__main__.GONE_SECONDS", 1.0)
    disk = tmp_path / "disk"
    disk.mkdir()
    listens = "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); time.sleep(60)"
    with open_host(disk, 1 << 20) as host:
        assert left_behind(host) == []
        host.do("touch", "/dev/shm/segment", str(disk / "tmp" / "forgotten"))
        host.start(["setsid", "--fork", sys.executable, "-c", listens], os.environ, tmp_path / "log").wait()
        found = "; ".join(left_behind(host))
    for kind in ("processes", "ports", "shared memory", "temporary files"):
        assert f"{kind} left behind" in found


def test_connections_of_a_port_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_namespaces()
    if not shutil.which("ss"):
        pytest.skip("needs ss")
    monkeypatch.setattr("bench.kills.disturb.EVENTS", (PORT,))
    disk = tmp_path / "disk"
    disk.mkdir()
    talks = (
        "import socket\ns = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname())\n"
        "o, _ = s.accept(); print('joined', flush=True)\n"
        "try: o.recv(1)\nexcept (ConnectionAbortedError, ConnectionResetError): print('cut')"
    )
    with open_host(disk, 1 << 20) as host:
        process = host.start([sys.executable, "-uc", talks], os.environ, tmp_path / "log")
        deadline = time.monotonic() + 30
        while "joined" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert disturb(host, random.Random(0)) == Event(PORT, "host")
        assert process.wait(30) == 0
    assert (tmp_path / "log").read_text() == "joined\ncut\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_short_campaign_finds_no_fault(tmp_path: Path) -> None:
    needs_namespaces()
    words = ["-m", "bench.kills", "--runs", "2", "--events", "4", "--jobs", "local", "--out", str(tmp_path)]
    ended = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
