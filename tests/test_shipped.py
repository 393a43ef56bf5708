"""Shipped configurations by name, copies of them, and paths that are looked for where one stands, then there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from whole_runs import ROOT

from fastsvs import __version__, shipped
from fastsvs.cli import main
from fastsvs.config import TrainJob, load
from fastsvs.config.loading import _read_tree
from fastsvs.errors import UserError

NAMES = sorted(shipped.configurations())


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_configuration_is_listed_with_what_it_says_of_itself(capsys) -> None:
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0].removeprefix("fastsvs:") for line in lines] == NAMES
    assert "SvS self-play on the tiny task" in next(line for line in lines if line.startswith("fastsvs:tiny_svs "))
    assert {
        path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in ROOT.glob("configs/**/*.yaml")
    } == set(NAMES)


def test_a_name_loads_from_any_folder_and_its_paths_are_found() -> None:
    job = load(TrainJob, "fastsvs:tiny_rlvr", ["run.steps=2"])
    assert (Path(job.model.path) / "config.json").is_file()
    assert Path(job.selfplay.template).read_text() == (ROOT / "configs" / "tiny_synthesis.txt").read_text()
    assert job.run.dir == "runs/tiny_rlvr"


def test_what_stands_here_comes_before_what_is_shipped(elsewhere: Path) -> None:
    (elsewhere / "models" / "tiny").mkdir(parents=True)
    assert load(TrainJob, "fastsvs:tiny_svs").model.path == "models/tiny"
    assert shipped.find("setup.py") == "setup.py"
    assert shipped.find("models/other") == "models/other"


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_means_what_the_original_means(name: str, elsewhere: Path) -> None:
    copy = shipped.copy_configuration(name, elsewhere / "mine.yaml")
    assert _read_tree(copy) == _read_tree(shipped.find_configuration(name))


def test_init_writes_beside_nothing(capsys, elsewhere: Path) -> None:
    assert main(["init", "fastsvs:tiny_rlvr"]) == 0
    assert capsys.readouterr().out == "written: tiny_rlvr.yaml\n"
    assert yaml.safe_load(Path("tiny_rlvr.yaml").read_text())["extends"] == "fastsvs:tiny_svs"
    assert main(["init", "tiny_rlvr"]) == 2
    assert "tiny_rlvr.yaml exists already: name a new file" in capsys.readouterr().err
    assert main(["init", "tiny_rlvr", "nowhere/mine.yaml"]) == 2
    assert "cannot write nowhere/mine.yaml: No such file or directory" in capsys.readouterr().err


def test_a_name_that_is_not_shipped() -> None:
    with pytest.raises(
        UserError, match=r"no configuration 'tiny_sv'; did you mean fastsvs:tiny_svs\? \(`fastsvs configs`"
    ):
        load(TrainJob, "fastsvs:tiny_sv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.path=models/tinny", "no file or folder models/tinny in {here}, and as the id of a model on the hub: "),
        ("model.tokenizer=tokens", "no tokenizer can be loaded from tokens: no file or folder tokens in {here}"),
        ("data.path=rows.jsonl", "data path rows.jsonl does not exist: no file or folder rows.jsonl in {here}"),
        ("data.path=my/rows", "no file or folder my/rows in {here}, and as a hub data set"),
        ("selfplay.template=mine.txt", "mine.txt cannot be read: no file or folder mine.txt in {here}"),
    ],
)
def test_a_missing_path_names_the_folder_that_was_searched(capsys, elsewhere: Path, change: str, message: str) -> None:
    assert main(["train", "fastsvs:tiny_svs", "--dry-run", change]) == 2
    assert message.format(here=elsewhere) in capsys.readouterr().err


def test_a_missing_configuration_names_the_folder_that_was_searched(capsys, elsewhere: Path) -> None:
    assert main(["train", "mine.yaml"]) == 2
    assert f"mine.yaml does not exist: no file or folder mine.yaml in {elsewhere}" in capsys.readouterr().err


def test_a_job_speaks_before_it_loads_what_takes_seconds(elsewhere: Path) -> None:
    """In a process of its own that cannot import torch, or anything that does."""
    code = "import sys; sys.modules['torch'] = None; from fastsvs.cli import main; main(sys.argv[1:])"
    ask = [sys.executable, "-c", code]
    helped = subprocess.run([*ask, "--help"], capture_output=True, text=True, check=False)
    assert (helped.returncode, helped.stderr) == (0, "")
    started = subprocess.run([*ask, "train", "fastsvs:tiny_svs"], capture_output=True, text=True, check=False)
    first, *_, last = started.stderr.splitlines()
    assert first == "fastsvs: fastsvs:tiny_svs is valid; loading PyTorch and Megatron-core"
    assert "torch" in last


def test_version(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"fastsvs {__version__}\n"


def test_every_command_prepares_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert main(["configs"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
