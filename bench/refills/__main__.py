"""`python -m bench.refills --suite SUITE --out DIR`: count what steps learn from, with dynamic sampling.

Short runs of `fastsvs train` at some seeds each. Figures are means over steps and seeds. They are counts, which do not
depend on the machine's load.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from bench.report import Row, introduce, keep, show
from fastsvs.files import read_jsonl


@dataclass(frozen=True, slots=True)
class Case:
    """Runs of one configuration that differ in `sampler.refills`."""

    config: str
    refills: Sequence[int] = (0, 3)
    steps: int = 4
    seeds: Sequence[int] = (0, 1, 2)
    options: Sequence[str] = ()

    def __str__(self) -> str:
        return f"{self.config}, steps 1 to {self.steps}"


SUITES = {
    "cpu": [Case("configs/tiny_rlvr.yaml"), Case("configs/tiny_svs.yaml", seeds=(0,))],
    "smoke": [
        Case(
            "configs/tiny_rlvr.yaml",
            refills=(0, 2),
            steps=1,
            seeds=(0,),
            options=("run.prompts_per_step=4", "rollout.samples_per_prompt=4", "data.limit=32"),
        )
    ],
}
UNMEASURED = ("evaluation.path=null", "dynamics.every=0")
"""Options that leave out what is not compared."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--suite", choices=sorted(SUITES), required=True)
    options = parser.parse_args(arguments)
    introduce(options.suite, needs_gpu=False)
    keep(f"refills-{options.suite}", (list(measure(case)) for case in SUITES[options.suite]), options.out)


def measure(case: Case) -> Iterator[Row]:
    """Yield the figures of each number of refills, and print them. Raises subprocess.CalledProcessError where a run
    fails."""
    steps: dict[int, list[Mapping[str, float]]] = {refills: [] for refills in case.refills}
    with tempfile.TemporaryDirectory() as folder:
        for seed in case.seeds:
            for refills, rows in steps.items():
                rows += run(case, refills, seed, Path(folder) / f"{refills}-{seed}")
    for refills, rows in steps.items():
        for row in figures(str(case), refills, rows):
            show(row)
            yield row


def run(case: Case, refills: int, seed: int, folder: Path) -> list[dict[str, float]]:
    """Return the metrics of a run's steps."""
    options = (f"sampler.refills={refills}", f"run.seed={seed}", f"run.steps={case.steps}", f"run.dir={folder}")
    command = [sys.executable, "-m", "fastsvs", "train", case.config, *UNMEASURED, *case.options, *options]
    subprocess.run(command, check=True, timeout=1800, stdout=subprocess.DEVNULL)
    return read_jsonl(folder / "metrics.jsonl")


def figures(case: str, refills: int, rows: Sequence[Mapping[str, float]]) -> Iterator[Row]:
    def mean(name: str) -> float:
        return fmean(row.get(name, 0) for row in rows)

    provider = f"refills {refills}"
    asked, learned = mean("groups/original"), mean("kept_groups/original")
    yield Row(case, provider, "problems asked a step", asked, "count")
    yield Row(case, provider, "problems learned from a step", learned, "count", limit=asked - mean("refill/asked"))
    yield Row(case, provider, "problems asked for one learned from", asked / learned, "ratio")
    for kind in ("synthesis", "variant"):
        if any(f"groups/{kind}" in row for row in rows):
            yield Row(case, provider, f"{kind} groups learned from a step", mean(f"kept_groups/{kind}"), "count")
    tokens = fmean(map(sampled_tokens, rows))
    yield Row(case, provider, "response tokens sampled a step", tokens, "count")


def sampled_tokens(row: Mapping[str, float]) -> float:
    """Return the number of tokens in all responses of a step."""
    kinds = [name.partition("/")[2] for name in row if name.startswith("samples/")]
    return sum(row[f"samples/{kind}"] * row[f"response_tokens/{kind}"] for kind in kinds)


if __name__ == "__main__":
    main()
