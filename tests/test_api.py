"""The Python interface: the same runs as the commands make, taken step by step, left early, forked and evaluated."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from forking import FORKS, Run
from pandas import DataFrame
from whole_runs import ROOT, SMALL, Refuse, environment

from bench.kills.jobs import OF_THE_MACHINE
from fastsvs import api
from fastsvs.errors import UserError
from fastsvs.policy.manifest import read_manifest


def sections_of(overrides: list[str]) -> dict[str, Any]:
    """Return `section.key=value` overrides as the nested sections that the interface takes."""
    sections: dict[str, Any] = {}
    for override in overrides:
        path, _, value = override.partition("=")
        section, key = path.split(".")
        sections.setdefault(section, {})[key] = yaml.safe_load(value)
    return sections


def small(folder: Path, **run: Any) -> dict[str, Any]:
    """Return sections that shrink configs/tiny_svs.yaml to seconds."""
    sections = sections_of(SMALL)
    return sections | {"run": {**sections["run"], "dir": str(folder), **run}}


def in_a_fork(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `work` returns in a process of its own; Megatron's state is one for each process."""
    receiving, sending = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_send, args=(sending, work, arguments))
    process.start()
    sending.close()
    try:
        return receiving.recv()
    except EOFError:
        pytest.fail("the process ended with an exception")
    finally:
        process.join(30)


def _send(sending: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sending.send(work(*arguments))


def shared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without what no two runs have in common."""
    return [{name: value for name, value in row.items() if not name.startswith(OF_THE_MACHINE)} for row in rows]


CONFIG = str(ROOT / "configs" / "tiny_svs.yaml")


def left_and_gone_on_with(folder: Path) -> tuple[list[int], list[int], list[dict[str, Any]]]:
    with api.Trainer(CONFIG, **small(folder, save_every=3)) as trainer:
        for row in trainer.steps():
            assert row["step"] == 1
            break
    saved = list(trainer.run.checkpoints())
    seen: list[int] = []
    run = api.train(CONFIG, lambda row: seen.append(row["step"]), **small(folder, save_every=3))
    return saved, seen, run.metrics()


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[list[int], list[int], list[dict[str, Any]]]]:
    """A run that was left after its first step and gone on with: its folder, and what the interface said."""
    folder = tmp_path_factory.mktemp("api") / "run"
    return folder, in_a_fork(left_and_gone_on_with, folder)


def test_a_run_that_was_left_is_saved_and_ends_like_the_commands(left, fastsvs, tmp_path: Path) -> None:
    _, (saved, seen, rows) = left
    assert saved == [1]
    assert seen == [2, 3]
    assert fastsvs(*("train", CONFIG, *SMALL, f"run.dir={tmp_path / 'whole'}")).returncode == 0
    assert shared(rows) == shared(api.load_run(tmp_path / "whole").metrics())


def test_a_run_is_read_without_torch(left) -> None:
    folder, (_, _, rows) = left
    program = (
        "import sys; from fastsvs import api; run = api.load_run(sys.argv[1]); table = run.table();"
        "assert 'torch' not in sys.modules;"
        "print(list(table.index), table['policy/entropy'].tolist(), len(list(run.samples(3))), list(run.evaluations()))"
    )
    command = [sys.executable, "-c", program, str(folder)]
    shown = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, cwd=ROOT).stdout
    groups = len((folder / "samples" / "step_3.jsonl").read_text().splitlines())
    assert shown.strip() == f"[1, 2, 3] {[row['policy/entropy'] for row in rows]} {groups} [0, 3]"


def with_learning_rates(folder: Path) -> list[float]:
    with api.Trainer(CONFIG, **small(folder)) as trainer:
        rates = []
        for row in trainer.steps():
            rates.append(row["policy/learning_rate"])
            trainer.policy.learning_rate = trainer.policy.learning_rate / 2
        with pytest.raises(ValueError, match="positive"):
            trainer.policy.learning_rate = 0.0
    with pytest.raises(RuntimeError, match="within"):
        trainer.policy  # noqa: B018
    return rates


def test_a_learning_rate_holds_from_the_next_step_on(tmp_path: Path) -> None:
    first, second, third = in_a_fork(with_learning_rates, tmp_path / "run")
    assert second == pytest.approx(first / 2)
    assert third == pytest.approx(first / 4)


def taken_bit_by_bit(folder: Path) -> tuple[list[int], list[int]]:
    trainer = api.Trainer(CONFIG, **small(folder, save_every=3))
    with trainer:
        taken = [next(trainer.steps())["step"]]
        with pytest.raises(RuntimeError, match="leave its `with`"):
            trainer.__enter__()
        taken.append(next(trainer.steps())["step"])
    with trainer:
        taken += [row["step"] for row in trainer.steps()]
    with pytest.raises(RuntimeError, match="within"):
        trainer.steps()
    return taken, [row["step"] for row in trainer.run.metrics()]


def test_steps_go_on_where_they_were_left_and_a_trainer_is_used_again(tmp_path: Path) -> None:
    assert in_a_fork(taken_bit_by_bit, tmp_path / "run") == ([1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["What is 3 + 4?"], r"a row of problems is a mapping .*found 'What is 3 \+ 4\?'"),
        (DataFrame([{"problem": "a", "answer": "1"}]), r"found 'problem'; of a pandas table give table\.to_dict"),
        ([{"problem": "a", "answer": {1}}], "row 0 of problems cannot be written as JSON: .*set"),
    ],
    ids=["texts", "table", "value"],
)
def test_rows_that_are_none_are_named(rows: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        api.evaluate(ROOT / "models" / "tiny", rows)


def stopped_by_its_callback(folder: Path) -> tuple[list[int], list[int]]:
    run = api.train(CONFIG, lambda row: row["step"] == 2, **small(folder, save_every=3))
    return [row["step"] for row in run.metrics()], list(run.checkpoints())


def test_a_callback_ends_a_run(tmp_path: Path) -> None:
    assert in_a_fork(stopped_by_its_callback, tmp_path / "run") == ([1, 2], [2])


def test_faults_of_a_configuration_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rollout.temprature: unknown key; did you mean 'temperature'"):
        api.Trainer(CONFIG, rollout={"temprature": 1.0})
    with pytest.raises(UserError, match="no run folder"):
        api.load_run(tmp_path)


def test_a_fork_begins_with_weights_and_moments(left, fastsvs, tmp_path: Path) -> None:
    source, _ = left
    fork = tmp_path / "fork"
    options = [*SMALL, "run.steps=1", f"run.dir={fork}", f"model.from_run={source}"]
    result = fastsvs("train", CONFIG, *options)
    assert result.returncode == 0, result.stderr
    before, after = api.load_run(source), api.load_run(fork)
    assert [row["responses"] for row in after.evaluation_samples(0)] == [
        row["responses"] for row in before.evaluation_samples(3)
    ]
    updates = [read_manifest(run.checkpoints()[step]).updates for run, step in ((before, 3), (after, 1))]
    assert updates[1] - updates[0] == after.metrics()[0]["policy/updates"]
    assert "step_00000003" in result.stdout


def test_a_fork_from_nowhere_is_refused(left, refuse: Refuse, tmp_path: Path) -> None:
    source, _ = left
    nowhere = refuse("train", "configs/tiny_svs.yaml", f"model.from_run={tmp_path / 'none'}")
    assert nowhere.startswith("model.from_run:")
    tuned = refuse("sft", "configs/tiny_sft.yaml", "export=null", f"model.from_run={tmp_path / 'none'}")
    assert tuned.startswith("model.from_run:")
    other = tmp_path / "model"
    other.mkdir()
    for file in (ROOT / "models" / "tiny").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    shape = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(shape | {"intermediate_size": 2 * shape["intermediate_size"]}))
    changes = [f"model.path={other}", "model.initialize=random", f"model.from_run={source}"]
    assert "is of another model" in refuse("train", "configs/tiny_svs.yaml", *changes)


def evaluated(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    rows = [{"problem": f"What is {number} + 1?", "answer": str(number + 1)} for number in range(4)]
    plan: dict[str, Any] = {"samples": 2, "k": [1, 2], "data": {"suffix": None}, "max_response_tokens": 16}
    first = api.evaluate(ROOT / "models" / "tiny", rows, **plan)
    again = api.evaluate(ROOT / "models" / "tiny", rows, output=folder / "kept", **plan)
    assert again.figures == first.figures
    of_run = api.evaluate(
        folder / "run", "tiny:heldout", sections={"seed": 3}, **{**plan, "samples": 1, "k": [1], "data": {"limit": 4}}
    )
    return dict(first.figures), list(first.problems), dict(of_run.figures)


def test_a_model_and_a_run_are_evaluated_on_rows_and_on_a_set(left) -> None:
    folder, _ = left
    figures, problems, of_run = in_a_fork(evaluated, folder.parent)
    assert figures["problems"] == len(problems) == 4
    assert all(len(problem["responses"]) == len(problem["verdicts"]) == 2 for problem in problems)
    assert 0 <= of_run["pass@1"]["mean"] <= 1
    assert (folder.parent / "kept" / "summary.json").exists()


PROGRAM = """
import json, os, sys, time
from fastsvs import api

path, sections = sys.argv[1], json.loads(sys.argv[2])
with api.Trainer(path, **sections) as trainer:
    for row in trainer.steps():
        if row["step"] == 2:
            break
assert list(trainer.run.checkpoints()) == [2]
run = api.train(path, **sections)
rows = [{"problem": "What is 1 + 1?", "answer": "2"}]
if os.environ["RANK"] == "0":
    time.sleep(1)  # the other rank must not read the rows before this one has written them
plan = {"samples": 1, "k": [1], "max_response_tokens": 8}
assert len(api.evaluate(run.root, rows, output=run.root.with_name("answers"), **plan).problems) == 1
"""


def test_two_ranks_leave_go_on_and_evaluate_together(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    sections = small(tmp_path / "run", save_every=3) | {"policy": {"tensor_parallel": 2}}
    arguments = (CONFIG, json.dumps(sections))
    ended = Run(*arguments, module="program", processes=2, folder=tmp_path).completed(240)
    assert ended.returncode == 0, ended.stderr
    assert [row["step"] for row in api.load_run(tmp_path / "run").metrics()] == [1, 2, 3]


def test_an_evaluation_of_several_processes_names_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="output"):
        api.evaluate(ROOT / "models" / "tiny", "tiny:heldout")


NOTEBOOK = ROOT / "docs" / "api.ipynb"


def run_notebook() -> list[str]:
    """Run all cells as a notebook does, one after another in `__main__`, and return the names that they leave."""
    import matplotlib

    import __main__

    matplotlib.use("agg")
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), vars(__main__))
    fork = vars(__main__)["fork"]
    return [*fork.metrics()[0], *(str(row["step"]) for row in fork.metrics())]


def test_the_notebook_runs_from_top_to_bottom() -> None:
    names = in_a_fork(run_notebook)
    assert {"policy/squared_ratio", "1", "2"} <= set(names)


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
