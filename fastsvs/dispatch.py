"""What each command of the command line does with its options. torch and the rooms are imported when they are needed: a
job says that it loads them before it does."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from fastsvs import config, shipped, startup
from fastsvs.arguments import SAMPLES
from fastsvs.errors import UserError
from fastsvs.output import print_once, say

Done = TypeVar("Done")


def _train(options: argparse.Namespace) -> None:
    if (options.nodes or options.gpus) and not options.dry_run:
        raise UserError("--nodes and --gpus belong to --dry-run: torchrun says them to a job")
    job = _load(config.TrainJob, options)
    if options.dry_run:
        from fastsvs.commands.dry_run import check_train, cluster_of

        print_once(check_train(job, cluster_of(options.nodes, options.gpus)))
        return
    from fastsvs.rollout import read_nodes

    nodes = read_nodes(job.rollout)
    if nodes.serves:
        from fastsvs.commands.serving import serve

        serve(job, nodes)
        return
    from fastsvs.training import train

    _run(train, job)


def _plan(options: argparse.Namespace) -> None:
    job = _load(config.TrainJob, options)
    from fastsvs.commands.plan import Request, plan

    names = ("nodes", "gpus", "gpu", "source", "against", "speeds", "sweep", "json")
    text, works = plan(job, Request(**{name: getattr(options, name) for name in names}))
    print_once(text)
    if not works:
        raise UserError("this job will not work on these machines")


def _sft(options: argparse.Namespace) -> None:
    job = _load(config.SftJob, options)
    if options.dry_run:
        from fastsvs.commands.dry_run import check_sft

        print_once(check_sft(job))
        return
    from fastsvs.commands.sft import sft

    print_once(f"done: {_run(sft, job)}")


def _self(options: argparse.Namespace) -> None:
    job = _load(config.SelfJob, options)
    if options.dry_run:
        from fastsvs.commands.dry_run import check_self

        print_once(check_self(job))
        return
    from fastsvs.commands.self_improve import run_self

    print_once(f"done: {_run(run_self, job)}")


def _eval(options: argparse.Namespace) -> None:
    job = _load(config.EvalJob, options)
    if options.dry_run:
        from fastsvs.commands.dry_run import check_eval

        print_once(check_eval(job))
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

    step = export_run(options.run, options.out, adapter=options.adapter)
    print_once(f"exported step {step} of {options.run} to {options.out}")


def _merge(options: argparse.Namespace) -> None:
    from fastsvs.commands.merge import MergePlan, merge_models

    plan = MergePlan(options.weight, options.drop, options.seed)
    merge_models(options.base, options.tuned, options.out, plan)
    print_once(f"merged {options.base} and {options.tuned} to {options.out}")


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
    if (options.run_dir or options.out) and not options.nodes:
        raise UserError("--run-dir and --out belong to --nodes, which looks at the machines of a job")
    if options.run is not None:
        if options.nodes:
            raise UserError("doctor looks at RUN or, with --nodes, at machines: name one of them")
        from fastsvs.commands.stored_checkpoints import diagnose_run

        diagnose_run(options.run)
    elif options.nodes:
        from fastsvs.commands import cluster

        cluster.diagnose(options.run_dir or Path("runs"), options.out)
    else:
        from fastsvs.commands import doctor

        doctor.diagnose()


def _load(schema: type[config.Job], options: argparse.Namespace, changes: Sequence[str] = ()) -> config.Job:
    """Load the job that the command line names, and say on stderr that the libraries come next."""
    job = config.load(schema, options.config, [*changes, *options.overrides])
    startup.prepare(job)
    if os.environ.get("RANK", "0") == "0":
        say(f"fastsvs: {options.config} is valid; loading PyTorch and Megatron-core")
    return job


def _run(work: Callable[[config.Job], Done], job: config.Job) -> Done:
    """Do the job's work, and end it early when a signal says so."""
    from fastsvs import preemption

    with preemption.listening(signal.SIGINT):
        return work(job)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "train": _train,
    "plan": _plan,
    "sft": _sft,
    "self": _self,
    "eval": _eval,
    "export": _export,
    "merge": _merge,
    "report": _report,
    "analyze": _analyze,
    "demo": _demo,
    "configs": _configs,
    "init": _init,
    "doctor": _doctor,
}
