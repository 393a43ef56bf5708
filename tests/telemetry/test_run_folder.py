"""The run folder: one configuration a run, whole lines only, and nothing lost on a resume."""

import json
from pathlib import Path

import pytest

from fastsvs.config import TrainJob, load
from fastsvs.errors import UserError
from fastsvs.files import read_jsonl, write_atomic
from fastsvs.telemetry import RunFolder

CONFIG = Path(__file__).parents[2] / "configs" / "tiny_svs.yaml"


def job(*overrides: str) -> TrainJob:
    return load(TrainJob, CONFIG, overrides)


def begun(root: Path, *overrides: str, step: int = 0) -> RunFolder:
    folder = RunFolder(job(*overrides), root, writable=True)
    folder.begin(step)
    return folder


def test_nothing_is_written_before_the_run_begins(tmp_path: Path) -> None:
    RunFolder(job(), tmp_path / "run", writable=True)
    assert not (tmp_path / "run").exists()


def test_a_second_session_may_go_on_longer_and_on_another_layout(tmp_path: Path) -> None:
    begun(tmp_path)
    begun(tmp_path, "run.steps=99", "policy.tensor_parallel=2")
    assert "steps: 99" in (tmp_path / "config.yaml").read_text()


def test_another_configuration_is_refused_by_name_and_changes_nothing(tmp_path: Path) -> None:
    begun(tmp_path)
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"run\.seed: 0 -> 3"):
        RunFolder(job("run.seed=3"), tmp_path, writable=True)
    assert (tmp_path / "config.yaml").read_text() == before


def test_what_a_start_that_was_killed_leaves_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "logs" / "attempt_1").mkdir(parents=True)
    (tmp_path / "servers").mkdir()
    RunFolder(job(), tmp_path, writable=True)


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="holds files but no run"):
        RunFolder(job(), tmp_path, writable=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_beginning_again_cuts_what_will_be_made_again_and_a_half_written_line(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    for step in range(1, 6):
        folder.log({"step": step})
    with open(folder.layout.metrics, "a") as file:
        file.write('{"step": 6, "lo')
    folder.begin(3)
    folder.log({"step": 4, "again": True})
    assert folder.metrics() == [{"step": 1}, {"step": 2}, {"step": 3}, {"step": 4, "again": True}]


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations/step_0.json"])
def test_a_damaged_file_is_told_before_the_run_goes_on(tmp_path: Path, name: str) -> None:
    folder = begun(tmp_path)
    folder.log({"step": 1})
    folder.write_evaluation(0, {}, [], [])
    folder.close()
    (tmp_path / name).write_text("half a wor\n")
    before = (tmp_path / "config.yaml").stat().st_mtime_ns
    with pytest.raises(UserError, match=f"{name}.*: not JSON"):
        RunFolder(job(), tmp_path, writable=True)
    assert (tmp_path / "config.yaml").stat().st_mtime_ns == before


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    folder = RunFolder(job(), tmp_path / "run", writable=False)
    folder.log({"step": 1})
    folder.write_samples(1, [{"key": "a"}])
    folder.write_evaluation(0, {}, [], [])
    folder.begin(0)
    assert not (tmp_path / "run").exists()


def test_evaluations_come_back_by_step(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    early, late = ({"pass@1": {"mean": mean, "low": 0.125, "high": 0.75}} for mean in (0.25, 0.5))
    folder.write_evaluation(10, late, [{"id": "x"}], [])
    folder.write_evaluation(0, early, [{"id": "x"}], [])
    assert list(folder.evaluations().items()) == [(0, early), (10, late)]
    assert read_jsonl(tmp_path / "evaluations" / "step_10.samples.jsonl") == [{"id": "x"}]


def test_environment_names_versions_and_command(tmp_path: Path) -> None:
    begun(tmp_path)
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert {"torch", "megatron-core"} <= environment["packages"].keys()
    assert environment["command"]


def test_a_failed_write_keeps_the_old_file_and_says_where(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.mkdir()
    with pytest.raises(UserError, match="cannot write"):
        write_atomic(target, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for folder in (Path(), Path("/")):
        with pytest.raises(UserError, match="it is a folder, name a file"):
            write_atomic(folder, "text")


def test_a_second_session_waits_for_the_first_to_end(tmp_path: Path) -> None:
    first = begun(tmp_path)
    with pytest.raises(UserError, match="another process is at work"):
        begun(tmp_path)
    first.close()
    begun(tmp_path).close()
