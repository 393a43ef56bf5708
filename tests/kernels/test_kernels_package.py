"""The kernels as a distribution of their own: what its wheel holds, that it needs torch alone, and the hub's layout."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
PROJECT = tomllib.loads((KERNELS / "pyproject.toml").read_text())
KNOWN = {*sys.stdlib_module_names, "torch", "triton"}
SOURCES = sorted(KERNELS.glob("*.py"))

USE = """
import sys
import torch
import fastsvs_kernels
from fastsvs_kernels import PolicyLossSettings, TokenInputs, adapters, linear_logprob_entropy, linear_policy_loss

hidden, weight = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
targets, ones = torch.arange(6), torch.ones(6)
logprobs, entropy = linear_logprob_entropy(hidden, weight, targets)
(logprobs + entropy).sum().backward()
linear_policy_loss(hidden, weight, targets, TokenInputs(ones, ones), PolicyLossSettings()).loss.backward()
print(fastsvs_kernels.__file__)
print(sorted({name.partition(".")[0] for name in sys.modules} & {"fastsvs", "megatron", "pydantic", "transformers"}))
print([name for name in sys.modules if name.startswith("fastsvs_kernels.") and name.endswith("_triton")])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    shutil.copytree(KERNELS, folder / "source", ignore=ignored)  # a build leaves traces
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(folder / "source")], check=True, capture_output=True, timeout=120)
    [wheel] = folder.glob("fastsvs_kernels-*.whl")
    return wheel


def test_the_wheel_holds_the_package_and_its_papers(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    assert {f"fastsvs_kernels/{path.name}" for path in SOURCES} == {
        n for n in names if n.startswith("fastsvs_kernels/")
    }
    [metadata] = (archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    version = re.findall(r'"(.*)"', (KERNELS / "version.py").read_text())[-1]
    assert f"Version: {version}\n" in metadata
    assert "Requires-Python: <3.14,>=3.10\n" in metadata
    wanted = re.findall(r"^Requires-Dist: ([\w-]+)", metadata, re.MULTILINE)
    assert sorted(wanted) == ["torch", "triton"]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "# fastsvs-kernels" in metadata


def test_it_runs_with_torch_alone(wheel: Path, tmp_path: Path) -> None:
    """In an interpreter that knows no site but the wheel's and torch's. On a CPU no Triton kernel is imported."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    torch_site = Path(next(path for path in sys.path if (Path(path) / "torch" / "__init__.py").exists()))
    code = f"import sys; sys.path[:0] = [{str(site)!r}]; sys.path.append({str(torch_site)!r})\n{USE}"
    command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", code]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [str(site / "fastsvs_kernels" / "__init__.py"), "[]", "[]"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_file_is_python_3_10_and_names_no_package_around_it(path: Path) -> None:
    """Inside FastSvS and on the hub the package has other names: it imports itself by relative names alone."""
    tree = ast.parse(path.read_text(), feature_version=(3, 10))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert str(node.module).split(".")[0] in KNOWN, node.module
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= KNOWN
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            assert not {"assert_never", "Self", "reveal_type", "override"} & {alias.name for alias in node.names}


def test_the_license_is_the_repositorys() -> None:
    assert (KERNELS / "LICENSE").read_text() == (KERNELS.parent / "LICENSE").read_text()


def test_the_hubs_layout(tmp_path: Path) -> None:
    """The name of the package under torch-ext is the kernel's with underscores, and nothing is compiled beforehand."""
    subprocess.run(["make", "-C", str(KERNELS.parent), "kernel-hub", f"HUB={tmp_path}"], check=True, timeout=60)
    build = tomllib.loads((tmp_path / "build.toml").read_text())
    assert build["general"]["name"] == PROJECT["project"]["name"]
    assert build["general"]["license"] == PROJECT["project"]["license"]
    assert "torch-noarch" in build
    package = tmp_path / "torch-ext" / build["general"]["name"].replace("-", "_")
    assert {path.name for path in package.iterdir()} == {path.name for path in SOURCES}
    assert (tmp_path / "README.md").exists()
