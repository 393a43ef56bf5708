"""`python -m bench.sampling --suite SUITE --out DIR`: count what steps ask and learn from, with an option and without.

Short runs of `fastsvs train` at some seeds each. Figures are means over steps and seeds. They are counts, which do not
depend on the machine's load.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.report import Row, introduce, keep, show
from bench.sampling.figures import Describe, of_budget, of_overlong, of_refills
from bench.usage import parser_of
from fastsvs.stored_run import StoredRun

Options = tuple[str, ...]
UNMEASURED = ("evaluation.path=null", "dynamics.every=0")
"""Options that leave out what is not compared."""


@dataclass(frozen=True, slots=True)
class Case:
    """Runs of one configuration that differ in the options of their provider."""

    config: str
    providers: Mapping[str, Options]
    describe: Describe
    steps: int
    seeds: Sequence[int] = (0, 1, 2)
    options: Options = UNMEASURED

    def __str__(self) -> str:
        return f"{self.config}, steps 1 to {self.steps}"


def _only(providers: Mapping[str, Options], name: str) -> Mapping[str, Options]:
    return {name: providers[name]}


REFILLS: Mapping[str, Options] = {f"refills {number}": (f"sampler.refills={number}",) for number in (0, 3)}
BUDGET: Mapping[str, Options] = {
    "plain": (),
    **{f"first {number}": (f"selfplay.budget.first_samples={number}",) for number in (4, 6)},
}
SHORT = (*UNMEASURED, "rollout.max_response_tokens=24")
"""Options under which a sixth of the demo's answers is cut off at first."""
OVERLONG: Mapping[str, Options] = {f"buffer {number}": (f"algorithm.overlong_buffer={number}",) for number in (0, 6)}
FEW = (*UNMEASURED, "run.prompts_per_step=4", "rollout.samples_per_prompt=4", "data.limit=32")
SUITES = {
    "refills": [
        Case("configs/tiny_rlvr.yaml", REFILLS, of_refills, steps=4),
        Case("configs/tiny_svs.yaml", REFILLS, of_refills, steps=4, seeds=(0,)),
    ],
    "budget": [
        Case("configs/tiny_svs.yaml", BUDGET, of_budget, 20, (0, 1), ("dynamics.every=0", "evaluation.every=0"))
    ],
    "overlong": [Case("configs/tiny_rlvr.yaml", OVERLONG, of_overlong, steps=30, options=SHORT)],
    "smoke": [
        Case("configs/tiny_rlvr.yaml", REFILLS, of_refills, steps=1, seeds=(0,), options=FEW),
        Case("configs/tiny_svs.yaml", _only(BUDGET, "first 4"), of_budget, steps=1, seeds=(0,), options=FEW),
        Case("configs/tiny_rlvr.yaml", _only(OVERLONG, "buffer 6"), of_overlong, 1, (0,), (*FEW, *SHORT)),
    ],
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("sampling", __doc__, SUITES)
    options = parser.parse_args(arguments)
    introduce(options.suite, needs_gpu=False)
    keep(f"sampling-{options.suite}", (list(measure(case)) for case in SUITES[options.suite]), options.out)


def measure(case: Case) -> Iterator[Row]:
    """Yield the figures of each provider, and print them. Raises subprocess.CalledProcessError where a run fails."""
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, list[StoredRun]] = {provider: [] for provider in case.providers}
        for seed in case.seeds:
            for provider, options in case.providers.items():
                runs[provider].append(run(case, options, seed, Path(folder) / f"{provider} {seed}"))
        for provider, made in runs.items():
            for figure in case.describe(made):
                row = Row(str(case), provider, figure.metric, figure.value, figure.unit, limit=figure.limit)
                show(row)
                yield row


def run(case: Case, options: Options, seed: int, folder: Path) -> StoredRun:
    """Train, and return the run."""
    own = (f"run.seed={seed}", f"run.steps={case.steps}", f"run.dir={folder}")
    command = [sys.executable, "-m", "fastsvs", "train", case.config, *case.options, *options, *own]
    subprocess.run(command, check=True, timeout=3600, stdout=subprocess.DEVNULL)
    return StoredRun(folder)


if __name__ == "__main__":
    main()
