"""The comparison's table and picture, on made-up runs whose figures are known; and all of it for real, small."""

from __future__ import annotations

import re
import shutil
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest
from finished_experiment import change_layers, run_small_twice, write_evaluation
from whole_runs import ROOT

from bench.compare import page
from bench.compare.figure import draw
from bench.compare.measure import SOLVE_RATE, measure
from bench.compare.plan import CONFIGS, PLANS, RISE, RLVR, SVS, BaseModel, Comparison
from bench.compare.results import Results
from bench.experiments.plan import BASE
from bench.experiments.statistics import Difference
from bench.report import read, write
from fastsvs.config import SftJob, TrainJob, load
from fastsvs.errors import UserError
from fastsvs.files import write_jsonl

PLAN = Comparison(
    suite="compare-test",
    seeds=(0, 1),
    budget=64,
    steps=dict.fromkeys(CONFIGS, 8),
    timed=3,
    every=2,
    samples=4,
    shrink={"train": (), "sft": (), "eval": ()},
)
SAMPLED = {SVS: {"samples/original": 8, "samples/variant": 8}, RISE: {"samples/original": 8, "samples/verification": 4}}
ENTROPY = 0.1
CORRECT = {BASE: [1, 0], RLVR: [2, 2], SVS: [3, 3]}


@pytest.mark.parametrize("name", PLANS)
def test_every_command_loads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plan = PLANS[name]
    command, config, *overrides = BaseModel(plan, tmp_path).arguments()
    assert command == "sft"
    assert load(SftJob, config, overrides).export == str(tmp_path / "base")
    jobs = {run.method: load(TrainJob, run.arguments()[1], run.arguments()[2:]) for run in plan.runs(tmp_path)}
    assert jobs.keys() == CONFIGS.keys()
    shared = [(job.model, job.policy, job.run.prompts_per_step, job.data.limit, job.data.path) for job in jobs.values()]
    assert all(each == shared[0] for each in shared)
    assert len({job.run.dir for job in jobs.values()}) == len(jobs)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, changed = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("changed") / "model"
    for folder in (root / "base", changed):
        shutil.copytree(ROOT / "models" / "tiny", folder)
    change_layers(changed, 1)
    for run in PLAN.runs(root):
        counts = SAMPLED.get(run.method, {"samples/original": 8})
        rows = [{"step": step, "solve_rate/original": step / 10, **counts} for step in range(1, 9)]
        write_jsonl(run.folder / "metrics.jsonl", rows)
        for step in range(2, 9, 2):
            run.checkpoint(step).parent.mkdir(parents=True, exist_ok=True)
            run.checkpoint(step).symlink_to(changed if run.method == SVS else root / "base")
    for timed in PLAN.timings(root):
        facts = {"samples/original": 4, "samples/variant": 6}
        times = [{"time/step": 9.0, "time/credit": 9.0}] * 2 + [{"time/step": 2.0, "time/credit": 0.5}] * 3
        write_jsonl(timed.folder / "metrics.jsonl", [facts | each for each in times])
    for each in PLAN.evaluations(root):
        write_evaluation(each, CORRECT.get(each.method, [2, 2]), ENTROPY)
    return root


@pytest.fixture(scope="module")
def results(root: Path) -> Results:
    with chdir(ROOT):
        return measure(PLAN, root, note=None)


def test_the_checkpoint_nearest_to_the_budget_counts(results: Results) -> None:
    """64 responses: 8 a step are there after step 8, 16 after step 4, 12 after step 5.3."""
    steps = {method: results.seeds(method, "steps") for method in (RLVR, SVS, RISE)}
    assert steps == {RLVR: [8, 8], SVS: [4, 4], RISE: [6, 6]}
    assert results.seeds(RISE, "responses") == [72, 72]
    assert results.seeds(SVS, "milliseconds") == [200.0], "2 s a step for 10 responses, the first steps left out"
    assert results.seeds(SVS, "credit") == [0.25]


def test_a_run_that_ended_long_before_the_budget_is_refused(root: Path) -> None:
    short = replace(PLAN, budget=100)
    refused = next(run for run in short.runs(root) if run.method == RLVR)
    with pytest.raises(UserError, match="has sampled 64 responses, not the 100"):
        short.evaluated(refused)


def test_figures_are_those_of_the_files(results: Results) -> None:
    assert results.seeds(SVS, "pass@1") == [0.75, 0.75]
    assert results.seeds(BASE, "pass@1") == [0.125, 0.125]
    rates = results.curve(SVS, SOLVE_RATE, 1)
    assert [responses for responses, _ in rates] == [32, 64, 96, 128]
    assert [rate for _, rate in rates] == pytest.approx([0.15, 0.35, 0.55, 0.75])
    assert results.difference(SVS, RLVR, "pass@1") == Difference(0.25, 0.25, 0.25)
    assert results.difference(RLVR, BASE, "pass@4").value == 0.5
    assert results.seeds(RLVR, "sparsity/exact") == [1, 1]
    assert 0.8 < results.seeds(SVS, "sparsity/exact")[0] < 1


def test_the_page_holds_what_the_json_holds(results: Results, tmp_path: Path) -> None:
    published = Results(read(write(PLAN.suite, results.rows, tmp_path)))
    text = f"# Before\n{page.BEGIN}\nwhat was here\n{page.END}\nAfter\n"
    for _ in range(2):
        text = page.render(PLAN, published, "x.json", ["light.png", "dark.png"], text)
    assert text.startswith("# Before\n")
    assert text.endswith("After\n")
    assert "what was here" not in text
    (row,) = re.findall(r"^\| SvS \|.*$", text, re.MULTILINE)
    assert row.startswith("| SvS | 75.0 (75.0 to 75.0) | 100.0 (100.0 to 100.0) | 0.100 (0.100 to 0.100) |")
    assert row.endswith("| 64 | 4 | 200.0 | 25.0 |")
    assert "| SvS to RLVR | **+25.0 [+25.0, +25.0]** |" in text
    assert "| RLVR to base | **+37.5 [+25.0, +50.0]** |" in text


def test_times_of_a_shared_machine_are_not_quoted(results: Results) -> None:
    note = "it was busy"
    rows = (replace(row, note=note) if row.metric in ("milliseconds", "credit") else row for row in results.rows)
    text = page.made(PLAN, Results(tuple(rows)), "x.json", ["light.png", "dark.png"])
    assert "No times are quoted: it was busy." in text
    assert "ms a response" not in text
    (row,) = re.findall(r"^\| SvS \|.*$", text, re.MULTILINE)
    assert row.endswith("| 64 | 4 |")


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(UserError, match="where the table goes"):
        page.split("# Methods\n")


def test_the_picture_is_drawn_for_light_and_dark_pages(results: Results, tmp_path: Path) -> None:
    pictures = draw(tmp_path / "picture.png", PLAN, results)
    assert [path.name for path in pictures] == ["picture.png", "picture-dark.png"]
    assert len({path.read_bytes() for path in pictures}) == 2


@pytest.mark.slow
def test_all_of_it_runs_in_small(tmp_path: Path) -> None:
    written = tmp_path / "page.md"
    written.write_text(f"{page.BEGIN}\n{page.END}\n")
    assert "| head-tail |" in run_small_twice("bench.compare", tmp_path / "runs", written)


def test_the_published_table_is_made_from_the_json_that_it_names() -> None:
    text = (ROOT / "docs" / "methods.md").read_text()
    [source] = set(re.findall(r"\.\./(bench/results/compare-tiny-[\w-]+\.json)", text))
    pictures = ["methods.png", "methods-dark.png"]
    assert text == page.render(PLANS["tiny"], Results(read(ROOT / source)), Path(source).name, pictures, text)
    assert all((ROOT / "docs" / picture).exists() for picture in pictures)
