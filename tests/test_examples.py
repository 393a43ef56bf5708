"""The files that start a job on a cluster: whole, and true to the command line and the configurations."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
import yaml
from whole_runs import ROOT

from fastsvs.cli import main

EXAMPLES = ROOT / "examples"


def torchrun_of(text: str) -> list[str]:
    """Return the words of the first `torchrun ... -m fastsvs ...` in a text."""
    [command] = re.findall(r"torchrun .*?-m fastsvs [^&\n]*", text.replace("\\\n", " "), flags=re.DOTALL)
    return shlex.split(command)


def test_the_slurm_script_is_bash_and_asks_for_what_it_uses() -> None:
    script = EXAMPLES / "slurm.sbatch"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    text = script.read_text()
    words = torchrun_of(text)
    assert words[words.index("--nproc-per-node") + 1] == re.findall(r"--gpus-per-node=(\d+)", text)[0]
    assert (ROOT / re.findall(r"CONFIG:-([\w./]+)", text)[0]).exists()


def test_the_kubernetes_job_starts_as_many_nodes_as_it_has_pods() -> None:
    service, job = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    [container] = job["spec"]["template"]["spec"]["containers"]
    options = dict(word[2:].split("=", 1) for word in container["command"] if word.startswith("--"))
    assert int(options["nnodes"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    assert int(options["nproc-per-node"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert options["rdzv-endpoint"].split(":")[0] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    config = container["command"][container["command"].index("train") + 1]
    assert (ROOT / config).exists()


def test_the_image_is_built_from_the_lock_by_the_target_that_the_readme_uses() -> None:
    text = (ROOT / "Dockerfile").read_text()
    [lock] = re.findall(r"make install LOCKED=(\S+)", text)
    assert (ROOT / lock).exists()
    assert re.search(r"^install:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("line", re.findall(r"-m (fastsvs doctor [^\n`]*)", (ROOT / "docs" / "cluster.md").read_text()))
def test_commands_of_the_page_are_known(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(line)[1:], "--help"])
    assert ended.value.code == 0
