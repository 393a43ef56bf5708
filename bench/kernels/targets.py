"""Comparison of the targets for an H200 with what was measured."""

from __future__ import annotations

from collections.abc import Iterable

from bench.kernels.providers import complete_providers
from bench.kernels.providers.fastsvs import PART
from bench.kernels.suites import LARGE
from bench.report import Row

COPY_SHARE = 90.0
"""Share of the copy bandwidth to reach from logits, in percent."""
PRODUCT_SHARE = 85.0
"""Share of the three-product floor to reach with the policy loss, in percent."""
FORWARD_SHARE = 100 / 1.1
"""Share of the floor to reach with log-probs, in percent: within 10% of one product."""
SPEEDUP = 1.15
"""Speed of the policy loss to reach over a peer's, at no more memory."""
MILLISECONDS = (
    ("linear_logprob_entropy", "fastsvs", 60.0),
    ("linear_policy_loss", "fastsvs", 58.3),
    ("linear_policy_loss", PART, 45.0),
)
"""Times to reach forward and backward: operator, whose, milliseconds. The middle one is what was measured before."""
TOKENS = 8192
OURS = "fastsvs"


def verdicts(rows: Iterable[Row]) -> list[Row]:
    """Return one row for each target, printed with PASS or BELOW, and none where it was not measured.

    The policy loss is compared with the fastest peer, and with the fastest of those that need no more memory.
    """
    found = {(row.case, row.provider, row.metric): row for row in rows}
    loss, forward, from_logits = (
        f"{operator}/{LARGE.name}/{TOKENS}"
        for operator in ("linear_policy_loss", "linear_logprob_entropy", "logprob_entropy")
    )
    results = []
    for case, mode, target in (
        (from_logits, "forward", COPY_SHARE),
        (from_logits, "backward", COPY_SHARE),
        (forward, "forward", FORWARD_SHARE),
        (loss, "both", PRODUCT_SHARE),
    ):
        row = found.get((case, OURS, f"{mode}, median"))
        if row and row.limit:
            of_floor = 100 * row.limit / row.value
            results.append(Row("targets", OURS, f"{case}, {mode}: of the floor", of_floor, "%", target))

    for operator, whose, most in MILLISECONDS:
        name = f"{operator}/{LARGE.name}/{TOKENS}"
        if row := found.get((name, whose, "both, median")):
            results.append(Row("targets", whose, f"{name}: {most:g} ms over ours", most / row.value, "x", 1.0))

    peers = [found[key] for name in complete_peers() if (key := (loss, name, "both, median")) in found]
    for (case, name, metric), ours in found.items():
        if case == loss and name.startswith(OURS) and name != PART and metric == "both, median":
            memory = {row.provider: found[loss, row.provider, "peak memory"].value for row in (ours, *peers)}
            lean = [row for row in peers if memory[row.provider] <= memory[name]]
            for best in dict.fromkeys(min(some, key=lambda row: row.value) for some in (peers, lean) if some):
                speed, space = f"speed over {best.provider}", f"memory of {best.provider} over ours"
                results.append(Row("targets", name, f"{loss}: {speed}", best.value / ours.value, "x", SPEEDUP))
                results.append(Row("targets", name, f"{loss}: {space}", memory[best.provider] / memory[name], "x", 1.0))
    for row in results:
        assert row.limit is not None
        verdict = "PASS " if row.value >= row.limit else "BELOW"
        print(f"{verdict} {row.provider:<31}{row.metric}: {row.value:.3g} {row.unit} (target {row.limit:.3g})")
    return results


def complete_peers() -> list[str]:
    """Return the peers that compute the whole of the policy loss: log-probs, entropy, loss, both gradients."""
    return [name for name in complete_providers("linear_policy_loss") if not name.startswith(OURS)]
