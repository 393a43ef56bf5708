"""Results of each problem when it was last asked."""

from __future__ import annotations

from fractions import Fraction

from fastsvs.selfplay.types import ORIGINAL, Experience, Group


def originals(experience: Experience) -> list[Group]:
    """Return the groups of the data set's own problems, whether they are learned from or not, sorted by key."""
    groups = [group for group in (*experience.groups, *experience.discarded) if group.task.kind == ORIGINAL]
    return sorted(groups, key=lambda group: group.task.key)


class History:
    """Numbers (correct, verified) by problem id, of the last step that asked the problem.

    Older steps say little about the policy as it is now. A problem that came twice in a step counts once, with the
    sums.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, int]] = {}

    def take(self, experience: Experience) -> None:
        step: dict[str, tuple[int, int]] = {}
        for group in originals(experience):
            correct, verified = step.get(group.task.problem.id, (0, 0))
            step[group.task.problem.id] = correct + group.correct, verified + group.verified
        self._last |= step

    def failure_rate(self, problem: str) -> Fraction:
        """Return (wrong + 1) / (verified + 2): 1/2 for a problem that was not asked, and never 0 or 1."""
        correct, verified = self._last.get(problem, (0, 0))
        return Fraction(verified - correct + 1, verified + 2)

    def failed(self, problem: str) -> bool:
        """Return whether the problem was answered, and never correctly."""
        correct, verified = self._last.get(problem, (0, 0))
        return verified > 0 and correct == 0

    def state_dict(self) -> dict[str, list[int]]:
        return {problem: list(counts) for problem, counts in self._last.items()}

    def load_state_dict(self, state: dict[str, list[int]]) -> None:
        self._last = {problem: (correct, verified) for problem, (correct, verified) in state.items()}
