"""The command line of an experiment: finish the runs, write their figures as JSON, then the page and its pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from bench.experiments.jobs import finish
from bench.experiments.plan import Plan
from bench.experiments.results import Results
from bench.report import write
from bench.usage import exits_on_errors, parser_of
from fastsvs.errors import UserError
from fastsvs.files import write_atomic

P = TypeVar("P", bound=Plan)
R = TypeVar("R", bound=Results)
SHARED = "the machine did other work at the same time"


@dataclass(frozen=True)
class Experiment(Generic[P, R]):
    name: str
    plans: Mapping[str, P]
    measure: Callable[[P, Path, str | None], R]
    """Function that reads what a finished plan has left in a folder; the text is a note for rows of times."""
    draw: Callable[[Path, P, R], list[Path]]
    """Function that draws the picture at a path, for light pages and for dark ones."""
    render: Callable[[P, R, str, list[str], str], str]
    """Function that returns the page from the names of the JSON file and of the pictures, and from the page before."""
    check: Callable[[str], object] = lambda earlier: None
    """Function that raises UserError for a page that `render` would refuse, before anything is run."""


def main(experiment: Experiment[P, R], description: str | None) -> None:
    """Run the command line. Exits with status 2 and a message where a UserError is raised."""
    parser = parser_of(experiment.name, description)
    runs = Path("runs") / experiment.name
    parser.add_argument("--suite", choices=experiment.plans, default="tiny", help="smoke: that all of it runs")
    if "quick" in experiment.plans:
        parser.add_argument("--quick", action="store_const", dest="suite", const="quick", help="minutes; the shape")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="only these of the suite's")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="only these of the suite's")
    parser.add_argument("--runs", type=Path, default=runs, help="folder of runs and evaluations")
    parser.add_argument("--page", type=Path, required=True, help="Markdown to write; its pictures go beside it")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--shared", action="store_true", help="the machine did other work: note it, quote no times")
    options = parser.parse_args()
    with exits_on_errors(parser):
        plan = only(experiment.plans[options.suite], options.seeds, options.methods)
        experiment.check(_text(options.page))
        finish(plan.phases(options.runs), options.workers)
        results = experiment.measure(plan, options.runs, SHARED if options.shared else None)
        source = write(plan.suite, results.rows, options.out)
        pictures = experiment.draw(options.page.with_suffix(".png"), plan, results)
        names, earlier = [picture.name for picture in pictures], _text(options.page)  # edited meanwhile, perhaps
        write_atomic(options.page, experiment.render(plan, results, source.name, names, earlier))
    print(f"wrote {options.page}, {source} and {', '.join(map(str, pictures))}")


def only(plan: P, seeds: Sequence[int] | None, methods: Sequence[str] | None) -> P:
    """Return the plan with these of its seeds and methods, None for all, methods in the plan's order. Raises UserError
    for one that it does not have."""
    _refuse_strangers(plan.suite, "seeds", plan.seeds, seeds or ())
    _refuse_strangers(plan.suite, "methods", tuple(plan.steps), methods or ())
    kept = {method: steps for method, steps in plan.steps.items() if method in (methods or plan.steps)}
    return replace(plan, seeds=tuple(seeds or plan.seeds), steps=kept)


def _refuse_strangers(suite: str, kind: str, known: Sequence[object], asked: Sequence[object]) -> None:
    strangers = [each for each in asked if each not in known]
    if strangers:
        raise UserError(f"--{kind}: {suite} has the {kind} {known}, not {strangers}")


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.exists() else ""
