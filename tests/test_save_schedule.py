"""When a run is saved, by steps and by time, and that it begins only where the disk has room for what it will save."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_runs import ROOT, SFT, TRAIN, command, environment, files

from bench.kills.jobs import record
from fastsvs import distributed
from fastsvs.architecture import load_hf_config, read_architecture
from fastsvs.cli import main
from fastsvs.config import TrainJob, load
from fastsvs.errors import UserError
from fastsvs.policy import Degrees, checkpoint
from fastsvs.stored_run import checkpoints_in
from fastsvs.training import SaveSchedule, saving


def job(*options: str) -> TrainJob:
    return load(TrainJob, ROOT / "configs" / "tiny_svs.yaml", ["run.dir=run", *options])


@given(
    steps=st.integers(1, 40),
    every=st.integers(1, 50),
    minutes=st.sampled_from([0.0, 1.0, 2.5]),
    durations=st.lists(st.floats(0, 300), min_size=40, max_size=40),
)
def test_no_step_ends_unsaved_that_is_due(steps: int, every: int, minutes: float, durations: list[float]) -> None:
    now = [1000.0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "monotonic", lambda: now[0])
        schedule = SaveSchedule(job(f"run.steps={steps}", f"run.save_every={every}", f"run.save_minutes={minutes}"))
        last = now[0]
        for step in range(1, steps + 1):
            now[0] += durations[step - 1]
            by_steps = step % every == 0 or step == steps
            by_time = minutes > 0 and now[0] - last >= 60 * minutes
            assert schedule.is_due(step) == (by_steps or by_time)
            last = now[0] if by_steps or by_time else last
        assert schedule.certain(0) == [s for s in range(1, steps + 1) if s % every == 0 or s == steps][:3]


@pytest.mark.parametrize("told", [True, False])
def test_the_main_ranks_clock_decides(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = SaveSchedule(job("run.save_minutes=1", "run.save_every=100", "run.steps=1000"))
    monkeypatch.setattr(distributed, "broadcast", lambda value: told)
    assert schedule.is_due(7) is told


def test_steps_after_which_a_hook_changes_weights_are_saved() -> None:
    hooked = job("merging.hook=merge", "merging.every=5", "run.save_every=100", "run.steps=12")
    assert SaveSchedule(hooked).certain(0) == [5, 10, 12]
    assert SaveSchedule(hooked).certain(10) == [12]


def test_a_run_that_is_saved_by_time_has_the_same_bits(fastsvs, tmp_path: Path) -> None:
    by_step, by_time = tmp_path / "by_step", tmp_path / "by_time"
    small = [*TRAIN, "evaluation.path=null", "dynamics.every=0", "run.prompts_per_step=4"]
    assert fastsvs(*small, f"run.dir={by_step}").returncode == 0
    timed = [*small, "run.save_every=1000", "run.save_minutes=0.0001", f"run.dir={by_time}"]
    assert fastsvs(*timed).returncode == 0
    assert record(by_time) == record(by_step)
    whole = files(by_time)
    assert whole == files(by_step)
    shutil.rmtree(by_time / "checkpoints" / "step_00000003")
    again = fastsvs(*timed, "run.save_minutes=0")
    assert "resuming" in again.stdout
    assert files(by_time) == whole


@pytest.mark.parametrize("processes", [1, 2])
def test_fine_tuning_is_saved_by_time(fastsvs, tmp_path: Path, processes: int) -> None:
    options = ["run.steps=3", "run.save_every=1000", "run.save_minutes=0.00001", "run.keep_checkpoints=9"]
    assert fastsvs(*SFT, *options, f"run.dir={tmp_path}/run", processes=processes).returncode == 0
    assert list(checkpoints_in(tmp_path / "run" / "checkpoints")) == [1, 2, 3]


EACH = checkpoint.state_bytes(read_architecture(load_hf_config(str(ROOT / "models" / "tiny"))), Degrees())


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ([], 3),
        (["run.keep_checkpoints=1"], 2),
        (["run.save_every=3"], 1),
        (["run.save_every=2", "run.keep_checkpoints=5"], 2),
    ],
)
@pytest.mark.parametrize("arguments", [TRAIN, (*SFT, "run.steps=3")], ids=["train", "sft"])
def test_a_run_without_room_does_not_begin(
    arguments: tuple[str, ...],
    options: list[str],
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(saving, "free_bytes", lambda folder: count * EACH - 1)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    folder = tmp_path / "run"
    assert main([*arguments, *options, f"run.dir={folder}"]) == 2
    said = capsys.readouterr().err
    assert f"run.dir={folder}: " in said
    assert f"and {count} more checkpoint(s) of " in said
    assert not folder.exists()


def test_the_dry_run_under_torchrun_refuses_too_and_elsewhere_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(saving, "free_bytes", lambda folder: 10)
    dry = [*TRAIN, f"run.dir={tmp_path}/run", "--dry-run"]
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(dry) == 0
    assert "a checkpoint, up to 3 at a time; " in capsys.readouterr().out
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert main(dry) == 2
    assert "10 bytes are free there, and 3 more checkpoint(s)" in capsys.readouterr().err


def test_what_is_there_and_what_the_next_save_removes_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = job("run.steps=30", "run.save_every=10", f"run.dir={tmp_path}")
    model = load_hf_config(str(ROOT / "models" / "tiny"))

    def refused(free: int | None) -> bool:
        monkeypatch.setattr(saving, "free_bytes", lambda folder: free)
        try:
            saving.check_room(config, tmp_path, model)
        except UserError:
            return True
        return False

    assert refused(3 * EACH - 1)
    assert not refused(3 * EACH)
    assert not refused(None)
    (tmp_path / "step_00000010").mkdir()
    assert refused(2 * EACH - 1)
    assert not refused(2 * EACH)
    (tmp_path / "step_00000020").mkdir()
    assert refused(EACH - 1)
    assert not refused(EACH)
    (tmp_path / ".step_00000030.draft").mkdir()
    (tmp_path / ".step_00000030.draft" / "rank_00000.safetensors").write_bytes(bytes(EACH))
    assert not refused(0)
    (tmp_path / "step_00000030").mkdir()
    assert not refused(0)  # nothing more will be saved


ON_A_SMALL_DISK = """
set -eu
mount -t tmpfs -o size=$SIZE none "$DISK"
"$PYTHON" -m fastsvs "$@" run.dir="$DISK/run" &
while ! ls "$DISK"/run/checkpoints/step_* >/dev/null 2>&1; do kill -0 $!; sleep 0.05; done
head -c $(($(stat -f -c '%a * %S' "$DISK") - LEAVE)) /dev/zero > "$DISK/fill" || true
status=0; wait $! || status=$?
rm -f "$DISK/fill"
ls -A "$DISK/run/checkpoints"
"$PYTHON" -m fastsvs doctor "$DISK/run"
exit $status
"""
"""A run on a file system of its own, which somebody else fills once the first checkpoint is there."""


def test_a_disk_that_fills_up_ends_the_run_with_its_last_checkpoint_whole(tmp_path: Path) -> None:
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*namespace, "mount", "-t", "tmpfs", "none", str(tmp_path)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here")
    disk = {"DISK": str(tmp_path), "SIZE": str(4 * EACH), "LEAVE": str(EACH // 2), "PYTHON": sys.executable}
    words = command(*TRAIN, "run.steps=500", "evaluation.path=null")[3:]
    result = subprocess.run(
        [*namespace, "bash", "-c", ON_A_SMALL_DISK, "-", *words],
        cwd=ROOT,
        env=environment() | disk,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    [said] = [line for line in result.stderr.splitlines() if line.startswith("fastsvs: error: ")]
    assert "cannot be written to" in said
    assert "Traceback" not in result.stderr
    lines = result.stdout.splitlines()
    whole = [line for line in lines if line.startswith("step_")]
    assert whole
    assert [line.split()[:2] for line in lines[-len(whole) :]] == [["ok", step] for step in whole]
