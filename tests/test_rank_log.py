"""What the ranks print is kept in the run folder, whole, and torchrun is told why a rank failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forking import Run
from whole_runs import SMALL, TRAIN, environment

from fastsvs import distributed, ends, rank_log
from fastsvs.errors import UserError

QUICK = [*TRAIN, *SMALL, "run.steps=1", "evaluation.path=null", "dynamics.every=0"]


@pytest.mark.parametrize("processes", [1, 2])
def test_every_attempt_and_rank_has_a_log(processes: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for attempt in (1, 2):
        ended = Run(*QUICK, f"run.dir={folder}", processes=processes).completed(120)
        assert ended.returncode == 0, ended.stderr
        logs = {path.name: path.read_text() for path in (folder / "logs" / f"attempt_{attempt}").iterdir()}
        assert sorted(logs) == [f"rank_{rank}.log" for rank in range(processes)]
        printed = ended.stdout.splitlines()
        assert logs["rank_0.log"].splitlines() == printed[printed.index(logs["rank_0.log"].splitlines()[0]) :]


def test_a_refused_job_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert Run(*QUICK, "algorithm.loss=none_such", f"run.dir={folder}").completed(60).returncode == 2
    assert not folder.exists()


def test_logs_that_cannot_be_made_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_log, "_owned", True)
    distributed.initialize()
    (tmp_path / "logs").touch()
    with pytest.raises(UserError, match=r"cannot write .*logs/attempt_1: Not a directory"):
        rank_log.start(tmp_path / "logs")


DIES = """
import ctypes, os, sys
from pathlib import Path
from fastsvs import rank_log
rank_log.own_process()
rank_log.start(Path(sys.argv[1]))
print("to stdout", flush=True)
os.write(2, b"a library's last words\\n")
ctypes.string_at(0)
"""


def test_what_a_dying_process_prints_last_is_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIES, str(tmp_path)]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode < 0
    kept = (tmp_path / "attempt_1" / "rank_0.log").read_text()
    assert sorted(kept.splitlines()[:2]) == ["a library's last words", "to stdout"]
    assert (ended.stdout, ended.stderr.splitlines()[0]) == ("to stdout\n", "a library's last words")


def test_the_flight_recorder_is_on_unless_the_user_says_otherwise() -> None:
    mine = {"TORCH_NCCL_DUMP_ON_TIMEOUT": "0"}
    rank_log.set_flight_recorder(mine)
    assert mine == {"TORCH_NCCL_DUMP_ON_TIMEOUT": "0", "TORCH_FR_BUFFER_SIZE": "2000"}
    by_its_former_name = {"TORCH_NCCL_TRACE_BUFFER_SIZE": "9"}
    rank_log.set_flight_recorder(by_its_former_name)
    assert by_its_former_name == {"TORCH_NCCL_TRACE_BUFFER_SIZE": "9", "TORCH_NCCL_DUMP_ON_TIMEOUT": "1"}


JOINS = """
from fastsvs import distributed, rank_log
import os
rank_log.set_flight_recorder(os.environ)
distributed.initialize(60)
"""


def test_the_flight_recorder_brings_no_warning() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", JOINS], env=environment(), capture_output=True, text=True, timeout=120, check=True
    )
    assert "deprecated" not in ended.stderr


def test_torchrun_finds_the_message_of_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    ends.tell_torchrun(UserError("data.path: no such file"))
    assert "data.path: no such file" in json.loads(file.read_text())["message"]["message"]


def test_the_last_collective_is_named_with_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "all_gather_object", lambda values, value: None)
    distributed.barrier()
    said = distributed.last_collective()
    assert said.startswith("the last gather was entered 0 s ago, by ")
    assert os.path.basename(__file__) in said
