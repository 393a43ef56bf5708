"""The command line's grammar. It needs the standard library alone, so that help comes at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from pathlib import Path

from fastsvs import __version__

SAMPLES = 10_000
"""Number of each run's responses in a report, if the command line names no other."""
JOBS = {
    "train": "reinforcement learning with SvS self-play (or without)",
    "sft": "supervised fine-tuning of the same policy",
    "self": "rounds of feedback, refinement and fine-tuning on what the model approves of",
    "eval": "pass@k and more on problem sets",
}


def parse(summary: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line of the program that `summary` describes; `command` is the name of the command. Overrides
    may stand on both sides of an option, where argparse alone takes the first ones only."""
    parser = _parser(summary)
    options, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(options, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _parser(summary: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastsvs", description=summary)
    parser.add_argument("--version", action="version", version=f"fastsvs {__version__}")
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="train|plan|sft|self|eval|export|merge|analyze|report|demo|configs|init|doctor",
    )
    for name, purpose in JOBS.items():
        job = commands.add_parser(name, help=purpose, description=purpose)
        job.add_argument("config", metavar="CONFIG", help="YAML file, or fastsvs:NAME of `fastsvs configs`")
        job.add_argument("overrides", nargs="*", default=[], metavar="section.key=value")
        job.add_argument("--dry-run", action="store_true", help="check everything, print the resolved config, stop")
        if name == "train":
            job.add_argument("--nodes", type=_count, help="of --dry-run outside torchrun: nodes of the job")
            job.add_argument("--gpus", type=_count, help="of --dry-run outside torchrun: processes of a node")
        if name == "eval":
            job.add_argument("--compare", choices=["paper"], help="show the published figures beside the results")
    plan = commands.add_parser("plan", help="what a job of `train` takes of which machines, and how long")
    plan.add_argument("config", metavar="CONFIG", help="YAML file, or fastsvs:NAME of `fastsvs configs`")
    plan.add_argument("overrides", nargs="*", default=[], metavar="section.key=value")
    plan.add_argument("--nodes", type=_count, default=1, help="(%(default)s)")
    plan.add_argument("--gpus", type=_count, default=8, help="of a node; on CPUs, its processes (%(default)s)")
    plan.add_argument("--gpu", required=True, help="h100, h200, a100, b200, l40s, cpu, or a YAML file of your own")
    plan.add_argument("--from", dest="source", type=Path, metavar="RUN", help="take lengths and self-play of this run")
    plan.add_argument("--against", type=Path, metavar="RUN", help="show this run's measurements beside the plan")
    plan.add_argument("--speeds", type=Path, metavar="FILE", help="take what doctor --nodes --out FILE has measured")
    plan.add_argument("--sweep", action="store_true", help="instead: the ten fastest layouts that fit")
    plan.add_argument("--json", action="store_true", help="as JSON, in bytes and seconds")
    export = commands.add_parser("export", help="write a checkpoint of a run as a Hugging Face folder")
    export.add_argument("run", type=Path, metavar="RUN", help="run folder, for its newest checkpoint, or a checkpoint")
    export.add_argument("--out", type=Path, required=True, help="folder to make")
    export.add_argument(
        "--adapter", action="store_true", help="of a run with policy.lora, the adapter alone, in PEFT's format"
    )
    merge = commands.add_parser("merge", help="a model between two others, as a Hugging Face folder")
    merge.add_argument("base", metavar="BASE", help="model, run or checkpoint")
    merge.add_argument("tuned", metavar="TUNED", help="model, run or checkpoint of the same architecture")
    merge.add_argument("--weight", type=float, default=0.5, help="0 is BASE, 1 is TUNED (%(default)s)")
    merge.add_argument("--drop", type=float, default=0.0, help="DARE: share of differences to drop (%(default)s)")
    merge.add_argument("--seed", type=int, default=0, help="of what is dropped (%(default)s)")
    merge.add_argument("--out", type=Path, required=True, help="folder to make")
    analyze = commands.add_parser("analyze", help="what a run's samples say, and what training did to weights")
    analyze.add_argument(
        "before", metavar="RUN|BEFORE", help="run folder; or a model, a run or a checkpoint, with AFTER"
    )
    analyze.add_argument("after", nargs="?", metavar="AFTER", help="model, run or checkpoint to compare with BEFORE")
    analyze.add_argument("--step", type=_count, help="instead: tokens of this step of RUN, under AFTER if it is given")
    analyze.add_argument(
        "--fit", nargs="*", metavar="SERIES", help="instead: limits of solving and verifying, or of two other metrics"
    )
    analyze.add_argument("--tolerance", type=_distance, default=1e-5, help="of unchanged values (%(default)s)")
    analyze.add_argument("--out", type=Path, help="JSON file (of a run: RUN/dynamics.json, or RUN/saturation.json)")
    report = commands.add_parser("report", help="runs and evaluations as one HTML page: figures, problems, answers")
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN|EVAL", help="folder of a run, or of `fastsvs eval`")
    report.add_argument(
        "--samples", type=_count, default=SAMPLES, help="responses of each folder in the page (%(default)s)"
    )
    report.add_argument("--port", type=int, default=8765, help="of --serve; 0 takes a free one (%(default)s)")
    target = report.add_mutually_exclusive_group()
    target.add_argument("--out", type=Path, help="the file (RUN/report.html; of several folders: ./report.html)")
    target.add_argument(
        "--serve",
        action="store_true",
        help="a live page for this machine, until Ctrl-C; of a folder of runs: their list",
    )
    demo = commands.add_parser("demo", help="a tiny policy teaches itself on this CPU, in minutes; then its report")
    demo.add_argument("--seed", type=int, default=0, help="of the run, into runs/tiny_svs_seed<SEED> (%(default)s)")
    demo.add_argument("overrides", nargs="*", default=[], metavar="section.key=value")
    commands.add_parser("configs", help="the configurations that come with FastSvS")
    init = commands.add_parser("init", help="copy one of them to edit")
    init.add_argument("name", metavar="NAME", help="as `fastsvs configs` says it")
    init.add_argument("file", nargs="?", type=Path, metavar="FILE", help="new file (its own name, where you stand)")
    doctor = commands.add_parser("doctor", help="what this machine has and lacks, and the cure for what it lacks")
    doctor.add_argument("run", nargs="?", type=Path, metavar="RUN", help="instead: are this run's checkpoints whole?")
    doctor.add_argument("--nodes", action="store_true", help="under torchrun: all nodes, and the ways between them")
    doctor.add_argument("--run-dir", type=Path, help="of --nodes: where runs go (runs)")
    doctor.add_argument("--out", type=Path, help="of --nodes: the speeds as a file, one JSON object a line")
    return parser


def _distance(word: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(word)) < inf:
            return value
    raise argparse.ArgumentTypeError(f"{word!r} is not a number of at least 0")


def _count(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number above 0")
    return int(word)
