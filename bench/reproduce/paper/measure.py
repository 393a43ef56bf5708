"""Figures of the arms as rows, and what SvS gains over RLVR with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.experiments.statistics import DRAWS, Difference
from bench.report import Row
from bench.reproduce.paper.arms import BASE, RLVR, SVS, TITLES, Arm
from fastsvs.errors import UserError
from fastsvs.evaluate import Published, pass_at_k, published_tables
from fastsvs.verify import Verdict

AVERAGE = "average"


@dataclass(frozen=True)
class Table:
    """One published table, with the rows that the arms have in it."""

    source: str
    metric: str
    theirs: dict[str, Published]
    """Published row of each method."""

    @property
    def sets(self) -> list[str]:
        return list(self.theirs[SVS].values)


def tables_of(arms: Sequence[Arm]) -> list[Table]:
    """Return the tables that have rows of all arms."""
    found = []
    for (source, metric), rows in published_tables().items():
        theirs = {arm.method: row for arm in arms if (row := arm.published(rows)) is not None}
        if len(theirs) == len(arms):
            found.append(Table(source, metric, theirs))
    return found


def gains(table: Table, arms: Sequence[Arm]) -> dict[str, Difference]:
    """Return what SvS gains over RLVR in each set that both were evaluated on, as a share; and in the average where
    they were evaluated on all sets. Raises UserError where they were not asked the same problems."""
    rlvr, svs = (next(arm for arm in arms if arm.method == method) for method in (RLVR, SVS))
    by_set = {}
    for name in table.sets:
        if all(table.metric in arm.results.get(name, {}) for arm in (rlvr, svs)):
            by_set[name] = _by_problem(svs, rlvr, name, table.metric)
    found = {name: mean_gain([values]) for name, values in by_set.items()}
    return found | ({AVERAGE: mean_gain(list(by_set.values()))} if len(by_set) == len(table.sets) else {})


def mean_gain(sets: Sequence[np.ndarray]) -> Difference:
    """Return the mean over sets of the mean gain of their problems, `[problems]` each, with the 95% interval of a
    bootstrap over the problems of each set."""
    random = np.random.default_rng(0)
    drawn = [values[random.integers(len(values), size=(DRAWS, len(values)))].mean(axis=1) for values in sets]
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return Difference(float(np.mean([values.mean() for values in sets])), float(low), float(high))


def rows_of(arms: Sequence[Arm]) -> Iterator[Row]:
    """Yield all figures of the arms, ours and the published ones, and the gains."""
    for table in tables_of(arms):
        for arm in arms:
            for name, value in table.theirs[arm.method].values.items():
                yield Row(name, table.source, f"{TITLES[arm.method]} {table.metric}", value / 100, "share")
                if (rate := arm.results.get(name, {}).get(table.metric)) is not None:
                    yield Row(name, "fastsvs", f"{TITLES[arm.method]} {table.metric}", rate["mean"], "share")
        for name, gain in gains(table, arms).items():
            yield from _gain_rows(name, table.metric, gain)
    yield from _training_rows(arm for arm in arms if arm.method != BASE)


def _gain_rows(name: str, metric: str, gain: Difference) -> Iterator[Row]:
    for end, value in (("", gain.value), (" low", gain.low), (" high", gain.high)):
        yield Row(name, "bootstrap", f"SvS - RLVR {metric}{end}", value, "share")


def _training_rows(arms: Iterable[Arm]) -> Iterator[Row]:
    for arm in arms:
        metrics = arm.run.metrics() if arm.run is not None else []
        for name, unit in (("policy/entropy", "nats/token"), ("time/step", "s")):
            for row in metrics:
                if name in row:
                    yield Row(f"step {row['step']}", TITLES[arm.method], name, row[name], unit)


def _by_problem(svs: Arm, rlvr: Arm, name: str, metric: str) -> np.ndarray:
    """Return the gain in pass@k of each problem, `[problems]`."""
    ours, theirs = (_rates(arm, name, metric) for arm in (svs, rlvr))
    if ours.keys() != theirs.keys() or not ours:
        raise UserError(
            f"{name}: {svs.eval_job.output} has the answers to {len(ours)} problems, {rlvr.eval_job.output} to "
            f"{len(theirs)}, and they are not the same: run `fastsvs eval` of both on all problems of the set"
        )
    return np.array([ours[key] - theirs[key] for key in sorted(ours)])


def _rates(arm: Arm, name: str, metric: str) -> dict[str, float]:
    """Return pass@k of each problem by its id."""
    k = int(metric.removeprefix("pass@"))
    verdicts = {row["id"]: row["verdicts"] for row in arm.answered(name)}
    return {key: pass_at_k(len(found), found.count(Verdict.CORRECT), k) for key, found in verdicts.items()}
