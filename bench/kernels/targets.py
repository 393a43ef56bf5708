"""What was promised for an H200, held against what was measured."""

from __future__ import annotations

from collections.abc import Iterable

from bench.report import Row

COPY_SHARE = 90.0
"""Per cent of the copy bandwidth, from logits."""
PRODUCT_SHARE = 85.0
"""Per cent of the three-product floor, policy loss at 32B and 8,192 tokens."""
FORWARD_SHARE = 100 / 1.1
"""Log-probs within 10% of one product."""
SPEEDUP = 1.15
"""Over the best peer's policy loss there, at no more memory."""
LOSS = "linear_policy_loss/32B/8192"
OURS = "fastsvs"
SAME_WORK = ("torch eager", "torch.compile", "Liger scaled CE", "verl")
"""Peers that compute the whole of it: log-probs, entropy, policy loss, both gradients."""


def verdicts(rows: Iterable[Row]) -> list[Row]:
    """One row a target, printed with PASS or BELOW; none where it was not measured."""
    found = {(row.case, row.provider, row.metric): row for row in rows}
    results = []

    def share(case: str, mode: str, target: float) -> None:
        row = found.get((case, OURS, f"{mode}, median"))
        if row and row.limit:
            of_floor = 100 * row.limit / row.value
            results.append(Row("targets", OURS, f"{case}, {mode}: of the floor", of_floor, "%", target))

    share("logprob_entropy/32B/8192", "forward", COPY_SHARE)
    share("logprob_entropy/32B/8192", "backward", COPY_SHARE)
    share(LOSS, "both", PRODUCT_SHARE)
    share("linear_logprob_entropy/32B/8192", "forward", FORWARD_SHARE)
    peers = [found[key] for name in SAME_WORK if (key := (LOSS, name, "both, median")) in found]
    ours = found.get((LOSS, OURS, "both, median"))
    if ours and peers:
        best = min(peers, key=lambda row: row.value)
        theirs, own = (found[LOSS, name, "peak memory"].value for name in (best.provider, OURS))
        speed = f"{LOSS}: speed over {best.provider}"
        results.append(Row("targets", OURS, speed, best.value / ours.value, "x", SPEEDUP))
        results.append(Row("targets", OURS, f"{LOSS}: memory of {best.provider} over ours", theirs / own, "x", 1.0))
    for row in results:
        verdict = "PASS " if row.limit is not None and row.value >= row.limit else "BELOW"
        print(f"{verdict} {row.metric}: {row.value:.3g} {row.unit} (target {row.limit:.3g})")
    return results
