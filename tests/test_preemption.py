"""A job that is told to end early saves its finished steps, and goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forking import Run
from whole_runs import ROOT, SFT, SMALL, environment

from bench.kills.jobs import record
from fastsvs import preemption
from fastsvs.files import read_jsonl

STEPS = 6
SIZES = [*(size for size in SMALL if not size.startswith("run.")), "run.prompts_per_step=8", "evaluation.path=null"]
REMOTE = ("rollout.engine=remote_engine:MainRankEngine",)


def arguments(folder: Path, *options: str) -> list[str]:
    ends = [f"run.steps={STEPS}", "run.save_every=100", f"run.dir={folder}"]
    return ["train", "configs/tiny_svs.yaml", *SIZES, *ends, *options]


def steps(folder: Path) -> int:
    return len(read_jsonl(folder / "metrics.jsonl"))


def started(folder: Path, command: list[str], processes: int = 1) -> Run:
    """Start the run, and return once it has taken a step."""
    run = Run(*command, processes=processes)
    while steps(folder) < 1:
        assert run.poll() is None, run.completed(1).stderr
        time.sleep(0.02)
    return run


@pytest.fixture(autouse=True)
def _a_job_of_the_foreground() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a background job ignores, its children do
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole(fastsvs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert fastsvs(*arguments(folder)).returncode == 0
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_costs_no_finished_step(number, fastsvs, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = started(folder, arguments(folder))
    run.signal(number)
    ended = run.completed(60)
    done = steps(folder)
    assert ended.returncode == os.EX_TEMPFAIL
    assert "the same command goes on from there" in ended.stdout
    assert 1 <= done < STEPS
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step_{done:08d}"]
    again = fastsvs(*arguments(folder))
    assert f"resuming {folder} after step {done}" in again.stdout
    assert record(folder) == record(whole)
    last = [sorted((run / "checkpoints" / f"step_{STEPS:08d}").glob("*.safetensors")) for run in (folder, whole)]
    assert [one.read_bytes() for one in last[0]] == [one.read_bytes() for one in last[1]] != []


@pytest.mark.parametrize("options", [(), REMOTE])
def test_all_ranks_end_when_one_is_told(options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    folder = tmp_path / "run"
    run = started(folder, arguments(folder, *options, "run.steps=200"), processes=2)
    run.signal(signal.SIGTERM, rank=1)
    run.completed(60)
    assert set(run.codes) <= {os.EX_TEMPFAIL, -signal.SIGKILL}  # the last one may be ended when the first has gone
    [saved] = (folder / "checkpoints").iterdir()
    assert (saved / "manifest.json").exists()
    assert saved.name == f"step_{steps(folder):08d}"


def test_fine_tuning_ends_early_as_well(fastsvs, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [*SFT, "run.steps=2000", "run.save_every=5000", f"run.dir={folder}"]
    run = started(folder, command)
    run.signal(signal.SIGTERM)
    assert run.completed(60).returncode == os.EX_TEMPFAIL
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step_{steps(folder):08d}"]


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = started(folder, arguments(folder, "run.steps=200"))
    os.kill(run.pid, signal.SIGSTOP)  # so that both are there before it can react to the first
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGCONT):
        run.signal(number)
    assert run.completed(60).returncode in (-signal.SIGTERM, -signal.SIGUSR1)


def test_a_second_interrupt_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with preemption.listening(signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
        assert preemption.told()
        signal.raise_signal(signal.SIGINT)  # torchrun passes on what the terminal has sent to all
        monkeypatch.setattr(preemption, "ECHO_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_job_of_the_background_leaves_interrupts_to_others() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with preemption.listening(signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
        assert not preemption.told()


def test_an_interrupt_before_the_work_is_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastsvs", *arguments(tmp_path / "run")]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stderr is not None
    while "loading PyTorch" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (128 + signal.SIGINT, "fastsvs: interrupted\n")


AT_ITS_FIRST_IMPORT = """
import os, runpy, signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "pydantic":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
sys.argv = ["fastsvs", "configs"]
runpy.run_module("fastsvs", run_name="__main__", alter_sys=True)
"""


def test_an_interrupt_while_libraries_load_is_one_line() -> None:
    command = [sys.executable, "-c", AT_ITS_FIRST_IMPORT]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "fastsvs: interrupted\n")
