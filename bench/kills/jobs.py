"""The jobs that are disturbed, each of two commands, and what must be the same at their end."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from fastsvs.files import read_jsonl

OF_THE_MACHINE = ("time/", "throughput/", "system/")
"""Beginnings of metrics that no two runs have in common."""
SMALL = (
    "data.limit=64",
    "rollout.samples_per_prompt=4",
    "run.prompts_per_step=8",
    "run.save_every=1",
    "run.keep_checkpoints=2",
)
EVALUATED = ("evaluation.limit=8", "evaluation.samples=2", "evaluation.k=[1,2]", "evaluation.every=2")
SVS = ("selfplay.variants_per_context=2", "selfplay.samples_per_variant=4", *EVALUATED)
SERVERS = ("rollout.engine=vllm", "rollout.max_sequences=32", "rollout.server.max_restarts=20")
AHEAD = ("rollout.server.count=2", "train.staleness=1", "algorithm.rollout_correction=tis")


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    config: str
    steps: int
    options: tuple[str, ...] = ()
    processes: int = 1
    weight: int = 1
    """Number of its runs in one round of the campaign."""
    exact: bool = True
    """True where two runs agree in every bit; with servers that depends on the company of a sequence."""

    def commands(self, disk: Path) -> list[list[str]]:
        """Return the words of the job's commands: training with its evaluations, then the export."""
        sizes = [*SMALL, *self.options, f"run.steps={self.steps}", f"run.dir={disk / 'run'}"]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        start = [sys.executable, *(launcher if self.processes > 1 else []), "-m", "fastsvs"]
        return [
            [*start, "train", self.config, *sizes],
            [sys.executable, "-m", "fastsvs", "export", str(disk / "run"), "--out", str(disk / "exported")],
        ]


JOBS = (
    Job("local", "configs/tiny_svs.yaml", 8, SVS, weight=3),
    Job("waves", "configs/tiny_svs.yaml", 8, (*SVS, "train.waves=3", "algorithm.old_logprobs=engine"), weight=3),
    Job("azr", "configs/tiny_azr.yaml", 6, ("model.path=models/tiny", "evaluation.path=null"), weight=3),
    Job("tp2", "configs/tiny_svs.yaml", 4, (*SVS, "policy.tensor_parallel=2"), processes=2),
    Job("pp2", "configs/tiny_svs.yaml", 4, (*SVS, "policy.pipeline_parallel=2"), processes=2),
    Job("one server", "configs/tiny_svs.yaml", 6, (*SVS, *SERVERS), exact=False),
    Job("two servers, one step ahead", "configs/tiny_svs.yaml", 6, (*SVS, *SERVERS, *AHEAD), exact=False),
)


def chosen(names: Sequence[str]) -> list[Job]:
    """Return the jobs of these names, or all without names."""
    return [job for job in JOBS if not names or job.name in names]


def environment(disk: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(disk / "tmp")}


def differences(job: Job, ended: Path, alone: Path) -> list[str]:
    """Return what is wrong with the job that ended on the disk `ended`, beside one left alone where it is exact."""
    found = wrong_counts(job, ended / "run")
    if not job.exact:
        weights = ended / "exported" / "model.safetensors"
        return found if _finite(weights) else [*found, "weights are not finite"]
    if record(ended / "run") != record(alone / "run"):
        found.append("metrics differ")
    for pattern in ("run/samples/*", "run/evaluations/*", "exported/*.safetensors"):
        one, other = ({file.name: file.read_bytes() for file in disk.glob(pattern)} for disk in (ended, alone))
        found += [f"{name} differs" for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
    return found


def record(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of a run without those that no two runs have in common."""
    rows = read_jsonl(run / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith(OF_THE_MACHINE)} for row in rows]


def wrong_counts(job: Job, run: Path) -> list[str]:
    """Return the steps and samples that are not there exactly once."""
    steps = [row["step"] for row in read_jsonl(run / "metrics.jsonl")]
    found = [] if steps == list(range(1, job.steps + 1)) else [f"metrics have the steps {steps}"]
    for step in range(1, job.steps + 1):
        groups = read_jsonl(run / "samples" / f"step_{step}.jsonl")
        keys = [group["key"] for group in groups]
        if not keys or len(keys) != len(set(keys)):
            found.append(f"step {step} has {len(keys)} groups under {len(set(keys))} keys")
        found += [f"step {step}: {group['key']} is not whole" for group in groups if not _whole(group)]
    return found


def _whole(group: dict[str, Any]) -> bool:
    counts = {len(group[name]) for name in ("responses", "tokens", "finish", "rewards")}
    return len(counts) == 1 and all(math.isfinite(reward) for reward in group["rewards"])


def _finite(weights: Path) -> bool:
    with safe_open(weights, "pt") as file:
        return all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118
