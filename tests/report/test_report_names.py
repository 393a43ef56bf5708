"""Names of runs and experiments, and what a single run says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hand_made import CONFIG, ENVIRONMENT, PLAN, write_evaluation, write_run

from fastsvs.config import flatten
from fastsvs.report.compare import arms
from fastsvs.report.document import build
from fastsvs.report.facts import facts
from fastsvs.report.folder import read_run
from fastsvs.report.naming import folder_names, last_part, without_seeds


def labels(root: Path, *runs: dict[str, Any]) -> list[str]:
    """Return the labels of runs `0`, `1`, ..., which differ from the hand-made one in these keys."""
    paths = [write_run(root / run.pop("name", str(index)), steps=1, **run) for index, run in enumerate(runs)]
    return [arm.label for arm in arms([read_run(path) for path in paths])]


def test_runs_of_other_models_are_named_by_the_models(tmp_path: Path) -> None:
    models = (
        {"model__path": f"/models/of/many/parts/{name}", "run__steps": steps} for name, steps in (("a", 1), ("b", 2))
    )
    assert labels(tmp_path, *models) == ["SvS, a", "SvS, b"]


def test_runs_that_differ_in_much_are_named_by_their_folders(tmp_path: Path) -> None:
    more = {"rollout__temperature": 0.5, "run__steps": 9, "policy__optimizer": {"learning_rate": 0.001}}
    names = labels(tmp_path, {"name": "calm_seed3", **more}, {"name": "hot_seed3"})
    assert names == ["calm", "hot"]


def test_runs_whose_keys_make_long_labels_are_named_by_their_folders(tmp_path: Path) -> None:
    long = {"name": "long", "selfplay__context_range": [n / 16 for n in range(16)]}
    assert labels(tmp_path, long, {"name": "usual"}) == ["long", "usual"]


def test_labels_of_one_method_always_differ(tmp_path: Path) -> None:
    same_ends = (
        {"model__path": f"/{folder}/model", "run__steps": steps, "rollout__temperature": steps}
        for folder, steps in (("a", 1), ("b", 2))
    )
    assert labels(tmp_path, *({**run, "name": f"{index}/run_seed1"} for index, run in enumerate(same_ends))) == [
        "0/run",
        "1/run",
    ]


def test_folders_are_named_by_as_little_as_tells_them_apart(tmp_path: Path) -> None:
    assert folder_names([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]


def test_seeds_are_left_out_of_names_that_differ_without() -> None:
    assert without_seeds(["a_seed0", "b-seed1", "b-seed2", "seed1", "c_seeded"]) == [
        *("a", "b-seed1", "b-seed2", "seed1", "c_seeded"),
    ]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Qwen/Qwen2.5-3B", "Qwen2.5-3B"),
        ("models/tiny/", "tiny"),
        ("runs/svs/checkpoints/step_00000030", "svs at step 30"),
        ("step_00000030", "step_00000030"),
        ("/", "/"),
    ],
)
def test_the_last_part_of_a_path_is_a_name(path: str, name: str) -> None:
    assert last_part(path) == name


def test_a_run_says_what_it_was(tmp_path: Path) -> None:
    environment = {
        **ENVIRONMENT,
        "date": "2026-11-27T18:22:30+02:00",
        "commit": "8a17f6",
        "gpus": ["NVIDIA H100"] * 8,
        "command": "fastsvs train x.yaml",
    }
    config = flatten({**CONFIG, "data": {"path": "tiny:train"}, "evaluation": {"path": "tiny:heldout"}})
    assert facts(config, environment, PLAN) == {
        "Model": "models/tiny",
        "Data": "tiny:train",
        "Held-out data": "tiny:heldout",
        "Date": "2026-11-27 16:22 UTC",
        "Commit": "8a17f6",
        "Hardware": "8 × NVIDIA H100",
        "Machines": "2, with 8 × h100 each",
        "Command": "fastsvs train x.yaml",
    }
    on_cpu = {"threads": 2, "gpus": [], "platform": "Linux"}
    assert facts({}, on_cpu, {"nodes": 1, "gpus": 1, "hardware": "cpu"}) == {
        "Hardware": "CPU, 2 threads a process, Linux",
        "Machines": "1, with 1 process",
    }


@pytest.mark.parametrize(
    "spoiled", [{"date": "soon", "gpus": {}, "commit": None}, {"date": 10**400, "threads": None}, {}]
)
def test_what_is_not_known_is_left_out(spoiled: dict[str, Any]) -> None:
    assert facts({}, spoiled, {"nodes": "two"}) == {}


def test_an_evaluation_says_what_it_was(tmp_path: Path) -> None:
    [evaluation] = build([write_evaluation(tmp_path / "eval", aime=["c"])], 10).head["evaluations"]
    assert evaluation["facts"] == {
        "Model": "models/tiny",
        "Hardware": "CPU, 2 threads a process",
        "Command": "fastsvs train",
    }
