"""Whole AZR runs over a model that has just learned to write the simplest programs."""

import json
import random
import time
from pathlib import Path

import pytest
from forking import Run
from whole_runs import ROOT

from bench.kills.jobs import record
from fastsvs.commands.dry_run import check_train
from fastsvs.config import TrainJob, load
from fastsvs.data.tiny.programs import PROPOSE_DEDUCTION, SOLVE_DEDUCTION, block
from fastsvs.errors import UserError
from fastsvs.report import write_report
from fastsvs.report.document import build

SIZES = [
    "selfplay.azr.tasks=[deduction]",
    "selfplay.azr.prompts_per_task=8",
    "selfplay.azr.samples_per_proposal=4",
    "selfplay.azr.solve_from_buffer=4",
    "data.max_prompt_tokens=128",
    "rollout.max_response_tokens=48",
    "dynamics.every=0",
    "run.steps=3",
    "run.save_every=1",
]


def lessons() -> list[dict]:
    """Adding a digit: proposals, and answers of which half are right."""
    draw = random.Random(0)
    rows = []
    for _ in range(1000):
        digit, given = draw.randint(1, 9), draw.randint(1, 9)
        program = f"def f(x): return x+{digit}"
        shown = "\n".join(f"def f(x): return x+{draw.randint(1, 9)}" for _ in range(draw.randint(1, 3)))
        asked, written = (
            PROPOSE_DEDUCTION.format(references=shown),
            f"{block('python', program)}\n{block('input', given)}",
        )
        if draw.random() < 0.5:
            asked = SOLVE_DEDUCTION.format(program=program, input=given)
            written = block("output", str(given + digit + draw.randint(0, 1)))
        rows.append({"prompt": asked, "completion": written})
    return rows


@pytest.fixture(scope="module")
def model(fastsvs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("azr")
    (folder / "lessons.jsonl").write_text("\n".join(map(json.dumps, lessons())))
    (folder / "seeds.jsonl").write_text('{"snippet": "def f(x): return x+1", "input": "2", "output": "3"}\n')
    overrides = [
        f"data.path={folder}/lessons.jsonl",
        "data.limit=null",
        f"run.dir={folder}/sft",
        f"export={folder}/model",
        "run.steps=25",
        "run.prompts_per_step=24",
        "run.save_every=1000",
        "policy.optimizer.warmup_steps=4",
    ]
    assert fastsvs("sft", "configs/tiny_azr_sft.yaml", *overrides).returncode == 0
    return folder / "model"


def arguments(model: Path, folder: Path) -> list[str]:
    seeds = f"selfplay.azr.seed_file={model.parent}/seeds.jsonl"
    return ["train", "configs/tiny_azr.yaml", *SIZES, seeds, f"model.path={model}", f"run.dir={folder}"]


@pytest.mark.slow
def test_a_killed_run_ends_as_if_left_alone(fastsvs, model: Path, tmp_path: Path) -> None:
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    result = fastsvs(*arguments(model, alone), timeout=300)
    assert result.returncode == 0, result.stderr
    assert "programs run behind: " in result.stdout
    assert "of 8 propose_deduction, " in result.stdout
    rows = record(alone)
    assert rows[-1]["valid/deduction"] > 0
    assert rows[-1]["buffer/deduction"] > rows[0]["buffer/deduction"] > 1
    assert rows[-1]["from_buffer/deduction"] == 4

    process = Run(*arguments(model, killed))
    while not list(killed.glob("checkpoints/*1")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(record(killed)) < 3
    result = fastsvs(*arguments(model, killed), timeout=300)
    assert result.returncode == 0, result.stderr
    assert "resuming" in result.stdout
    assert record(killed) == rows
    files = ["checkpoints/step_00000003/manifest.json", "checkpoints/step_00000003/rank_00000.safetensors"]
    for name in [*files, *(f"samples/step_{step}.jsonl" for step in (1, 2, 3))]:
        assert (alone / name).read_bytes() == (killed / name).read_bytes()
    assert "def f(x)" in (alone / files[0]).read_text()  # the buffers
    assert write_report([alone], None, samples=20).stat().st_size > 0
    [shown] = build([alone], samples=1000).groups
    kinds = {group["kind"] for step in shown["steps"] for group in step["groups"]}
    assert kinds == {"propose_deduction", "solve_deduction"}


def test_data_and_stage_must_fit_together(tmp_path: Path) -> None:
    def check(*overrides: str) -> None:
        check_train(load(TrainJob, ROOT / "configs/tiny_azr.yaml", [*overrides, f"run.dir={tmp_path}/run"]))

    check("model.path=models/tiny")
    with pytest.raises(UserError, match=r"data\.path=tiny:train, but for selfplay\.stage=azr it must be 'none'"):
        check("model.path=models/tiny", "data.path=tiny:train")
    with pytest.raises(UserError, match=r"data\.path=none, but for selfplay\.stage=none it must be a data set"):
        check("model.path=models/tiny", "selfplay.stage=none")
