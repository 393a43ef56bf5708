"""Tokens of a share of a step's responses, with what engine and policy say of each: samples/step_N.tokens.jsonl.

Families are chosen whole, by the problem that they begin with.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastsvs import distributed
from fastsvs.config import TrainJob
from fastsvs.data import Problem
from fastsvs.policy import TokenWatch
from fastsvs.selfplay import Experience, Group
from fastsvs.token_rows import is_chosen, token_row
from fastsvs.training.session import Session


def watched(job: TrainJob, groups: Sequence[Group]) -> set[str]:
    """Return the keys of those of a step's groups whose tokens are kept. `groups` has families whole."""
    first: dict[str, Problem] = {}
    for group in sorted(groups, key=lambda group: group.task.key):
        first.setdefault(group.task.family, group.task.problem)
    share, seed = job.logging.token_share, job.run.seed
    families = {family for family, problem in first.items() if is_chosen(problem, share, seed)}
    return {group.task.key for group in groups if group.task.family in families}


def record(session: Session, step: int, experience: Experience | None, watch: TokenWatch) -> None:
    """Write the tokens of a step, counted from 1. Collective; the main rank writes, and has the experience where there
    is any."""
    seen = watch.gathered()
    if not distributed.is_main():
        return
    groups = [] if experience is None else [*experience.groups, *experience.discarded]
    keys = watched(session.job, groups)
    decode = session.inputs.tokenizer.decode
    rows = [{"step": step, **token_row(group, decode, seen)} for group in groups if group.task.key in keys]
    session.folder.write_tokens(step, rows)
