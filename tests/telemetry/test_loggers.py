"""Real TensorBoard, Weights & Biases (offline) and MLflow (files), read back with their own readers."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from fastsvs.cli import main
from fastsvs.config import LoggingConfig, TrainJob, load
from fastsvs.errors import UserError
from fastsvs.telemetry import LOGGERS, RunFolder
from fastsvs.telemetry.loggers import registry
from fastsvs.telemetry.loggers.tables import columns_of, table_of

CONFIG = Path(__file__).parents[2] / "configs" / "tiny_svs.yaml"
SECRET = "key-that-nobody-may-see"
GROUPS = [
    {
        **{"step": 4, "kind": kind, "problem": f"{kind}-{number}", "question": "2 < 3 | 4\nor?", "answer": "5"},
        **{"responses": ["five", "5"], "verdicts": ["incorrect", "correct"], "rewards": [0.0, 1.0], "tokens": [4, 1]},
    }
    for kind in ("original", "variant")
    for number in range(6)
]
"""Samples of a step, twelve groups of two responses."""


def folder(root: Path, logger: str) -> RunFolder:
    return RunFolder(
        load(TrainJob, CONFIG, [f"logging.loggers=[{logger}]", "logging.project=tests", "logging.sample_every=2"]),
        root,
        writable=True,
    )


def session(root: Path, logger: str, done: int, last: int) -> None:
    """Steps after `done`, up to `last`, whose loss is the step's number; and an evaluation of the last."""
    run = folder(root, logger)
    run.begin(done)
    for step in range(done + 1, last + 1):
        run.log({"step": step, "policy/loss": float(step)})
    run.write_samples(last, GROUPS)
    run.write_evaluation(last, {"pass@1": {"mean": 0.5, "low": 0.4, "high": 0.6}, "problems": 7}, [], [])
    run.close()


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", SECRET.replace("-", "0") + "0" * 20)
    monkeypatch.setenv("FASTSVS_API_KEY", SECRET)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    session(tmp_path, "tensorboard", 0, 5)
    session(tmp_path, "tensorboard", 3, 6)  # killed after a checkpoint of step 3
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    loss = events.Scalars("policy/loss")
    assert [(event.step, event.value) for event in loss] == [(step, float(step)) for step in range(1, 7)]
    assert events.Scalars("evaluation/pass@1")[-1].value == 0.5
    assert events.Scalars("evaluation/pass@1/high")[-1].step == 6
    assert "tiny:train" in str(events.Tensors("config/text_summary")[0])
    assert "| 2 &lt; 3 &#124; 4<br>or? |" in str(events.Tensors("samples/text_summary")[0])


def offline_records(content: bytes) -> Iterator[bytes]:
    """Of W&B's offline file: LevelDB's log format after a header of 7 bytes."""
    place, record = 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _checksum, length, part = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_weights_and_biases_offline(tmp_path: Path) -> None:
    import wandb
    from wandb.proto import wandb_internal_pb2

    session(tmp_path, "wandb", 0, 3)
    session(tmp_path, "wandb", 2, 4)
    wandb.teardown()  # its process writes on after a run has ended
    seen: dict[int, set[float]] = {}
    ids, tables = set(), 0
    for file in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        for data in offline_records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
                assert record.run.project == "tests"
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            tables += "samples/_type" in items or "table-file" in items.get("samples", "")
            if "policy/loss" in items:
                seen.setdefault(int(float(items["step"])), set()).add(float(items["policy/loss"]))
    assert seen == {step: {float(step)} for step in range(1, 5)}
    assert ids == {(tmp_path / "wandb.id").read_text()}
    assert tables == 1


def test_mlflow_in_files(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    session(tmp_path, "mlflow", 0, 3)
    session(tmp_path, "mlflow", 2, 4)
    client = MlflowClient(f"file:{tmp_path / 'mlflow'}")
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    history = {(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "policy/loss")}
    assert history == {(step, float(step)) for step in range(1, 5)}
    assert run.data.metrics["evaluation/pass_at_1"] == 0.5
    assert run.data.params["selfplay.stage"] == "svs"
    assert run.info.status == "FINISHED"
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id, "samples")}
    assert artifacts == {"samples/step_4.json"}


def test_no_key_is_written_anywhere(tmp_path: Path) -> None:
    import wandb

    for logger in ("tensorboard", "wandb", "mlflow"):
        session(tmp_path / logger, logger, 0, 1)
    wandb.teardown()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert SECRET.encode() not in content, path
            assert SECRET.replace("-", "0").encode() not in content, path


class Broken:
    """Takes one row, then its server is gone."""

    def __init__(self, run: registry.RunFacts) -> None:
        self.rows: list[Mapping[str, float]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.rows:
            raise ConnectionError("no route to host")
        self.rows.append(values)

    def close(self) -> None:
        raise ConnectionError("still none")


def test_a_logger_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(LOGGERS._entries, "broken", Broken)
    session(tmp_path, "broken", 0, 4)
    shown = capsys.readouterr().err
    assert shown.count("broken takes nothing (ConnectionError: no route to host)") == 1
    assert "broken lacks 4 row(s)" in shown  # three steps and the evaluation
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_names_and_packages_are_checked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="unknown logger 'wandbb'"):
        folder(tmp_path, "wandbb")
    monkeypatch.setattr(registry, "find_spec", lambda package: None)
    assert main(["train", str(CONFIG), "logging.loggers=[wandb]", f"run.dir={tmp_path}/run"]) == 2
    assert "pip install 'fastsvs[wandb]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_is_logged_may_change_between_sessions(tmp_path: Path) -> None:
    session(tmp_path, "", 0, 2)
    older = (tmp_path / "config.yaml").read_text()
    assert "dynamics:" in older
    kept = older[: older.index("dynamics:")] + older[older.index("\nrun:") :]  # of a version without these sections
    (tmp_path / "config.yaml").write_text(kept)
    session(tmp_path, "tensorboard", 2, 3)
    assert LoggingConfig(loggers=("tensorboard",)).loggers[0] in (tmp_path / "config.yaml").read_text()


class Listener:
    """A logger that keeps what it gets."""

    heard: ClassVar[list[str]] = []
    link = "over there"

    def __init__(self, run: registry.RunFacts) -> None: ...

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def alert(self, text: str) -> None:
        self.heard.append(text)

    def close(self) -> None: ...


def loud(row: Mapping[str, float]) -> str | None:
    """Speak of losses over 1."""
    return "the loss is high" if row["policy/loss"] > 1 else None


def broken(row: Mapping[str, float]) -> str | None:
    raise ValueError("no")


def watched(root: Path, alert: str) -> RunFolder:
    changes = [f"logging.loggers=[{__name__}:Listener]", f"logging.alert={__name__}:{alert}"]
    return RunFolder(load(TrainJob, CONFIG, changes), root, writable=True)


def test_an_alert_is_shown_and_passed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Listener.heard.clear()
    run = watched(tmp_path, "loud")
    run.begin(0)
    for step, loss in ((1, 0.5), (2, 1.5)):
        run.log({"step": step, "policy/loss": loss})
    assert run.links == {f"{__name__}:Listener": "over there"}
    run.close()
    assert Listener.heard == ["the loss is high"]
    assert "alert at step 2: the loss is high" in capsys.readouterr().err


def test_an_alert_that_fails_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = watched(tmp_path, "broken")
    run.begin(0)
    for step in (1, 2):
        run.log({"step": step, "policy/loss": 1.0})
    run.close()
    assert capsys.readouterr().err.count("ValueError") == 1


def test_an_unknown_alert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="alert"):
        watched(tmp_path, "nothing_of_that_name")


def test_a_table_deals_its_groups_over_the_kinds() -> None:
    rows = table_of(GROUPS, 5)
    assert [row["problem"] for row in rows[::2]] == ["original-0", "variant-0", "original-1", "variant-1", "original-2"]
    assert [row["response"] for row in rows[:2]] == ["five", "5"]
    assert columns_of(rows)["reward"] == [0.0, 1.0] * 5
