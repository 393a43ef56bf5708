"""What export, merge and fine-tuning write: whole or not at all, with the model's own files, from the run folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forking import Run
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from whole_runs import ROOT, SFT

from fastsvs.cli import main
from fastsvs.config import ModelConfig
from fastsvs.errors import UserError
from fastsvs.files import draft_of
from fastsvs.policy import open_model, save_hf

pytestmark = pytest.mark.usefixtures("at_root")

TINY = ROOT / "models" / "tiny"
UNSAVEABLE = {"temperature": 0.6, "top_p": 0.95, "do_sample": False, "eos_token_id": [3, 0]}
"""A generation_config.json such as models on the hub have: transformers loads it, and refuses to save it."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with files that transformers would not write again as they are."""
    folder = shutil.copytree(TINY, tmp_path_factory.mktemp("models") / "odd")
    (folder / "generation_config.json").write_text(json.dumps(UNSAVEABLE, indent=7))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"temperature": 0.6, "of_its_own": [1]}))
    with pytest.raises(ValueError, match="invalid"):
        GenerationConfig.from_pretrained(folder).save_pretrained(folder / "again")
    return folder


@pytest.fixture(scope="module")
def finished(model: Path) -> Path:
    """A fine-tuning run, after which the model that it began with was taken away."""
    folder = model.parent
    ended = Run(*SFT, f"model.path={model}", f"run.dir={folder}/run", f"export={folder}/exported").completed(240)
    assert ended.returncode == 0, ended.stderr
    model.rename(folder / "elsewhere")
    return folder / "run"


def check_folder_of_the_odd_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["of_its_own"] == [1]
    assert (folder / "generation_config.json").read_text() == json.dumps(UNSAVEABLE, indent=7)
    assert (folder / "chat_template.jinja").read_bytes() == (TINY / "chat_template.jinja").read_bytes()
    assert (
        AutoTokenizer.from_pretrained(folder)("1 + 1").input_ids
        == AutoTokenizer.from_pretrained(TINY)("1 + 1").input_ids
    )
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id == [3, 0]
    assert not [file for file in folder.parent.iterdir() if file.name.endswith(".partial")]


def test_fine_tuning_exports_what_transformers_would_not_save(finished: Path) -> None:
    check_folder_of_the_odd_model(finished.with_name("exported"))


def test_a_run_is_exported_where_its_model_is_gone(finished: Path, tmp_path: Path) -> None:
    assert not (finished / "base").joinpath("model.safetensors").exists()
    assert main(["export", str(finished), "--out", str(tmp_path / "hf")]) == 0
    check_folder_of_the_odd_model(tmp_path / "hf")
    trained, exported = (load_file(f / "model.safetensors") for f in (finished.with_name("exported"), tmp_path / "hf"))
    assert all(torch.equal(trained[name], exported[name]) for name in trained)


def test_one_checkpoint_is_merged_where_its_model_is_gone(finished: Path, tmp_path: Path) -> None:
    one, other = sorted((finished / "checkpoints").iterdir())
    assert main(["merge", str(one), str(other), "--out", str(tmp_path / "hf")]) == 0
    check_folder_of_the_odd_model(tmp_path / "hf")


def test_evaluating_a_run_needs_nothing_else(
    finished: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sizes = ["sets.heldout.data.limit=8", f"output={tmp_path}/report", "--dry-run"]
    assert main(["eval", "configs/tiny_eval.yaml", f"model.path={finished}", *sizes]) == 0
    assert "step 2" in capsys.readouterr().out


def test_a_run_of_an_earlier_version_names_the_model_that_it_misses(
    finished: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "base")
    assert main(["export", str(run), "--out", str(tmp_path / "hf")]) == 2
    assert f"model.path='{finished.with_name('odd')}': no readable Hugging Face model config" in capsys.readouterr().err


def halfway(_: Path) -> None:
    raise UserError("enough")


def interrupted(_: Path) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("end", "raised"), [(halfway, UserError), (interrupted, KeyboardInterrupt)])
@pytest.mark.parametrize("exists", [False, True])
def test_nothing_half_written_stays(
    tmp_path: Path, end: Callable[[Path], None], raised: type[BaseException], exists: bool
) -> None:
    out = tmp_path / "out"
    if exists:
        out.mkdir()
        (out / "README.md").write_text("mine")
    stored = open_model(ModelConfig(path=str(TINY)), seed=0)
    with pytest.raises(raised):
        save_hf(stored.hf_weights(), stored.hf_config, stored.architecture, torch.float32, out, end)
    assert [file.name for file in tmp_path.rglob("*")] == (["out", "README.md"] if exists else [])


def test_a_folder_gets_a_new_model_and_keeps_what_is_not_the_models(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    for stale in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        save_file({stale: torch.ones(1)}, tmp_path / stale)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    stored = open_model(ModelConfig(path=str(TINY)), seed=0)
    save_hf(stored.hf_weights(), stored.hf_config, stored.architecture, torch.float32, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    readable = {(tmp_path / name).stat().st_mode for name in ("README.md", "config.json", "model.safetensors")}
    assert len(readable) == 1, "safetensors keeps its files to their owner"
    assert open_model(ModelConfig(path=str(tmp_path)), seed=0).step == 0


def test_a_draft_takes_the_place_of_what_a_kill_has_left(tmp_path: Path) -> None:
    (tmp_path / ".new.partial").mkdir()
    (tmp_path / ".new.partial" / "half").write_text("written")
    with draft_of(tmp_path / "new") as draft:
        (draft / "templates").mkdir()
        (draft / "templates" / "one").write_text("1")
        assert not (tmp_path / "new").exists()
    with draft_of(tmp_path / "new") as draft:
        (draft / "templates").mkdir()
        (draft / "templates" / "two").write_text("2")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "new",
        "new/templates",
        "new/templates/two",
    ]
