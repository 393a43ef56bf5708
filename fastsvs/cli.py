"""The command line: `fastsvs train|sft|self|eval CONFIG [section.key=value ...]`; what is made of runs:
`fastsvs export|merge|analyze|report`; and how to begin: `fastsvs demo|configs|init|doctor`.

Nothing that takes long to import stands at the top: help comes at once, and a job says that it loads before it does.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from fastsvs import __version__, config, open_files, shipped
from fastsvs.accelerator import set_trainer_variables
from fastsvs.ends import another_has_said_why, say_once
from fastsvs.errors import Preempted, UserError
from fastsvs.open_files import check_open_files

Done = TypeVar("Done")
SAMPLES = 10_000
"""Number of each run's responses in a report, if the command line names no other."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status: 0 when done, 2 with a message when something outside the program is
    wrong, EX_TEMPFAIL (75) when the job was told to end early and can go on later. Of several processes one says it."""
    options = _parse(arguments)
    # Read when torch loads: threads that wait for one another must sleep, or busy cores spin instead of working.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    open_files.raise_limit()
    try:
        options.command(options)
    except (UserError, FloatingPointError) as error:  # the second where a model has diverged
        say_once(f"fastsvs: error: {error}")
        return 2
    except Preempted as end:
        _say(f"fastsvs: {end}")
        return os.EX_TEMPFAIL
    except Exception:
        if another_has_said_why():
            return 2
        raise
    return 0


def _train(options: argparse.Namespace) -> None:
    job = _load(config.TrainJob, options)
    if options.dry_run:
        from fastsvs.commands.dry_run import check_train

        _say(check_train(job))
        return
    _set_variables(job)
    from fastsvs.rollout import read_nodes

    nodes = read_nodes(job.rollout)
    if nodes.serves:
        from fastsvs.commands.serving import serve

        serve(job, nodes)
        return
    from fastsvs.training import train

    _run(train, job)


def _sft(options: argparse.Namespace) -> None:
    job = _load(config.SftJob, options)
    if options.dry_run:
        from fastsvs.commands.dry_run import check_sft

        _say(check_sft(job))
        return
    set_trainer_variables(os.environ, shares_memory=False)
    from fastsvs.commands.sft import sft

    _say(f"done: {_run(sft, job)}")


def _self(options: argparse.Namespace) -> None:
    job = _load(config.SelfJob, options)
    if options.dry_run:
        from fastsvs.commands.dry_run import check_self

        _say(check_self(job))
        return
    set_trainer_variables(os.environ, shares_memory=False)
    from fastsvs.commands.self_improve import run_self

    _say(f"done: {_run(run_self, job)}")


def _eval(options: argparse.Namespace) -> None:
    job = _load(config.EvalJob, options)
    if options.dry_run:
        from fastsvs.commands.dry_run import check_eval

        _say(check_eval(job))
        return
    from fastsvs.commands.evaluate import run_evaluation
    from fastsvs.evaluate import show_comparison, show_results

    summary = _run(run_evaluation, job)
    if os.environ.get("RANK", "0") == "0":
        show_results(summary["sets"])
        if options.compare:
            show_comparison(summary["model"], summary["sets"])


def _export(options: argparse.Namespace) -> None:
    from fastsvs.commands.export import export_run

    _say(f"exported step {export_run(options.run, options.out)} of {options.run} to {options.out}")


def _merge(options: argparse.Namespace) -> None:
    from fastsvs.commands.merge import MergePlan, merge_models

    plan = MergePlan(options.weight, options.drop, options.seed)
    merge_models(options.base, options.tuned, options.out, plan)
    _say(f"merged {options.base} and {options.tuned} to {options.out}")


def _report(options: argparse.Namespace) -> None:
    from fastsvs.report import serve_report, write_report

    if options.serve:
        serve_report(options.runs, options.port, options.samples)
    else:
        print(f"report: {write_report(options.runs, options.out, options.samples)}")


def _analyze(options: argparse.Namespace) -> None:
    from fastsvs.commands.analyze import analyze_models, analyze_run, analyze_step
    from fastsvs.commands.saturation import analyze_saturation

    if options.fit is not None:
        if options.after or options.step or len(options.fit) not in (0, 2):
            raise UserError(
                "--fit is of one RUN alone, and takes two series or none: analyze RUN --fit SOLVER VERIFIER"
            )
        analyze_saturation(Path(options.before), options.fit, options.out)
    elif options.step is not None:
        analyze_step(Path(options.before), options.step, options.after or options.before, options.out)
    elif options.after:
        analyze_models(options.before, options.after, options.tolerance, options.out)
    else:
        analyze_run(Path(options.before), options.tolerance, options.out)


def _demo(options: argparse.Namespace) -> None:
    options.config = f"{shipped.PREFIX}tiny_svs"
    of_the_seed = [f"run.dir=runs/tiny_svs_seed{options.seed}", f"run.seed={options.seed}"]
    job = _load(config.TrainJob, options, of_the_seed)
    _set_variables(job)
    from fastsvs.report import write_report
    from fastsvs.training import train

    _run(train, job)
    print(f"report: {write_report([Path(job.run.dir)], None, SAMPLES)}")


def _configs(_options: argparse.Namespace) -> None:
    known = shipped.configurations()
    width = max(map(len, known))
    for name, summary in known.items():
        print(f"{shipped.PREFIX}{name:{width}}  {summary}")


def _init(options: argparse.Namespace) -> None:
    print(f"written: {shipped.copy_configuration(options.name, options.file)}")


def _doctor(options: argparse.Namespace) -> None:
    if options.nodes:
        from fastsvs.commands import cluster

        cluster.diagnose(options.run_dir, options.out)
    else:
        from fastsvs.commands import doctor

        doctor.diagnose()


def _load(schema: type[config.Job], options: argparse.Namespace, changes: Sequence[str] = ()) -> config.Job:
    """Load the job that the command line names, and say on stderr that the libraries come next."""
    job = config.load(schema, options.config, [*changes, *options.overrides])
    check_open_files()
    if os.environ.get("RANK", "0") == "0":
        print(f"fastsvs: {options.config} is valid; loading PyTorch and Megatron-core", file=sys.stderr, flush=True)
    return job


def _run(work: Callable[[config.Job], Done], job: config.Job) -> Done:
    """Do the job's work, and end it early when a signal says so."""
    from fastsvs import preemption

    with preemption.listening():
        return work(job)


def _set_variables(job: config.TrainJob) -> None:
    colocated_servers = job.rollout.engine != "local" and job.rollout.placement == "colocated"
    set_trainer_variables(os.environ, shares_memory=colocated_servers)


def _say(text: str) -> None:
    """Print `text` once, however many processes torchrun started."""
    if os.environ.get("RANK", "0") == "0":
        print(text)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line. Overrides may stand on both sides of an option, where argparse alone takes the first ones
    only."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(options, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastsvs", description=__doc__)
    parser.add_argument("--version", action="version", version=f"fastsvs {__version__}")
    commands = parser.add_subparsers(
        required=True, metavar="train|sft|self|eval|export|merge|analyze|report|demo|configs|init|doctor"
    )
    jobs = {
        "train": (_train, "reinforcement learning with SvS self-play (or without)"),
        "sft": (_sft, "supervised fine-tuning of the same policy"),
        "self": (_self, "rounds of feedback, refinement and fine-tuning on what the model approves of"),
        "eval": (_eval, "pass@k and more on problem sets"),
    }
    for name, (command, summary) in jobs.items():
        job = commands.add_parser(name, help=summary, description=summary)
        job.add_argument("config", metavar="CONFIG", help="YAML file, or fastsvs:NAME of `fastsvs configs`")
        job.add_argument("overrides", nargs="*", metavar="section.key=value")
        job.add_argument("--dry-run", action="store_true", help="check everything, print the resolved config, stop")
        if name == "eval":
            job.add_argument("--compare", choices=["paper"], help="show the published figures beside the results")
        job.set_defaults(command=command)
    export = commands.add_parser("export", help="write a run's newest checkpoint as a Hugging Face folder")
    export.add_argument("run", type=Path, help="run folder")
    export.add_argument("--out", type=Path, required=True, help="folder to make")
    export.set_defaults(command=_export)
    merge = commands.add_parser("merge", help="a model between two others, as a Hugging Face folder")
    merge.add_argument("base", metavar="BASE", help="model, run or checkpoint")
    merge.add_argument("tuned", metavar="TUNED", help="model, run or checkpoint of the same architecture")
    merge.add_argument("--weight", type=float, default=0.5, help="0 is BASE, 1 is TUNED (%(default)s)")
    merge.add_argument("--drop", type=float, default=0.0, help="DARE: share of differences to drop (%(default)s)")
    merge.add_argument("--seed", type=int, default=0, help="of what is dropped (%(default)s)")
    merge.add_argument("--out", type=Path, required=True, help="folder to make")
    merge.set_defaults(command=_merge)
    analyze = commands.add_parser("analyze", help="what a run's samples say, and what training did to weights")
    analyze.add_argument(
        "before", metavar="RUN|BEFORE", help="run folder; or a model, a run or a checkpoint, with AFTER"
    )
    analyze.add_argument("after", nargs="?", metavar="AFTER", help="model, run or checkpoint to compare with BEFORE")
    analyze.add_argument("--step", type=_count, help="instead: tokens of this step of RUN, under AFTER if it is given")
    analyze.add_argument(
        "--fit", nargs="*", metavar="SERIES", help="instead: limits of solving and verifying, or of two other metrics"
    )
    analyze.add_argument("--tolerance", type=float, default=1e-5, help="of unchanged values (%(default)s)")
    analyze.add_argument("--out", type=Path, help="JSON file (of a run: RUN/dynamics.json, or RUN/saturation.json)")
    analyze.set_defaults(command=_analyze)
    report = commands.add_parser("report", help="runs as one HTML page: figures, and all that self-play made")
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    report.add_argument(
        "--samples", type=_count, default=SAMPLES, help="responses of each run in the page (%(default)s)"
    )
    report.add_argument("--port", type=int, default=8765, help="of --serve; 0 takes a free one (%(default)s)")
    target = report.add_mutually_exclusive_group()
    target.add_argument("--out", type=Path, help="the file (RUN/report.html; of several runs: ./report.html)")
    target.add_argument("--serve", action="store_true", help="a live page for this machine, until Ctrl-C")
    report.set_defaults(command=_report)
    demo = commands.add_parser("demo", help="a tiny policy teaches itself on this CPU, in minutes; then its report")
    demo.add_argument("--seed", type=int, default=0, help="of the run, into runs/tiny_svs_seed<SEED> (%(default)s)")
    demo.add_argument("overrides", nargs="*", metavar="section.key=value")
    demo.set_defaults(command=_demo)
    configs = commands.add_parser("configs", help="the configurations that come with FastSvS")
    configs.set_defaults(command=_configs)
    init = commands.add_parser("init", help="copy one of them to edit")
    init.add_argument("name", metavar="NAME", help="as `fastsvs configs` says it")
    init.add_argument("file", nargs="?", type=Path, metavar="FILE", help="new file (its own name, where you stand)")
    init.set_defaults(command=_init)
    doctor = commands.add_parser("doctor", help="what this machine has and lacks, and the cure for what it lacks")
    doctor.add_argument("--nodes", action="store_true", help="under torchrun: all nodes, and the ways between them")
    doctor.add_argument("--run-dir", type=Path, default=Path("runs"), help="of --nodes: where runs go (%(default)s)")
    doctor.add_argument("--out", type=Path, help="of --nodes: the speeds as a file, one JSON object a line")
    doctor.set_defaults(command=_doctor)
    return parser


def _count(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number above 0")
    return int(word)
