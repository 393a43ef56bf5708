"""What is known of a problem's solve rate, as a Beta distribution, and what it says of answers that were not asked
yet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SolveRate:
    """Beta distribution of the probability that a response to a problem is right; Jeffreys' prior before any answer."""

    right: float = 0.5
    """First parameter of the distribution; it grows by 1 with each right answer."""
    wrong: float = 0.5
    """Second parameter of the distribution; it grows by 1 with each wrong answer."""

    def after(self, right: float, wrong: float) -> SolveRate:
        """Return the distribution after so many right and wrong answers more."""
        return SolveRate(self.right + right, self.wrong + wrong)

    def chances(self, answers: int) -> list[float]:
        """Return the probabilities that 0, 1, ... of so many further answers are right, [answers + 1]
        (beta-binomial)."""
        none = 1.0
        for index in range(answers):
            none *= (self.wrong + index) / (self.right + self.wrong + index)
        chances = [none]
        for count in range(answers):
            odds = (self.right + count) / (self.wrong + answers - count - 1)
            chances.append(chances[-1] * odds * (answers - count) / (count + 1))
        return chances

    def chance_to_differ(self, right: int, wrong: int, more: int) -> float:
        """Return the probability that so many right and wrong answers and `more` after them are not all alike."""
        chances = self.after(right, wrong).chances(more)
        alike = {count for count, others in ((0, right), (more, wrong)) if not others}
        return 1.0 - sum(chances[count] for count in alike)
