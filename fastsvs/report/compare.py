"""Comparison of runs: which are one experiment at several seeds, and where their configurations differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fastsvs.report.folder import RunFiles, flatten

INCIDENTAL = {
    *("run.seed", "run.dir", "run.save_every", "run.save_minutes", "run.keep_checkpoints", "run.timeout_seconds"),
    "export",
}
"""Keys that do not make another experiment. Keys under `logging.` do not either."""
SHOWN_KEYS = 2
"""Number of differing keys that the labels of one method's experiments show."""


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
    methods = [runs[indices[0]].method for indices in members.values()]
    made = []
    for method, indices in zip(methods, members.values(), strict=True):
        rivals = [runs[others[0]] for others in members.values() if runs[others[0]].method == method]
        label = method if len(rivals) == 1 else _told_apart(runs[indices[0]], rivals)
        made.append(Arm(label, method, sorted(indices, key=lambda index: (runs[index].seed or 0, index))))
    return made


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
    return [Setting(key, [_shown(each, key) for each in facts]) for key in keys]


def _matters(key: str) -> bool:
    return key not in INCIDENTAL and not key.startswith("logging.")


def _told_apart(run: RunFiles, rivals: Sequence[RunFiles]) -> str:
    differing = [
        setting.key
        for setting in _settings([rival.config for rival in rivals])
        if setting.differs and _matters(setting.key)
    ]
    facts = [f"{key.rpartition('.')[2]} {_shown(run.config, key)}" for key in differing[:SHOWN_KEYS]]
    return f"{run.method}, {', '.join(facts)}" if facts else f"{run.method}, {run.path.name}"


def _shown(config: Mapping[str, Any], key: str) -> str | None:
    """Return the key's value as YAML would write it on one line, or None when it is absent."""
    if key not in config:
        return None
    value = config[key]
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)
