"""`python -m bench.plan --out DIR`: what `fastsvs plan` says of updates, beside what they take.

On this CPU updates and whole steps are run and planned. Of a GPU nothing is run: the plan is held against
what `bench.trainer` has published of one, and against what others have published of jobs like ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from transformers import PretrainedConfig

from bench.plan import checking, published
from bench.plan.cases import CALIBRATED_ON, CASES
from bench.plan.planned import GPU_CASES, measured_on_gpu, on_gpu, planned
from bench.plan.steps import CALIBRATED_STEP, STEP_CASES, planned_step
from bench.report import Row, publish
from bench.usage import parser_of
from fastsvs.plan import CHECK_SECONDS

CPU_METRIC = "update: processor time of the busiest rank"
STEP_METRIC = "step: processor time of the main rank"
PLANNED, MEASURED = "planned", "measured"


def main() -> None:
    parser = parser_of("plan", __doc__)
    options = parser.parse_args()
    publish("plan", [*on_this_cpu(), *of_checks(), *on_published_gpu(), *published.rows()], options.out)


def on_this_cpu() -> Iterator[Row]:
    for name, case in CASES.items():
        note = "the table's `cpu` is from it" if name in CALIBRATED_ON else "predicted"
        seconds = run("bench.plan.measure", name, case.ranks, case.model)
        yield Row(name, MEASURED, CPU_METRIC, seconds, "s", note=note)
        yield Row(name, PLANNED, CPU_METRIC, planned(case), "s", note=note)
    for name, steps in STEP_CASES.items():
        note = "the local engine's time for a token is from it" if name == CALIBRATED_STEP else "predicted"
        seconds = run("bench.plan.steps", name, steps.ranks, steps.model)
        yield Row(name, MEASURED, STEP_METRIC, seconds, "s", note=note)
        yield Row(name, PLANNED, STEP_METRIC, planned_step(steps), "s", note=note)


def of_checks() -> Iterator[Row]:
    yield Row("check of an answer", MEASURED, "processor time", checking.seconds(), "s", note="forms of MATH's answers")
    yield Row("check of an answer", PLANNED, "processor time", CHECK_SECONDS, "s")


def on_published_gpu() -> Iterator[Row]:
    for name in GPU_CASES:
        for (metric, unit), value in on_gpu(name).items():
            yield Row(name, MEASURED, metric, measured_on_gpu(name, metric), unit, note="bench.trainer, one H200")
            yield Row(name, PLANNED, metric, value, unit)


def run(module: str, name: str, ranks: int, model: PretrainedConfig) -> float:
    """Return the processor seconds of a case on the rank that takes the most, of those that say."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.json"
        model.save_pretrained(Path(folder) / "model")
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        subprocess.run([sys.executable, *torchrun, "-m", module, "--case", name, str(file)], check=True, timeout=600)
        return max(json.loads(file.read_text()))


if __name__ == "__main__":
    main()
