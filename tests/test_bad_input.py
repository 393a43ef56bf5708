"""Whatever a user gets wrong: exit status 2, a message with what, where and what would be right, nothing written."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from full_disk import largest_file
from torch import Tensor
from whole_runs import ROOT, SFT, TRAIN, Refuse

from fastsvs.algorithms import Batch, Context
from fastsvs.cli import main

pytestmark = pytest.mark.usefixtures("at_root")

SELF = ("self", "configs/tiny_self.yaml", "data.limit=8", "evolution.replay=null")


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    """The tiny tokenizer in a folder of its own, to be damaged."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(ROOT / "models" / "tiny" / name, folder)
    return folder


def write_rows(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("arguments", [(*TRAIN, "--dry-rum"), ("export", "run", "other", "--out", "x"), ("trian",)])
def test_a_command_line_that_means_nothing(capsys, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "error:" in capsys.readouterr().err


def test_data_without_rows(refuse: Refuse, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "empty.jsonl")
    assert f"{path} holds no rows" in refuse(*TRAIN, f"data.path={path}")


def test_a_column_that_is_not_there(refuse: Refuse, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", {"qestion": "1 + 1?", "answer": "2"})
    message = refuse(*TRAIN, f"data.path={path}")
    assert "no question column" in message
    assert "its columns are qestion, answer; set data.question_column" in message
    message = refuse(*TRAIN, f"data.path={path}", "data.question_column=qustion")
    assert "nothing under data.question_column='qustion'; did you mean 'qestion'?" in message


def test_sft_rows_without_messages(refuse: Refuse, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", {"text": "Once upon a time"})
    message = refuse(*SFT, f"data.path={path}")
    assert "neither chat turns (messages" in message
    assert "its columns are text" in message


def test_a_tokenizer_without_chat_template(refuse: Refuse, tokenizer_folder: Path) -> None:
    (tokenizer_folder / "chat_template.jinja").unlink()
    message = refuse(*TRAIN, f"model.tokenizer={tokenizer_folder}")
    assert f"the tokenizer of {tokenizer_folder} has no chat template: put a chat_template.jinja" in message


@pytest.mark.parametrize("job", [TRAIN, SFT, SELF], ids=["train", "sft", "self"])
def test_a_tokenizer_with_more_tokens_than_the_model(
    refuse: Refuse, job: tuple[str, ...], tokenizer_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    config = json.loads((ROOT / "models" / "tiny" / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    message = refuse(*job, f"model.path={model}", f"model.tokenizer={tokenizer_folder}")
    assert f"the tokenizer of {tokenizer_folder} has token ids up to 575, but {model} has embeddings for 300" in message
    assert message.endswith(": point model.tokenizer at the model's own\n")


@pytest.mark.parametrize("job", [TRAIN, SFT], ids=["train", "sft"])
def test_a_tokenizer_that_leaves_ids_out(refuse: Refuse, job: tuple[str, ...], tokenizer_folder: Path) -> None:
    file = tokenizer_folder / "tokenizer.json"
    parts = json.loads(file.read_text())
    vocabulary = parts["model"]["vocab"]
    vocabulary["a"] = 600
    file.write_text(json.dumps(parts))
    message = refuse(*job, "model.path=models/tiny", f"model.tokenizer={tokenizer_folder}")
    assert "has token ids up to 600, but models/tiny has embeddings for 576" in message


def test_an_example_that_is_longer_than_the_models_positions(refuse: Refuse, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    config = json.loads((ROOT / "models" / "tiny" / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))
    message = refuse(*SFT, f"model.path={model}", "model.tokenizer=models/tiny")
    assert f"tokens, but {model} has positions for 32: lower data.max_tokens to that" in message


def test_a_model_without_weights(refuse: Refuse, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(ROOT / "models" / "tiny" / "config.json", model)
    message = refuse(*TRAIN, f"model.path={model}", "model.tokenizer=models/tiny", dry=False)
    assert str(model) in message
    assert "safetensors" in message


def longest(batch: Batch, context: Context) -> Tensor:
    """A reward and an advantage that report the same metric."""
    context.metrics["longest"] = float(batch.response_lengths.max())
    return batch.response_lengths.float()


def test_two_plug_ins_with_a_metric_of_one_name(capsys, tmp_path: Path) -> None:
    plug_ins = [f"algorithm.{slot}={__name__}:longest" for slot in ("reward", "advantage")]
    assert main([*TRAIN, "selfplay.stage=none", "evaluation.path=null", *plug_ins, f"run.dir={tmp_path}/run"]) == 2
    assert "the metric 'longest' is reported twice: give your own another name" in capsys.readouterr().err


def test_a_run_folder_that_is_not_free(capsys, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert main([*TRAIN, f"run.dir={tmp_path}"]) == 2
    assert f"{tmp_path} holds files but no run: choose another run.dir" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_eval_leaves_no_half_report(capsys, tmp_path: Path) -> None:
    arguments = ["eval", "configs/tiny_eval.yaml", f"output={tmp_path}/report"]
    assert main([*arguments, "sets.heldout.data.path=missing.jsonl"]) == 2
    assert "missing.jsonl does not exist" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_export_of_what_is_no_run(capsys, tmp_path: Path) -> None:
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"{tmp_path} is no run folder: it has neither config.yaml nor metrics.jsonl" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").touch()
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"{tmp_path} has metrics, but no config.yaml" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning run of two steps. Its first attempt met a full disk."""
    folder = tmp_path_factory.mktemp("runs") / "sft"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        with largest_file(1_000_000):
            assert main([*SFT, f"run.dir={folder}"]) == 2
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [".lock"]
        assert not any((folder / "checkpoints").iterdir())
        assert main([*SFT, f"run.dir={folder}"]) == 0
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == ["step_00000001", "step_00000002"]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_full_disk_says_what_could_not_be_written(capsys, tmp_path: Path) -> None:
    with largest_file(1_000_000):
        assert main([*SFT, f"run.dir={tmp_path}/run"]) == 2
    message = capsys.readouterr().err
    assert f"the checkpoint of step 1 cannot be written to {tmp_path}/run/checkpoints" in message
    with largest_file(10):
        assert main([*SFT, f"run.dir={tmp_path}/other"]) == 2
    assert f"cannot write {tmp_path}/other/config.yaml: File too large" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "other").iterdir()] == [".lock"]


@pytest.mark.parametrize("command", ["sft", "export"])
def test_a_truncated_checkpoint(capsys, run: Path, tmp_path: Path, command: str) -> None:
    newest = run / "checkpoints" / "step_00000002"
    part = next(newest.glob("*.safetensors"))
    os.truncate(part, part.stat().st_size // 2)
    before = contents(run)
    resume = [*SFT, f"run.dir={run}", "run.steps=3"]
    arguments = {"sft": resume, "export": ["export", str(run), "--out", str(tmp_path / "out")]}
    assert main(arguments[command]) == 2
    message = capsys.readouterr().err
    assert f"checkpoint {newest} is damaged; move it away to go on from {newest.with_name('step_00000001')}" in message
    assert contents(run) == before
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_configuration(capsys, run: Path) -> None:
    before = contents(run)
    assert main([*SFT, f"run.dir={run}", "export=null", "run.seed=5"]) == 2
    message = capsys.readouterr().err
    assert "holds a run with another configuration (run.seed: 0 -> 5): choose another run.dir" in message
    assert contents(run) == before


def test_export_writes_over_nothing(capsys, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "hf"
    out.mkdir()
    assert main(["export", str(run), "--out", str(out)]) == 2
    assert f"{out} exists already: name a new folder" in capsys.readouterr().err
    assert not any(out.iterdir())


def test_export_onto_a_full_disk(capsys, run: Path, tmp_path: Path) -> None:
    with largest_file(1_000_000):
        assert main(["export", str(run), "--out", str(tmp_path / "hf")]) == 2
    assert f"the model cannot be written to {tmp_path / 'hf'}" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments", [(*TRAIN, f"data.path={LONG}/x.jsonl", "--dry-run"), ("report", LONG), ("doctor", LONG)]
)
def test_a_name_that_the_system_refuses(capsys, arguments: tuple[str, ...]) -> None:
    assert main([*arguments]) == 2
    assert re.search(f"fastsvs: error: {LONG}.*: File name too long", capsys.readouterr().err)


@pytest.mark.parametrize("command", ["report", "analyze", "export", "train"])
def test_a_folder_of_somebody_else(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    theirs, stat = str(tmp_path / "theirs"), os.stat

    def refused(path, *arguments, **keywords):
        if str(path).startswith(theirs):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *arguments, **keywords)

    monkeypatch.setattr(os, "stat", refused)  # root may read all
    more = ["--out", "x"] if command == "export" else []
    words = [*TRAIN, f"model.path={theirs}/x", "--dry-run"] if command == "train" else [command, f"{theirs}/x"]
    assert main([*words, *more]) == 2
    assert re.search(f"fastsvs: error: {theirs}.*: Permission denied", capsys.readouterr().err)
