"""The report as plain data, which the page gets as JSON. Every number comes from the files of the runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fastsvs
from fastsvs.report.compare import arms, settings
from fastsvs.report.facts import facts
from fastsvs.report.families import Included, StepSamples, choose
from fastsvs.report.folder import RunFiles, read_run
from fastsvs.report.headline import headline, time_split
from fastsvs.report.naming import folder_names
from fastsvs.report.notices import Number
from fastsvs.report.planned import planned
from fastsvs.report.sheets import Answers, read_evaluation, sheets_of_evaluation, sheets_of_run
from fastsvs.stored_evaluation import is_evaluation

DIGITS = 6
"""Number of significant digits of a metric on the page."""


@dataclass(frozen=True, slots=True)
class Document:
    """The data of a page.

    `head` draws everything but the browser of problems. The browser takes `groups` [run], and `texts` and `tokens` for
    an opened problem.
    """

    head: dict[str, Any]
    groups: list[dict[str, Any]]
    texts: dict[tuple[int, int], dict[str, list[str]]]
    """Responses of each group by its key, by run and step."""
    tokens: dict[tuple[int, int], dict[str, dict[str, Any]]]
    """Rendered prompt and tokens of the groups that have them, by run and step; steps without any are not there."""
    answers: list[Answers]
    """Answers of each sheet of the head."""

    def notices(self) -> list[str]:
        """Return the lines about what was left out, of runs, evaluations and their sheets."""
        return [
            line for part in ("runs", "evaluations", "sheets") for each in self.head[part] for line in each["notices"]
        ]


def build(paths: Sequence[Path], samples: int) -> Document:
    """Read the runs and evaluations, each once, and return their document. Raises UserError for a folder that holds
    neither."""
    paths = list({os.path.realpath(path): path for path in paths}.values())
    names = dict(zip(paths, folder_names(paths), strict=True))
    evaluations = [read_evaluation(path) for path in paths if is_evaluation(path)]
    runs = [read_run(path) for path in paths if not is_evaluation(path)]
    sheets = [
        *(sheet for index, run in enumerate(runs) for sheet in sheets_of_run(run, index, names[run.path], samples)),
        *(sheet for each in evaluations for sheet in sheets_of_evaluation(each, names[each.path], samples)),
    ]
    chosen = [choose(run, samples) for run in runs]
    compared = arms(runs)
    of_run = {index: number for number, arm in enumerate(compared) for index in arm.runs}
    head = {
        "version": fastsvs.__version__,
        "arms": [asdict(arm) for arm in compared],
        "runs": [_run(run, of_run[index], names[run.path], *chosen[index]) for index, run in enumerate(runs)],
        "evaluations": [
            {
                "name": names[each.path],
                "path": str(each.path),
                "model": each.model,
                "facts": facts(each.config, each.environment, {}),
                "notices": list(each.notices),
            }
            for each in evaluations
        ],
        "plans": [plan for arm in compared for plan in planned(arm, runs, names)],
        "sheets": [sheet.facts() for sheet in sheets],
        "settings": [{**asdict(setting), "differs": setting.differs} for setting in settings([*runs, *evaluations])],
    }
    return Document(
        head=head,
        groups=[{"steps": [{"step": s.step, "groups": s.groups} for s in steps]} for steps, _ in chosen],
        texts={(index, s.step): _texts(s) for index, (steps, _) in enumerate(chosen) for s in steps},
        tokens={(index, s.step): s.tokens for index, (steps, _) in enumerate(chosen) for s in steps if s.tokens},
        answers=[sheet.answers for sheet in sheets],
    )


def _run(run: RunFiles, arm: int, name: str, chosen: Sequence[StepSamples], included: Included) -> dict[str, Any]:
    return {
        "name": name,
        "path": str(run.path),
        "arm": arm,
        "method": run.method,
        "seed": run.seed,
        "planned_steps": run.planned_steps,
        "finished": run.finished,
        "facts": facts(run.config, run.environment, run.plan),
        "headline": asdict(headline(run)),
        "metrics": columns(run.metrics),
        "evaluations": {str(step): result for step, result in run.evaluations.items()},
        "time": columns([{"step": row["step"], **time_split(row)} for row in run.metrics]),
        "samples": asdict(included),
        "notices": [*run.notices, *(line for samples in chosen for line in samples.notices)],
    }


def columns(rows: Sequence[dict[str, Number]]) -> dict[str, list[Number]]:
    """Return the value at each row for every name, None where a row lacks it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_rounded(row.get(name)) for row in rows] for name in names}


def _rounded(value: Number) -> Number:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _texts(samples: StepSamples) -> dict[str, list[str]]:
    return {group["key"]: texts for group, texts in zip(samples.groups, samples.texts, strict=True)}
