"""Comparison of runs: which are one experiment at several seeds, and where their configurations differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastsvs.config import flatten
from fastsvs.report.folder import RunFiles
from fastsvs.report.naming import experiment_labels, shown

INCIDENTAL = {
    *("run.seed", "run.dir", "run.save_every", "run.save_minutes", "run.keep_checkpoints", "run.timeout_seconds"),
    "export",
}
"""Keys that do not make another experiment. Keys under `logging.` do not either."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One experiment: runs whose configurations differ in the seed at most."""

    label: str
    method: str
    runs: list[int]


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the configurations or, under `environment.`, of the environments, with its value in every folder.

    The value is None where the key is absent.
    """

    key: str
    values: list[str | None]

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1


def arms(runs: Sequence[RunFiles]) -> list[Arm]:
    """Return the experiments in the order of their first runs, with the runs of each sorted by seed."""
    members: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        essence = {key: value for key, value in run.config.items() if _matters(key)} or {"run": str(run.path)}
        members.setdefault(json.dumps([run.method, essence], sort_keys=True, default=str), []).append(index)
    firsts = [runs[indices[0]] for indices in members.values()]
    labels: dict[int, str] = {}
    for method in {run.method for run in firsts}:
        rivals = [run for run in firsts if run.method == method]
        keys = [setting.key for setting in _settings([run.config for run in rivals]) if setting.differs]
        named = experiment_labels(rivals, [key for key in keys if _matters(key)])
        labels |= {id(run): label for run, label in zip(rivals, named, strict=True)}
    return [
        Arm(labels[id(first)], first.method, sorted(indices, key=lambda index: (runs[index].seed or 0, index)))
        for first, indices in zip(firsts, members.values(), strict=True)
    ]


class Configured(Protocol):
    """A folder with a configuration and the record of where it was used."""

    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def environment(self) -> Mapping[str, Any]: ...


def settings(runs: Sequence[Configured]) -> list[Setting]:
    """Return all keys of all folders, in the order of the files."""
    return _settings([{**run.config} | flatten(dict(run.environment), "environment.") for run in runs])


def _settings(facts: Sequence[Mapping[str, Any]]) -> list[Setting]:
    keys = dict.fromkeys(key for each in facts for key in each)
    return [Setting(key, [shown(each, key) for each in facts]) for key in keys]


def _matters(key: str) -> bool:
    return key not in INCIDENTAL and not key.startswith("logging.")
