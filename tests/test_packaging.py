"""What `pip install .` puts where: `kernels/` inside fastsvs, package data with it, and no package beside it."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_fastsvs_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)  # a build leaves traces behind
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"fastsvs"}
    assert {
        "fastsvs/kernels/__init__.py",
        "fastsvs/kernels/rows_triton.py",
        "fastsvs/train.py",
        "fastsvs/rollout/local/engine.py",
        "fastsvs/selfplay/prompts/variational_problem.txt",
        "fastsvs/report/assets/page.html",
        "fastsvs/report/assets/scripts/main.js",
        "fastsvs/report/assets/vendor/temml.min.js",
    } <= names
