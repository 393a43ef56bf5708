"""What `pip install .` puts where: `kernels/` inside fastsvs, data with it, no package beside it; and that it runs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from whole_runs import ROOT, SMALL, environment


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "source")], check=True)  # a build leaves traces
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(folder / "source")], check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path) -> dict[str, str]:
    """Environment of a process for which fastsvs is the wheel's, beside all other packages of this one."""
    site = wheel.parent / "site"
    zipfile.ZipFile(wheel).extractall(site)
    return environment() | {"PYTHONPATH": str(site)}


def run(installed: dict[str, str], folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "fastsvs", *arguments]
    ended = subprocess.run(command, cwd=folder, env=installed, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_wheel_holds_fastsvs_alone(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert f"'./{wheel.name}[" in (ROOT / "README.md").read_text()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"fastsvs"}
    assert {
        "fastsvs/kernels/__init__.py",
        "fastsvs/kernels/rows_triton.py",
        "fastsvs/training/loop.py",
        "fastsvs/rollout/local/engine.py",
        "fastsvs/selfplay/prompts/variational_problem.txt",
        "fastsvs/report/assets/page.html",
        "fastsvs/report/assets/scripts/main.js",
        "fastsvs/report/assets/vendor/temml.min.js",
    } <= names


def test_the_wheel_holds_every_configuration_and_the_tiny_model(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = ["git", "-C", str(ROOT), "ls-files", "configs", "models"]
    files = subprocess.run(tracked, check=True, capture_output=True, text=True).stdout.split()
    assert {f"fastsvs/share/{file}" for file in files} == {name for name in names if name.startswith("fastsvs/share/")}


def test_the_demo_runs_from_any_folder(installed: dict[str, str], tmp_path: Path) -> None:
    """One real start of the installed package, which finds its model and its templates where it lies."""
    overrides = [*SMALL, "run.steps=1", "evaluation.path=null"]
    assert "report: runs/tiny_svs_seed3/report.html" in run(installed, tmp_path, "demo", "--seed", "3", *overrides)
    resolved = (tmp_path / "runs" / "tiny_svs_seed3" / "config.yaml").read_text()
    share = Path(installed["PYTHONPATH"]) / "fastsvs" / "share"
    assert f"path: {share}/models/tiny\n" in resolved
    assert f"template: {share}/configs/tiny_synthesis.txt\n" in resolved
    assert sorted(os.listdir(tmp_path)) == ["runs"]
