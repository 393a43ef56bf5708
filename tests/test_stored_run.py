"""What was written into a run folder comes back from it, without torch, and whatever state the run is in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from whole_runs import ROOT

from fastsvs.config import TrainJob, load
from fastsvs.errors import UserError
from fastsvs.policy import checkpoint
from fastsvs.stored_run import RunLayout, StoredRun, open_run, run_of
from fastsvs.telemetry import RunFolder

JOB = load(TrainJob, ROOT / "configs" / "tiny_svs.yaml", ["run.seed=7"])


@pytest.fixture
def written(tmp_path: Path) -> RunFolder:
    """A run of twelve steps that ended."""
    folder = RunFolder(JOB, tmp_path / "run", writable=True)
    folder.begin(0)
    for step in range(1, 13):
        folder.write_samples(step, [{"key": f"{step}"}, {"key": "b", "question": "a\u2028line"}])
        folder.log({"step": step, "x": 0.5})
    folder.write_tokens(3, [{"key": "3"}])
    folder.write_tokens(4, [{"key": "4"}])
    folder.write_tokens(4, [])
    for step in (12, 0):
        folder.write_evaluation(step, {"problems": step}, [{"id": "p"}, {"id": "q"}], [{"key": "p"}])
    folder.write_evaluation(12, {"problems": 12}, [{"id": "p"}, {"id": "q"}], [])
    folder.write_summary({"steps": 12})
    folder.close()
    return folder


def test_what_a_run_writes_comes_back_in_the_order_of_steps(written: RunFolder) -> None:
    run = open_run(written.root)
    assert run.config() == JOB.model_dump(mode="json")
    assert "torch" in run.environment()["packages"]
    assert run.metrics() == [{"step": step, "x": 0.5} for step in range(1, 13)]
    assert list(run.sample_files()) == list(range(1, 13)), "by number, not by name"
    assert list(run.samples(11)) == [{"key": "11"}, {"key": "b", "question": "a\u2028line"}]
    assert list(run.token_files()) == [3], "step 4 was made again, and kept none"
    assert (list(run.tokens(3)), list(run.tokens(4))) == ([{"key": "3"}], [])
    assert list(run.evaluations().items()) == [(0, {"problems": 0}), (12, {"problems": 12})]
    assert list(run.evaluation_samples(12)) == [{"id": "p"}, {"id": "q"}]
    assert list(run.evaluation_token_files()) == [0], "the evaluation after step 12 was made again, and kept none"
    assert (list(run.evaluation_tokens(0)), list(run.evaluation_tokens(12))) == ([{"key": "p"}], [])
    assert run.summary() == {"steps": 12}


def test_the_layout_names_every_file_that_a_run_writes(written: RunFolder) -> None:
    layout = RunLayout(written.root)
    found = {path for path in written.root.rglob("*") if path.is_file() and not path.name.startswith(".")}
    known = {layout.config, layout.environment, layout.inputs, layout.metrics, layout.summary}
    known |= {layout.tokens(3), layout.evaluation_tokens(0)} | {layout.samples(step) for step in range(1, 13)}
    known |= {file(step) for file in (layout.evaluation, layout.evaluation_samples) for step in (0, 12)}
    assert found == known
    assert set(open_run(written.root).records()) == found - {layout.inputs}


def test_of_a_run_that_goes_on_there_is_what_there_is(tmp_path: Path) -> None:
    run = StoredRun(tmp_path)
    assert (run.config(), run.environment(), run.metrics(), run.summary()) == ({}, {}, [], {})
    assert (run.sample_files(), run.evaluations(), run.checkpoints(), run.records()) == ({}, {}, {}, [])
    assert list(run.samples(1)) == []
    run.layout.metrics.write_text('{"step": 1}\n{"step": 2, "lo')
    assert run.metrics() == [{"step": 1}]
    assert open_run(tmp_path) == run


def test_checkpoints_are_those_that_are_whole(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    for step in (3, 100_000_000, 20):
        layout.checkpoint(step).mkdir(parents=True)
    for name in (".step_00000099.draft", ".step_00000098.removed", "step_1", "notes"):
        (layout.checkpoints / name).mkdir()
    assert list(StoredRun(tmp_path).checkpoints()) == [3, 20, 100_000_000]
    assert checkpoint.latest(layout.checkpoints) == layout.checkpoint(100_000_000)
    assert run_of(layout.checkpoint(20)) == tmp_path


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", '{"step": 1}\n{"st\n{"step": 3}\n', "metrics.jsonl, line 2: not JSON"),
        ("summary.json", "[1]", "summary.json: not a JSON object"),
        ("config.yaml", "a: [", "is not YAML"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    run = StoredRun(tmp_path)
    with pytest.raises(UserError, match=message):
        {"metrics.jsonl": run.metrics, "summary.json": run.summary, "config.yaml": run.config}[name]()


def test_another_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither config\.yaml nor metrics\.jsonl"):
        open_run(tmp_path)


def test_reading_loads_no_torch(written: RunFolder) -> None:
    program = (
        "import sys; from pathlib import Path; from fastsvs.stored_run import open_run; "
        "assert open_run(Path(sys.argv[1])).summary() == {'steps': 12}; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(written.root)], check=True, cwd=ROOT, timeout=60)
