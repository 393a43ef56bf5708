"""The three arms of a pair of rows, and what their runs and evaluations have left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fastsvs.config import EvalJob, TrainJob, differences, load
from fastsvs.errors import UserError
from fastsvs.evaluate import Published, published_tables
from fastsvs.files import read_jsonl, read_mapping
from fastsvs.stored_run import StoredRun

FOLDER = "paper/"
"""Beginning of the names of the configurations that `fastsvs.evaluate.published` knows."""
BASE, RLVR, SVS = "base", "rlvr", "svs"
TITLES = {BASE: "base", RLVR: "RLVR", SVS: "SvS"}
WHERE_IT_RUNS = ("run.dir", "output", "suites", "rollout.server.", "rollout.placement", "rollout.nodes", "logging.")
"""Beginnings of the keys whose values are no departure from the configuration."""


@dataclass(frozen=True)
class Arm:
    """One model of the tables: the base, or what a configuration trains."""

    method: str
    stem: str
    """Name of its configurations without their ends: `3b_math12k_svs` or `3b_base`."""
    folder: Path
    """Folder of its configurations."""

    @property
    def training(self) -> Path | None:
        return None if self.method == BASE else self.folder / f"{self.stem}.yaml"

    @property
    def evaluation(self) -> Path:
        return self.folder / f"{self.stem}_eval.yaml"

    @cached_property
    def train_job(self) -> TrainJob | None:
        return None if self.training is None else load(TrainJob, self.training)

    @cached_property
    def eval_job(self) -> EvalJob:
        return load(EvalJob, self.evaluation)

    @cached_property
    def run(self) -> StoredRun | None:
        return None if self.train_job is None else StoredRun(Path(self.train_job.run.dir))

    @cached_property
    def results(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the figures of each evaluated set; empty where there are none yet."""
        return read_mapping(Path(self.eval_job.output) / "summary.json").get("sets", {})

    def answered(self, name: str) -> list[dict[str, Any]]:
        """Return the problems of a set with their verdicts."""
        return read_jsonl(Path(self.eval_job.output) / f"{name}.samples.jsonl")

    def published(self, table: Sequence[Published]) -> Published | None:
        """Return this model's row of a table, or None where it has none."""
        return next((row for row in table if row.evaluation == f"{FOLDER}{self.stem}_eval"), None)

    def departures(self) -> list[str]:
        """Return in which keys the run and the evaluation were others than the configurations say."""
        jobs = [(Path(self.eval_job.output) / "config.yaml", self.eval_job)]
        if self.run is not None:
            jobs.insert(0, (self.run.layout.config, self.train_job))
        return [
            change
            for path, job in jobs
            if path.exists()
            for change in differences(path, job, lambda key: key.startswith(WHERE_IT_RUNS))
        ]


def arms_of(config: Path) -> list[Arm]:
    """Return base, RLVR and SvS of the pair that a training configuration belongs to. Raises UserError for a
    configuration of no published row."""
    known = {row.evaluation for table in published_tables().values() for row in table if row.evaluation}
    stem = config.name.removesuffix(".yaml")
    pair, _, method = stem.rpartition("_")
    if f"{FOLDER}{stem}_eval" not in known or method not in (RLVR, SVS):
        trained = sorted(name.removeprefix(FOLDER).removesuffix("_eval") for name in known)
        names = ", ".join(name for name in trained if not name.endswith(f"_{BASE}"))
        raise UserError(f"--paper {config}: no published row has this configuration (known: {names})")
    base = f"{pair.partition('_')[0]}_{BASE}"
    stems = {BASE: base, RLVR: f"{pair}_{RLVR}", SVS: f"{pair}_{SVS}"}
    return [Arm(method, stem, config.parent) for method, stem in stems.items()]
