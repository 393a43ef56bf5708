"""The files that start a job on a cluster: whole, and true to the command line and the configurations."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

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


SRUN = """echo "$@" > words
trap 'echo "the run is killed" >> calls; exit 1' TERM
touch begun
while [ ! -e told ]; do sleep 0.02; done
echo "the run has saved" >> calls
exit 1
"""
SCANCEL = """echo "scancel $@" >> calls
touch told
"""
SCONTROL = """if [ "$1" = show ]; then echo first; else echo "scontrol $@" >> calls; fi
"""


def test_the_slurm_script_queues_the_job_again_when_the_run_has_saved(tmp_path: Path) -> None:
    for name, text in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / name).chmod(0o755)
    slurm = {"JOB_ID": "7", "JOB_NODELIST": "first,second", "NNODES": "2", "CPUS_PER_TASK": "64"}
    variables = os.environ | {f"SLURM_{name}": value for name, value in slurm.items()}
    variables["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    script = subprocess.Popen(["bash", EXAMPLES / "slurm.sbatch", "run.steps=1"], cwd=tmp_path, env=variables)
    while not (tmp_path / "begun").exists():
        assert script.poll() is None
        time.sleep(0.02)
    script.send_signal(signal.SIGUSR1)
    assert script.wait(60) == 1
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["scancel --signal=TERM 7", "the run has saved", "scontrol requeue 7"]
    words = (tmp_path / "words").read_text().split()
    assert words[:3] == ["--cpus-per-task", "64", "torchrun"]
    assert words[-1] == "run.steps=1"


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
