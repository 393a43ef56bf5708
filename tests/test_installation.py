"""The CUDA set for real: an empty environment, the plain index, every module, a training step. It moves about 4 GB."""

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest
from whole_runs import ROOT, SMALL

from fastsvs import __version__

pytestmark = [
    pytest.mark.install,
    pytest.mark.skipif(
        (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="the set is for Linux on x86-64"
    ),
]
EVERY_MODULE = """
import importlib, pkgutil
import fastsvs
names = [module.name for module in pkgutil.walk_packages(fastsvs.__path__, "fastsvs.")]
names = [name for name in names if not name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names), "modules")
"""


class Machine:
    """An empty home and an empty virtual environment, with nobody's settings of pip and nothing of this process."""

    def __init__(self, folder: Path) -> None:
        self.source, self.work, self.bin = folder / "source", folder / "work", folder / "venv" / "bin"
        self.work.mkdir()
        certificates = {name: value for name, value in os.environ.items() if "CERT" in name}
        self._environment = certificates | {
            "HOME": str(folder),
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "PIP_CONFIG_FILE": os.devnull,
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, *command: str) -> str:
        """Run a command there, show it with its time, and return what it printed."""
        begun = perf_counter()
        ended = subprocess.run(
            command, cwd=self.work, env=self._environment, capture_output=True, text=True, timeout=1500, check=False
        )
        shown = ended.stdout[-1500:] + ended.stderr[-3000:]
        print(f"$ {shlex.join(command)}\n{shown}({perf_counter() - begun:.0f} s)\n", flush=True)
        assert ended.returncode == 0, shown
        return ended.stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(machine.source)], check=True)
    machine.run(sys.executable, "-m", "venv", str(machine.bin.parent))
    locked = str(machine.source / "requirements" / "cuda.txt")
    machine.run("pip", "install", "--no-deps", "--require-hashes", "-r", locked)
    machine.run("pip", "install", "--no-deps", str(machine.source))
    return machine


def test_the_locked_set_satisfies_all_that_is_in_it(machine: Machine) -> None:
    assert "No broken requirements found" in machine.run("pip", "check")


def test_it_says_its_version_and_imports_whole(machine: Machine) -> None:
    assert machine.run("fastsvs", "--version") == f"fastsvs {__version__}\n"
    assert "modules" in machine.run("python", "-c", EVERY_MODULE)


def test_a_step_is_trained(machine: Machine) -> None:
    machine.run("fastsvs", "train", "fastsvs:tiny_rlvr", *SMALL, "run.steps=1")
    assert (machine.work / "runs" / "tiny_rlvr" / "summary.json").is_file()
