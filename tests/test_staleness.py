"""Training on an engine that the main rank drives, in step with the update and one step ahead of it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from whole_runs import ROOT, SMALL

from bench.kills.jobs import OF_THE_MACHINE
from fastsvs.cli import main
from fastsvs.files import read_jsonl

STEPS = 4
AHEAD = ("train.staleness=1", "algorithm.rollout_correction=tis")

Train = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def train(fastsvs) -> Train:
    """Train the shrunken demo in a folder, by default with the engine of remote_engine.py."""

    def run(folder: Path, *options: str, engine="remote_engine:MainRankEngine", steps=STEPS, processes=1, by=fastsvs):
        sizes = [*SMALL, "evaluation.limit=4", f"run.steps={steps}", f"rollout.engine={engine}", f"run.dir={folder}"]
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("PYTHONPATH", str(Path(__file__).parent))
            return by("train", "configs/tiny_svs.yaml", *sizes, *options, processes=processes)

    return run


@pytest.fixture(scope="module")
def ahead(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on two ranks, one step ahead."""
    folder = tmp_path_factory.mktemp("runs") / "ahead"
    result = train(folder, *AHEAD, "evaluation.every=2", processes=2)
    assert result.returncode == 0, result.stderr
    return folder


def metrics(folder: Path) -> list[dict]:
    return read_jsonl(folder / "metrics.jsonl")


def groups(folder: Path, step: int) -> list[dict]:
    return read_jsonl(folder / "samples" / f"step_{step}.jsonl")


def versions(folder: Path) -> list[list[int]]:
    """Of the weights that sampled each step's responses."""
    return [sorted({v for row in groups(folder, step) for v in row["weight_versions"]}) for step in range(1, STEPS + 1)]


def originals(folder: Path) -> list[list[str]]:
    return [
        sorted(row["question"] for row in groups(folder, step) if row["kind"] == "original")
        for step in range(1, STEPS + 1)
    ]


def test_in_step_the_main_rank_alone_makes_the_batches_that_all_ranks_make(train: Train, tmp_path: Path) -> None:
    layout = "policy.tensor_parallel=2"
    for name, engine in (("together", "local"), ("main", "remote_engine:MainRankEngine")):
        result = train(tmp_path / name, layout, "evaluation.every=1", engine=engine, steps=1, processes=2)
        assert result.returncode == 0, result.stderr
    together, alone = tmp_path / "together", tmp_path / "main"
    assert groups(alone, 1) == groups(together, 1)
    [one], [other] = metrics(together), metrics(alone)
    assert other.pop("rollout/servers") == 1
    assert other.pop("rollout/asked") > 0
    assert one.keys() == other.keys()
    for name in one:
        if not name.startswith(OF_THE_MACHINE):
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name
    for step in (0, 1):
        evaluation = f"evaluations/step_{step}.json"
        assert (alone / evaluation).read_text() == (together / evaluation).read_text()


def test_one_step_ahead_every_batch_but_the_first_is_one_version_old(ahead: Path) -> None:
    rows = metrics(ahead)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert versions(ahead) == [[0], [0], [1], [2]]
    assert [row["rollout/version_lag"] for row in rows] == [0, 1, 1, 1]
    assert {row["rollout/mixed_versions"] for row in rows} == {0}
    assert all(0 <= row["time/engine_idle"] <= 1 for row in rows)
    assert all(row["policy/rollout_mismatch"] > 1e-4 > rows[0]["policy/rollout_mismatch"] for row in rows[1:])
    evaluated = [(ahead / "evaluations" / f"step_{step}.json").exists() for step in range(STEPS + 1)]
    assert evaluated == [True, False, True, False, True]


def test_one_step_ahead_nothing_is_asked_twice(ahead: Path) -> None:
    asked = sum(row["rollout/asked"] for row in metrics(ahead))
    evaluations = 2 * 4  # before the first step and after the second
    assert asked == evaluations + sum(len(groups(ahead, step)) for step in range(1, STEPS + 1))


def test_killed_with_rollouts_ahead_it_loses_no_step_and_repeats_none(
    train: Train, ahead: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rollouts that ran ahead are made again, from the weights of the checkpoint."""
    monkeypatch.setenv("REMOTE_ENGINE_KILLED_AT", "1")
    assert train(tmp_path, *AHEAD).returncode == -signal.SIGKILL
    monkeypatch.delenv("REMOTE_ENGINE_KILLED_AT")
    done = len(metrics(tmp_path))
    assert done in (1, 2)  # it rolled out for step 3 while step 2 learned
    result = train(tmp_path, *AHEAD)
    assert result.returncode == 0, result.stderr
    rows = metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert originals(tmp_path) == originals(ahead)
    first = [row["step"] for row in rows if row["rollout/version_lag"] == 0][-1]  # of the second session
    assert first in (1, 2, 3)  # where the newest checkpoint was still being written, one step more is made again
    assert versions(tmp_path)[first - 1 :] == [[first - 1], *([version] for version in range(first - 1, STEPS - 1))]


@pytest.mark.parametrize(("options", "processes"), [((), 1), (AHEAD, 2)])
def test_a_lost_engine_ends_the_run_with_a_checkpoint_and_a_message(
    train: Train, launched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], processes: int
) -> None:
    """Which stands above what torchrun has to say."""
    monkeypatch.setenv("REMOTE_ENGINE_FAILS_AT", "1")
    result = train(tmp_path, *options, "run.save_every=100", processes=processes, by=launched)
    assert result.returncode != 0
    assert "server 0 was restarted 3 times" in result.stderr
    assert "Traceback" not in result.stderr.split("server 0 was restarted 3 times")[0]
    done = len(metrics(tmp_path))
    assert done == (2 if options else 1)
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == [f"step_{done:08d}"]
    monkeypatch.delenv("REMOTE_ENGINE_FAILS_AT")
    result = train(tmp_path, *options, "run.save_every=100", processes=processes)
    assert result.returncode == 0, result.stderr
    assert [row["step"] for row in metrics(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("local", "rollout.engine=local works in the trainer's own processes"),
        ("remote_engine:MainRankEngine", "set algorithm.rollout_correction to tis or icepop"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_what_cannot_run_ahead_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, engine, message, dry
) -> None:
    monkeypatch.chdir(ROOT)
    options = [*SMALL, f"rollout.engine={engine}", "train.staleness=1", f"run.dir={tmp_path}/run", *dry]
    assert main(["train", "configs/tiny_svs.yaml", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
