"""Definition of what is measured: shapes of real models, operators, and the order in which time is spent on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Operator = Literal["logprob_entropy", "linear_logprob_entropy", "linear_policy_loss"]
Mode = Literal["forward", "backward", "both"]

CHECK_SECONDS = 80.0
"""Time limit of memcheck, the last of the checks after the cases; nine minutes leave 40 s for the others."""


@dataclass(frozen=True, slots=True)
class Shape:
    name: str
    hidden: int
    vocabulary: int
    """Number of vocabulary entries of one rank."""


@dataclass(frozen=True, slots=True)
class Case:
    operator: Operator
    shape: Shape
    tokens: int
    modes: tuple[Mode, ...]
    peers: bool = True
    """True when peers are measured beside ours, False for ours alone."""

    @property
    def name(self) -> str:
        return f"{self.operator}/{self.shape.name}/{self.tokens}"

    def flop(self, mode: Mode) -> float:
        """Return the FLOP of the matrix products that the work cannot do without.

        That is one product forward and two backward, which takes the gradient of logits that are there still. A
        backward that makes the logits again has three.
        """
        if self.operator == "logprob_entropy":
            return 0.0
        product = 2.0 * self.tokens * self.shape.hidden * self.shape.vocabulary
        products = {"forward": 1, "backward": BOTH - 1, "both": BOTH}
        return products[mode] * product

    def nbytes(self, mode: Mode, itemsize: int) -> float:
        """Return the bytes of logits read and written at least.

        Forward reads the logits; backward reads them and writes their gradient.
        """
        passes = {"forward": 1, "backward": 2, "both": 3}
        return passes[mode] * float(self.tokens) * self.shape.vocabulary * itemsize


@dataclass(frozen=True, slots=True)
class Suite:
    cases: tuple[Case, ...]
    needs_gpu: bool
    limit_seconds: float
    """Time limit of the cases in seconds since the start: one that is expected to end later is not started. On a GPU
    `CHECK_SECONDS` follow."""
    rounds: int
    """Number of timed calls of each provider in a case, in turn; fewer where they would take longer than
    `case_seconds`."""
    case_seconds: float


BOTH = 3
"""Number of matrix products forward and backward."""


def flop_of(logprobs: int = BOTH) -> str:
    """Return how FLOP are counted, where `logprobs` products are those of log-probs forward and backward."""
    return (
        "a product is 2 x tokens x hidden x vocabulary FLOP: forward 1, policy loss 3, forward + backward of log-probs "
        f"{logprobs}"
    )


BYTES = "logits are tokens x vocabulary x bytes of an element: forward reads them once, backward reads and writes once"

SMALL, MIDDLE, LARGE = Shape("3B", 2048, 151936), Shape("7B", 3584, 152064), Shape("32B", 5120, 152064)
SHARDS = tuple(Shape(f"32B-TP{ranks}", 5120, 152064 // ranks) for ranks in (2, 4, 8))
"""Share of the vocabulary of one rank, without the all-gather."""
ALL: tuple[Mode, ...] = ("forward", "backward", "both")

LOSS_MODES: tuple[Mode, ...] = ("both",)
LOGPROB_MODES: tuple[Mode, ...] = ("forward", "both")

H200 = (
    Case("linear_policy_loss", LARGE, 8192, LOSS_MODES),
    Case("linear_logprob_entropy", LARGE, 8192, ALL),
    Case("logprob_entropy", LARGE, 8192, ALL),
    *(Case("linear_policy_loss", shape, 8192, LOSS_MODES, peers=False) for shape in (*SHARDS, MIDDLE, SMALL)),
    *(Case("linear_logprob_entropy", shape, 8192, ALL, peers=False) for shape in (MIDDLE, SMALL)),
    Case("linear_policy_loss", LARGE, 32768, LOSS_MODES),
    *(Case("linear_policy_loss", shape, 2048, LOSS_MODES, peers=False) for shape in (LARGE, MIDDLE)),
    *(Case("linear_logprob_entropy", shape, 2048, LOGPROB_MODES, peers=False) for shape in (LARGE, MIDDLE, SMALL)),
    *(Case("linear_policy_loss", shape, 32768, LOSS_MODES, peers=False) for shape in (MIDDLE, SMALL)),
    *(Case("linear_logprob_entropy", shape, 32768, LOGPROB_MODES, peers=False) for shape in (LARGE, MIDDLE, SMALL)),
    *(
        Case("logprob_entropy", shape, tokens, ALL, peers=False)
        for shape, tokens in ((SMALL, 2048), (LARGE, 32768), (LARGE, 2048), (SMALL, 8192), (SMALL, 32768))
    ),
    Case("linear_policy_loss", SMALL, 2048, LOSS_MODES),
)
TINY = Shape("tiny", 32, 500)

SUITES = {
    "h200": Suite(H200, needs_gpu=True, limit_seconds=420, rounds=20, case_seconds=15),
    "smoke": Suite(
        (
            Case("linear_policy_loss", TINY, 64, ("both",)),
            Case("linear_logprob_entropy", TINY, 64, ALL),
            Case("logprob_entropy", TINY, 64, ALL),
        ),
        needs_gpu=False,
        limit_seconds=300,
        rounds=3,
        case_seconds=5,
    ),
}
