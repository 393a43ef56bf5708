"""What is read from run folders, and the numbers made of it, against hand-made folders."""

from __future__ import annotations

import itertools
import json
import re
from math import isfinite
from pathlib import Path

import pytest
import yaml
from hand_made import CONFIG, PLAN, family, metrics, write, write_lines, write_run
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.errors import UserError
from fastsvs.planned import Figure, compare
from fastsvs.report.compare import arms, settings
from fastsvs.report.document import build
from fastsvs.report.families import choose, scattered, spread
from fastsvs.report.folder import read_run
from fastsvs.report.headline import headline, held_out, time_split


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "hand")


def test_the_headline_is_what_the_files_say(folder: Path) -> None:
    found = headline(read_run(folder))
    assert (found.steps, found.entropy_first, found.entropy_last) == (4, 0.875, 0.5)
    assert found.learned_from == 4 * (8 + 4) + 2 * (1 + 2 + 3 + 4)
    assert found.seconds == 66.0
    assert list(found.held_out) == ["pass@1", "pass@2", "pass@8"]
    first = found.held_out["pass@1"]
    assert first.before.mean == 0.3
    assert first.after is not None
    assert (first.after.mean, first.after.low, first.after.high) == pytest.approx((0.45, 0.4, 0.5))


def test_one_evaluation_is_a_beginning_without_an_end() -> None:
    only = held_out({0: {"pass@4": {"mean": 0.5, "low": 0.4, "high": 0.6}, "problems": 3}})["pass@4"]
    assert (only.before.mean, only.after) == (0.5, None)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"time/step": 10.0}, {"rest": 10.0}),
        (
            {"time/sync": 1.0, "time/rollout": 6.0, "time/update": 2.0, "time/step": 10.0},
            {"sync": 1.0, "rollout": 6.0, "update": 2.0, "rest": 1.0},
        ),
        (
            {"time/rollout": 6.0, "time/generation": 6.0, "time/verification": 2.0, "time/step": 6.0},
            {"rollout": 4.0, "verification": 2.0},
        ),
        (  # beside the last update: the rollout took longer than one waited for it
            {"time/rollout": 1.0, "time/generation": 6.0, "time/verification": 2.0, "time/step": 1.0},
            {"rollout": 1.0},
        ),
        ({}, {}),
    ],
)
def test_the_parts_of_a_steps_time_add_up(row: dict[str, float], expected: dict[str, float]) -> None:
    assert time_split(row) == expected
    assert sum(expected.values()) == row.get("time/step", 0.0)


def test_a_run_that_goes_on_reads_up_to_its_last_whole_line(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "config.yaml", yaml.safe_dump(CONFIG))
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    write(tmp_path / "metrics.jsonl", "".join(lines[:2]) + lines[2][:40])
    run = read_run(tmp_path)
    assert (run.steps, run.planned_steps, run.finished, run.environment, run.evaluations) == (2, 4, False, {}, {})
    assert build([tmp_path], 100).head["runs"][0]["samples"]["of_responses"] == 0


def test_a_run_that_has_only_begun_reads(tmp_path: Path) -> None:
    write(tmp_path / "config.yaml", yaml.safe_dump(CONFIG))
    found = build([tmp_path], 100).head["runs"][0]
    assert found["headline"] == {
        "steps": 0,
        "held_out": {},
        "entropy_first": None,
        "entropy_last": None,
        "learned_from": None,
        "seconds": None,
    }


def test_metrics_of_other_programs_read(tmp_path: Path) -> None:
    """No configuration, no step numbers, words among the numbers, values that are not finite."""
    write(tmp_path / "metrics.jsonl", '{"loss": 1.5, "note": "x"}\n{"loss": NaN}\n{"loss": 0.5, "step": 7}\n')
    run = read_run(tmp_path)
    assert run.method == tmp_path.name
    assert [(row["step"], row["loss"]) for row in run.metrics] == [(1, 1.5), (2, None), (7, 0.5)]
    assert build([tmp_path], 100).head["runs"][0]["metrics"]["loss"] == [1.5, None, 0.5]


def test_a_step_that_was_made_again_counts_once(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "a": 1}, {"step": 2, "a": 2}, {"step": 1, "a": 3}])
    assert [row["a"] for row in read_run(tmp_path).metrics] == [3, 2]


def test_fine_tuning_lies_over_training_under_the_same_names(tmp_path: Path) -> None:
    write(tmp_path / "config.yaml", yaml.safe_dump({"model": {"path": "m"}, "policy": {}, "run": {"seed": 0}}))
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 2.0, "entropy": 0.5, "time/step": 3.0}])
    run = read_run(tmp_path)
    assert run.method == "SFT"
    assert run.metrics == [{"step": 1, "policy/loss": 2.0, "policy/entropy": 0.5, "time/step": 3.0}]
    assert headline(run).learned_from is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.yaml": "a: [1"}, "is not YAML"),
        ({"config.yaml": "- 1"}, "holds no mapping of keys to values"),
        ({"metrics.jsonl": '{"step": 1}\nnot json\n'}, r"metrics.jsonl, line 2: not JSON"),
        ({"metrics.jsonl": "[1]\n"}, r"line 1: not a JSON object"),
        ({"config.yaml": "a: 1", "evaluations/step_0.json": "{"}, r"step_0.json: not JSON"),
    ],
)
def test_what_is_spoiled_is_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        write(tmp_path / name, text)
    [notice] = read_run(tmp_path).notices
    assert re.search(message, notice)


def test_a_plan_stands_beside_what_was_measured(folder: Path, tmp_path: Path) -> None:
    [plan] = build([folder], 10).head["plans"]
    assert (plan["name"], plan["machines"], plan["lengths"]) == (folder.name, "2 x 8 h100", "assumed (as long as ever)")
    update, sparsity = plan["rows"]
    assert update == {
        "metric": "time/update",
        "planned": 6.0,
        "measured": 5.0,
        "unit": "s",
        "error": pytest.approx(0.2),
    }
    assert sparsity["error"] == pytest.approx(0)
    (folder_without := write_run(tmp_path / "run")).joinpath("plan.json").unlink()
    assert build([folder_without], 10).head["plans"] == []


def test_a_run_that_is_named_twice_counts_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    [run] = build([folder, Path(folder.name), folder.parent / "hand" / "." / ".." / "hand"], 10).head["runs"]
    assert run["name"] == folder.name


def test_seeds_share_their_plan(tmp_path: Path) -> None:
    seeds = [write_run(tmp_path / f"seed{seed}", run__seed=seed) for seed in (0, 1, 2)]
    slower = [{**metrics(step), "time/update": 8.0} for step in range(1, 5)]
    write_lines(seeds[1] / "metrics.jsonl", slower)
    other = write_run(tmp_path / "other", run__seed=3)
    write(other / "plan.json", json.dumps({**PLAN, "hardware": "h200"}))
    plans = build([*seeds, other], 10).head["plans"]
    assert [(plan["name"], plan["machines"]) for plan in plans] == [
        ("SvS, mean of 3 seeds", "2 x 8 h100"),
        ("other", "2 x 8 h200"),
    ]
    update = plans[0]["rows"][0]
    assert (update["metric"], update["planned"], update["measured"]) == ("time/update", 6.0, 6.0)
    assert update["error"] == 0


@given(
    planned=st.floats(allow_nan=False, allow_infinity=False),
    rows=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4),
    name=st.sampled_from(["time/update", "time/save", "system/peak_memory"]),
)
def test_what_is_compared_are_numbers(planned: float, rows: list[float], name: str) -> None:
    steps = [{"step": step, name: value} for step, value in enumerate(rows, 1)]
    found = compare({name: Figure(planned, "s")}, steps)
    assert len(found) == (len(rows) > 1)
    for one in found:
        assert min(rows[1:]) - abs(min(rows[1:])) * 1e-9 <= one.measured <= max(rows[1:]) + abs(max(rows[1:])) * 1e-9
        assert one.error is None or isfinite(one.error)


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"no file or folder .*loop: name a run folder"):
        build([tmp_path / "loop"], 10)
    with pytest.raises(UserError, match="is no run folder"):
        read_run(tmp_path)


def test_seeds_are_one_experiment_and_other_keys_make_another(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path / "a", run__seed=1, run__dir="a"),
        write_run(tmp_path / "b", selfplay__stage="none"),
        write_run(tmp_path / "c", run__seed=0, run__dir="c"),
        write_run(tmp_path / "d", policy__optimizer={"learning_rate": 0.001}),
    ]
    runs = [read_run(path) for path in paths]
    assert [(arm.label, arm.runs) for arm in arms(runs)] == [
        ("SvS, learning_rate 0.0002", [2, 0]),
        ("RLVR", [1]),
        ("SvS, learning_rate 0.001", [3]),
    ]
    found = {setting.key: setting for setting in settings(runs)}
    assert found["run.seed"].values == ["1", "3", "0", "3"]
    assert found["selfplay.context_range"].values == ["[0.125, 0.5]"] * 4
    assert {key for key, setting in found.items() if setting.differs} == {
        "run.seed",
        "run.dir",
        "selfplay.stage",
        "policy.optimizer.learning_rate",
    }


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / parent / "run", steps=1) for parent in ("x", "y")]
    assert [run["name"] for run in build(paths, 10).head["runs"]] == ["x/run", "y/run"]


@pytest.mark.parametrize("counted", [True, False])
def test_all_responses_are_there_when_they_fit(tmp_path: Path, counted: bool) -> None:
    run_folder = write_run(tmp_path / "run")
    if not counted:
        write_lines(run_folder / "metrics.jsonl", [{"step": step} for step in range(1, 5)])
    chosen, included = choose(read_run(run_folder), 32)
    assert [samples.step for samples in chosen] == [1, 2, 3, 4]
    assert (included.responses, included.of_responses, included.steps, included.of_steps) == (32, 32, 4, 4)


def test_else_whole_families_are_taken_evenly_over_the_steps(tmp_path: Path) -> None:
    run_folder = write_run(tmp_path / "run", steps=1)
    for step in range(1, 7):
        rows = [row for number in range(50) for row in family(step, f"{number:06d}")]
        write_lines(run_folder / "samples" / f"step_{step}.jsonl", rows)
    write_lines(run_folder / "metrics.jsonl", [{"step": step, "samples/original": 400} for step in range(1, 7)])
    chosen, included = choose(read_run(run_folder), 600)
    assert [samples.step for samples in chosen] == [1, 6]  # so that each has room for 250
    assert (included.responses, included.of_responses, included.steps, included.of_steps) == (592, 2400, 2, 6)
    for samples in chosen:
        keys = [group["key"] for group in samples.groups]
        assert len(keys) == 3 * 37
        assert all(group["parent"] in [None, *keys] for group in samples.groups)
        originals = [int(key) for key in keys if "/" not in key]
        assert max(b - a for a, b in itertools.pairwise(originals)) <= 2


@given(st.integers(1, 60), st.integers(1, 80))
def test_spread_keeps_both_ends_and_even_distances(length: int, count: int) -> None:
    found = spread(list(range(length)), count)
    assert len(found) == len(set(found)) == min(length, count)
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert count == 1 or (found[0], found[-1]) == (0, length - 1)


@given(st.integers(1, 200), st.data())
def test_any_beginning_of_the_scattered_lies_over_the_whole(length: int, data: st.DataObject) -> None:
    order = list(scattered(list(range(length))))
    assert sorted(order) == list(range(length))
    taken = sorted(order[: data.draw(st.integers(1, length))])
    gaps = [b - a for a, b in zip([-1, *taken], [*taken, length], strict=True)]
    assert max(gaps) <= 4 * length / len(taken) + 1


def test_a_group_of_an_older_run_lacks_what_it_did_not_write(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", "")
    row = family(1)[1]
    del row["tokens"], row["rejections"]
    write_lines(tmp_path / "samples" / "step_1.jsonl", [row])
    [step] = build([tmp_path], 10).groups[0]["steps"]
    assert json.dumps(step["groups"][0]["tokens"]) == json.dumps(step["groups"][0]["rejections"]) == "[]"
