"""A command that goes on says what has changed since: problems, answers, prompts, weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_runs import ROOT, SFT, SMALL

from fastsvs import fingerprints
from fastsvs.cli import main
from fastsvs.config import TrainJob, load
from fastsvs.data import Problem
from fastsvs.errors import UserError

PARTS = st.tuples(
    st.text(max_size=2), st.text(max_size=2), st.none() | st.text(max_size=2), st.lists(st.integers(0, 3))
)


def encoded(parts: list[tuple]) -> list[tuple[Problem, tuple[int, ...]]]:
    return [(Problem("id", q, a, system=system), tuple(ids)) for q, a, system, ids in parts]


@given(st.lists(PARTS, max_size=3), st.lists(PARTS, max_size=3))
def test_problems_have_the_same_digests_if_and_only_if_they_are_the_same(one: list, other: list) -> None:
    same = fingerprints.of_problems(encoded(one)) == fingerprints.of_problems(encoded(other))
    assert same == (one == other)


def test_what_changed_is_named() -> None:
    before = {"data": fingerprints.of_problems(encoded([("q", "1", None, [1]), ("r", "2", None, [2])]))}
    golds = {"data": fingerprints.of_problems(encoded([("q", "1", None, [1]), ("r", "3", None, [2])]))}
    fewer = {"data": fingerprints.of_problems(encoded([("q", "1", None, [1])]))}
    template = {"data": fingerprints.of_problems(encoded([("q", "1", None, [1]), ("r", "2", None, [3])]))}
    assert fingerprints.changes(before, before) == []
    assert fingerprints.changes(before, golds) == ["data: other answers"]
    assert fingerprints.changes(before, template) == ["data: other prompts"]
    assert fingerprints.changes(before, fewer) == ["data: 2 problems -> 1"]
    assert fingerprints.changes({}, before) == fingerprints.changes(before, {"evaluation": {}}) == []


def test_prompts_with_a_date_are_no_part_of_the_digest() -> None:
    today, tomorrow = (encoded([("q", "1", None, [date, 7])]) for date in (1, 2))
    assert fingerprints.of_problems(today, dated=True) == fingerprints.of_problems(tomorrow, dated=True)
    assert fingerprints.of_problems(today) != fingerprints.of_problems(tomorrow)
    mask = np.array([False, True])
    first, second, third = ([(np.array(ids), mask)] for ids in ([1, 7], [2, 7], [1, 8]))
    assert fingerprints.of_examples(first, dated=True) == fingerprints.of_examples(second, dated=True)
    assert fingerprints.of_examples(first, dated=True) != fingerprints.of_examples(third, dated=True)
    assert fingerprints.of_examples(first) != fingerprints.of_examples(second)


def test_files_that_the_configuration_names_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "template.txt").write_text("```text\n{response}\n```")
    overrides = [f"selfplay.template={tmp_path}/template.txt", f"data.path={tmp_path}/template.txt"]
    job = load(TrainJob, ROOT / "configs" / "tiny_svs.yaml", overrides)
    before = fingerprints.of_files(job)
    assert list(before) == ["selfplay.template"]
    (tmp_path / "template.txt").write_text("```text\n{response}!\n```")
    changed = fingerprints.changes({"files": before}, {"files": fingerprints.of_files(job)})
    assert changed == ["files: other selfplay.template"]


def test_records_of_other_sets_stay(tmp_path: Path) -> None:
    fingerprints.record(tmp_path / "inputs.json", {"sets.a": {"problems": 1}})
    fingerprints.record(tmp_path / "inputs.json", {"sets.b": {"problems": 2}})
    assert fingerprints.recorded(tmp_path / "inputs.json") == {"sets.a": {"problems": 1}, "sets.b": {"problems": 2}}
    with pytest.raises(UserError, match=r"sets\.a: 1 problems -> 5\): choose another"):
        fingerprints.check(tmp_path / "inputs.json", {"sets.a": {"problems": 5}}, "choose another")


@pytest.mark.parametrize("content", ["{", "[]", '{"data": 3}', "3"])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "inputs.json").write_text(content)
    with pytest.raises(UserError, match=r"inputs\.json cannot be read .*remove it to go on without a comparison"):
        fingerprints.recorded(tmp_path / "inputs.json")


def test_weights_are_told_apart_by_every_byte_of_every_shard(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    )
    for name in ("1.safetensors", "2.safetensors", "adapter.safetensors"):
        (tmp_path / name).write_bytes(bytes(1000))
    files = fingerprints.weight_files(str(tmp_path))
    assert [file.name for file in files] == ["1.safetensors", "2.safetensors"]
    first = fingerprints.of_weights(files)
    (tmp_path / "2.safetensors").write_bytes(bytes(999) + b"\1")
    second = fingerprints.of_weights(files)
    assert fingerprints.changes({"model": first}, {"model": second}) == ["model: other weights"]
    assert fingerprints.of_weights(fingerprints.weight_files("nobody/no-such-model")) == {}


def write_problems(path: Path, answers: list[int], question: str = "Tom has {} pens.") -> str:
    rows = [{"question": question.format(number), "answer": answer} for number, answer in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run of no step on a model and a data set of its own."""
    monkeypatch.chdir(ROOT)
    shutil.copytree(ROOT / "models" / "tiny", tmp_path / "model")
    data = write_problems(tmp_path / "train.jsonl", list(range(16)))
    held_out = write_problems(tmp_path / "test.jsonl", list(range(4)), "Ann has {} eggs.")
    assert main([*SFT, f"run.dir={tmp_path}/base", f"export={tmp_path}/model", "run.steps=1"]) == 0
    arguments = ["train", "configs/tiny_rlvr.yaml", *SMALL, f"model.path={tmp_path}/model", f"data.path={data}"]
    return [*arguments, f"evaluation.path={held_out}", "run.steps=0", f"run.dir={tmp_path}/run"]


def test_a_run_is_not_resumed_over_changed_data_or_weights(
    train: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> str:
        messages = []
        for more in ([], ["--dry-run"]):
            assert main([*train, *more]) == 2
            messages.append(capsys.readouterr().err.partition("fastsvs: error: ")[2])
        assert messages[0] == messages[1]
        assert "bring back what it began with, or choose another run.dir" in messages[0]
        return messages[0]

    assert main(train) == 0
    before = (tmp_path / "run" / "inputs.json").read_bytes()
    assert main(train) == 0
    write_problems(tmp_path / "train.jsonl", [7, *range(1, 16)])
    assert "(data: other answers)" in refused()
    write_problems(tmp_path / "train.jsonl", list(range(12)))
    assert "(data: 16 problems -> 12)" in refused()
    write_problems(tmp_path / "train.jsonl", list(range(16)), "Tim has {} pens.")
    assert "(data: other questions, other prompts)" in refused()
    write_problems(tmp_path / "train.jsonl", list(range(16)))
    write_problems(tmp_path / "test.jsonl", [0, 1, 2, 9], "Ann has {} eggs.")
    assert "(evaluation: other answers)" in refused()
    write_problems(tmp_path / "test.jsonl", list(range(4)), "Ann has {} eggs.")
    with open(tmp_path / "model" / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\7")
    assert "(model: other weights)" in refused()
    assert (tmp_path / "run" / "inputs.json").read_bytes() == before


def test_answers_of_other_weights_or_to_other_golds_do_not_go_into_an_old_folder(
    train: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["eval", "configs/tiny_eval.yaml", "sets.heldout.samples=2", "sets.heldout.k=[1]"]
    arguments += [f"model.path={tmp_path}/model", f"sets.heldout.data.path={tmp_path}/test.jsonl"]
    arguments += ["sets.heldout.data.limit=null", f"output={tmp_path}/out"]

    def refused() -> str:
        assert main(arguments) == 2
        return capsys.readouterr().err

    assert main(arguments) == 0
    assert main(arguments) == 0
    write_problems(tmp_path / "test.jsonl", [0, 1, 2, 9], "Ann has {} eggs.")
    assert "was begun with other inputs (sets.heldout: other answers): choose another output" in refused()
    write_problems(tmp_path / "test.jsonl", list(range(4)), "Ann has {} eggs.")
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text(template.read_text().replace("'<|user|>'", "'<|user|>.'"))
    assert "(sets.heldout: other prompts)" in refused()
    shutil.copy(ROOT / "models" / "tiny" / "chat_template.jinja", template)
    assert main([*SFT, f"run.dir={tmp_path}/other", f"export={tmp_path}/model", "run.steps=1", "run.seed=5"]) == 0
    assert "(model: other weights)" in refused()
