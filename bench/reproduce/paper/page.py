"""Writer of the page of one pair of rows, from page.md, its text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

from bench.experiments.page import interval, reading, table
from bench.experiments.statistics import Difference
from bench.reproduce.paper.arms import SVS, TITLES, Arm
from bench.reproduce.paper.measure import AVERAGE, Table, gains, tables_of
from fastsvs.evaluate import missing_cells, missing_text, our_cells

TEXT = Path(__file__).with_suffix(".md")


def render(config: Path, arms: Sequence[Arm], source: str, earlier: str) -> str:
    """Return the page. A reading in the one before is kept when it belongs to the same `source`, the JSON file."""
    svs = next(arm.train_job for arm in arms if arm.method == SVS)
    return Template(TEXT.read_text(encoding="utf-8")).substitute(
        model=Path(svs.model.path).name,
        data=svs.data.path,
        config=config,
        source=source,
        tables="\n\n".join(_table(each, arms) for each in tables_of(arms)),
        runs=_runs(arms),
        departures=_list(f"{TITLES[arm.method]}: {change}" for arm in arms for change in arm.departures()),
        missing=_list(_missing(arms)),
        reading=reading(source, earlier),
    )


def _table(each: Table, arms: Sequence[Arm]) -> str:
    rows = []
    for arm in arms:
        theirs = each.theirs[arm.method]
        rows.append([f"{TITLES[arm.method]}, published", *map(_percent, [*theirs.values.values(), theirs.average])])
        rows.append([f"{TITLES[arm.method]}, here", *map(_percent, our_cells(arm.results, theirs))])
    rlvr, svs = (each.theirs[arm.method] for arm in arms[1:])
    published = [svs.values[name] - rlvr.values[name] for name in each.sets]
    rows.append(["SvS over RLVR, published", *(f"{gain:+.1f}" for gain in [*published, svs.average - rlvr.average])])
    found = gains(each, arms)
    rows.append(["SvS over RLVR, here", *(_gain(found.get(name)) for name in [*each.sets, AVERAGE])])
    return f"## {each.metric} ({each.source})\n\n{table(['', *each.sets, AVERAGE], rows)}"


def _runs(arms: Sequence[Arm]) -> str:
    rows = []
    for arm in arms:
        if arm.run is None or arm.train_job is None:
            continue
        metrics = arm.run.metrics()
        entropy = [row["policy/entropy"] for row in metrics if "policy/entropy" in row]
        responses = sum(row[name] for row in metrics for name in row if name.startswith("samples/"))
        environment = arm.run.environment()
        rows.append(
            [
                TITLES[arm.method],
                f"{len(metrics)} of {arm.train_job.run.steps}",
                f"{responses:,.0f}" if metrics else "-",
                f"{sum(row['time/step'] for row in metrics) / 3600:.1f}" if metrics else "-",
                f"{entropy[0]:.3f} to {entropy[-1]:.3f}" if entropy else "-",
                ", ".join(sorted(set(environment.get("gpus", [])))) or "-",
                (environment.get("commit") or "-")[:12],
            ]
        )
    return table(["", "steps", "responses", "hours of steps", "entropy, first to last step", "GPU", "commit"], rows)


def _missing(arms: Sequence[Arm]) -> Iterator[str]:
    """Yield what is not there yet, with the command that makes it."""
    for arm in arms:
        title = TITLES[arm.method]
        if arm.run is not None and arm.train_job is not None:
            done, steps = len(arm.run.metrics()), arm.train_job.run.steps
            if done < steps:
                command = f"torchrun ... -m fastsvs train {arm.training}"
                yield f"{title}: {done} of {steps} steps are trained; `{command}`, see [cluster.md](cluster.md)"
        cells: dict[str, str] = {}
        for each in tables_of(arms):
            cells |= missing_cells(arm.results, each.theirs[arm.method])
        if cells:
            yield f"{title}: {missing_text(cells)}; `fastsvs eval {arm.evaluation}`"


def _list(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "None."


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _gain(found: Difference | None) -> str:
    return "-" if found is None else interval(found, "pass")
