"""A run folder: the name of every file in it, and what the files hold.

Whoever writes or reads a run takes the names from `RunLayout`. `StoredRun` reads a run that is done, that was killed or
that goes on; what is not there yet is empty. Nothing here loads torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastsvs.errors import UserError
from fastsvs.files import iterate_jsonl, read_jsonl, read_mapping
from fastsvs.shipped import missing

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunLayout:
    """The places of a run's files. They need not be there."""

    root: Path

    @property
    def config(self) -> Path:
        """Return the resolved configuration."""
        return self.root / "config.yaml"

    @property
    def environment(self) -> Path:
        """Return the record of machine, versions, commit and command."""
        return self.root / "environment.json"

    @property
    def plan(self) -> Path:
        """Return what the run was planned to take of the machines that it began on."""
        return self.root / "plan.json"

    @property
    def inputs(self) -> Path:
        """Return the digests of what the run reads."""
        return self.root / "inputs.json"

    @property
    def metrics(self) -> Path:
        """Return the metrics, one object a step."""
        return self.root / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Return the summary, which is written when the run is done."""
        return self.root / "summary.json"

    @property
    def curves(self) -> Path:
        """Return the picture of the run for light pages."""
        return self.root / "curves.png"

    @property
    def curves_dark(self) -> Path:
        """Return the picture of the run for dark pages."""
        return self.root / "curves-dark.png"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of the checkpoints."""
        return self.root / "checkpoints"

    @property
    def logs(self) -> Path:
        """Return the folder of what the ranks printed: `attempt_K/rank_R.log`."""
        return self.root / "logs"

    @property
    def servers(self) -> Path:
        """Return the folder of what rollout servers leave, such as their logs."""
        return self.root / "servers"

    @property
    def dynamics(self) -> Path:
        """Return the result of `fastsvs analyze RUN`."""
        return self.root / "dynamics.json"

    @property
    def saturation(self) -> Path:
        """Return the result of `fastsvs analyze RUN --fit`."""
        return self.root / "saturation.json"

    @property
    def report(self) -> Path:
        """Return the page of `fastsvs report RUN`."""
        return self.root / "report.html"

    @property
    def all_samples(self) -> Path:
        """Return the folder of the samples of all steps."""
        return self.root / "samples"

    @property
    def all_evaluations(self) -> Path:
        """Return the folder of all evaluations."""
        return self.root / "evaluations"

    def samples(self, step: int) -> Path:
        """Return what the policy read and wrote in a step, one object a group."""
        return self.all_samples / f"step_{step}.jsonl"

    def tokens(self, step: int) -> Path:
        """Return the tokens of a share of a step's groups, one object a group."""
        return self.all_samples / f"step_{step}.tokens.jsonl"

    def evaluation(self, step: int) -> Path:
        """Return the held-out figures after a step."""
        return self.all_evaluations / f"step_{step}.json"

    def evaluation_samples(self, step: int) -> Path:
        """Return the answers of the evaluation after a step, one object a problem."""
        return self.all_evaluations / f"step_{step}.samples.jsonl"

    def evaluation_tokens(self, step: int) -> Path:
        """Return the tokens of the answers to a share of the problems of the evaluation after a step."""
        return self.all_evaluations / f"step_{step}.tokens.jsonl"

    def checkpoint(self, step: int) -> Path:
        """Return the folder of the checkpoint after a step."""
        return self.checkpoints / checkpoint_name(step)

    def round(self, number: int) -> Path:
        """Return the folder of a round of `fastsvs self`, counted from 1."""
        return self.root / f"round_{number}"


@dataclass(frozen=True, slots=True)
class StoredRun:
    """The contents of a run folder. Every method reads the files anew, and raises UserError for one that is damaged."""

    root: Path

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.root)

    def config(self) -> Row:
        """Return the resolved configuration as nested mappings."""
        return read_mapping(self.layout.config)

    def environment(self) -> Row:
        """Return the record of machine, versions, commit and command."""
        return read_mapping(self.layout.environment)

    def metrics(self) -> list[Row]:
        """Return the rows of metrics.jsonl in the order of the file."""
        return read_jsonl(self.layout.metrics)

    def table(self) -> DataFrame:
        """Return the metrics as a pandas table, with one row a step and the steps as its index. Raises ImportError
        without pandas."""
        from pandas import DataFrame

        rows = self.metrics()
        return DataFrame(rows).set_index("step") if rows else DataFrame()

    def summary(self) -> Row:
        """Return the summary; empty while the run is not done."""
        return read_mapping(self.layout.summary)

    def sample_files(self) -> dict[int, Path]:
        """Return the files of samples by step, in order."""
        return _by_step(self.layout.all_samples, r"step_(\d+)\.jsonl")

    def samples(self, step: int) -> Iterator[Row]:
        """Yield the groups of a step."""
        return iterate_jsonl(self.layout.samples(step))

    def token_files(self) -> dict[int, Path]:
        """Return the files of tokens by step, in order; steps that kept none have no file."""
        return _by_step(self.layout.all_samples, r"step_(\d+)\.tokens\.jsonl")

    def tokens(self, step: int) -> Iterator[Row]:
        """Yield those groups of a step whose tokens were kept: the prompt as it was rendered, and of each response the
        texts of its tokens with the log-probs of the engine, and with log-probs and entropies of the policy where it
        was learned from."""
        return iterate_jsonl(self.layout.tokens(step))

    def evaluation_files(self) -> dict[int, Path]:
        """Return the files of held-out figures by step, in order."""
        return _by_step(self.layout.all_evaluations, r"step_(\d+)\.json")

    def evaluations(self) -> dict[int, Row]:
        """Return the held-out figures by step, in order."""
        return {step: read_mapping(file) for step, file in self.evaluation_files().items()}

    def evaluation_sample_files(self) -> dict[int, Path]:
        """Return the files of the evaluations' answers by step, in order."""
        return _by_step(self.layout.all_evaluations, r"step_(\d+)\.samples\.jsonl")

    def evaluation_samples(self, step: int) -> Iterator[Row]:
        """Yield the problems of the evaluation after a step, with their answers."""
        return iterate_jsonl(self.layout.evaluation_samples(step))

    def evaluation_token_files(self) -> dict[int, Path]:
        """Return the files of the tokens of the evaluations' answers by step, in order."""
        return _by_step(self.layout.all_evaluations, r"step_(\d+)\.tokens\.jsonl")

    def evaluation_tokens(self, step: int) -> Iterator[Row]:
        """Yield those problems of the evaluation after a step whose tokens were kept, as `tokens` does the groups of a
        step; they have no figures of the policy."""
        return iterate_jsonl(self.layout.evaluation_tokens(step))

    def checkpoints(self) -> dict[int, Path]:
        """Return the checkpoints by step, in order."""
        return checkpoints_in(self.layout.checkpoints)

    def records(self) -> list[Path]:
        """Return the files that say how the run went, as far as they are there: configuration, environment, metrics,
        summary, held-out figures and answers, samples, and the tokens of both."""
        layout = self.layout
        single = (layout.config, layout.environment, layout.metrics, layout.summary)
        held_out = (self.evaluation_files(), self.evaluation_sample_files(), self.evaluation_token_files())
        by_step = (*held_out, self.sample_files(), self.token_files())
        return [*(file for file in single if file.is_file()), *(file for files in by_step for file in files.values())]


def open_run(path: Path) -> StoredRun:
    """Return the run in a folder. Raises UserError for a folder that holds no run."""
    if not path.exists():
        raise UserError(f"{missing(path)}: name a run folder")
    if not is_run(path):
        raise UserError(f"{path} is no run folder: it has neither config.yaml nor metrics.jsonl")
    return StoredRun(path)


def is_run(path: Path) -> bool:
    """Return whether a folder holds a run, one that has only begun included."""
    layout = RunLayout(path)
    return layout.config.is_file() or layout.metrics.is_file()


def run_around(path: Path) -> Path | None:
    """Return the run that `path` is, or whose checkpoints or checkpoint it is; None for a path of no run."""
    if is_run(path):
        return path
    inner = (path, path.parent)
    return next((run for run in path.parents[:2] if RunLayout(run).checkpoints in inner and is_run(run)), None)


def checkpoint_name(step: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"step_{step:08d}"


def checkpoint_step(path: Path) -> int:
    """Return the step of a checkpoint, which its folder's name tells."""
    return int(path.name.removeprefix("step_"))


def checkpoints_in(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in a folder by step, in order. Drafts and what is about to be removed are none."""
    return _by_step(folder, r"step_(\d{8,})")


def run_of(checkpoint: Path) -> Path:
    """Return the folder of the run that a checkpoint belongs to."""
    return checkpoint.parent.parent


def _by_step(folder: Path, name: str) -> dict[int, Path]:
    """Return the entries of a folder whose names match, by the number in the name's group."""
    try:
        entries = list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror or error}") from error
    found = {int(match[1]): path for path in entries if (match := re.fullmatch(name, path.name))}
    return dict(sorted(found.items()))
