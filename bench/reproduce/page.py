"""Writer of docs/reproduction.md from the JSON of a reproduction and page.md, its text.

Only the reading of the figures is written by hand. It stays in the page as long as the figures do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

from bench.experiments.page import interval, reading, scale_of, spread, table
from bench.experiments.plan import BASE
from bench.reproduce.claims import Claim, claims, judge, same_cost
from bench.reproduce.plan import CONFIGS, METHODS, ON_POLICY, RLVR, SELF_PLAY, SVS, Reproduction
from bench.reproduce.results import VALID, WEIGHTS, Results, Side
from fastsvs.config import TrainJob, load

TEXT = Path(__file__).with_suffix(".md")


def render(plan: Reproduction, results: Results, source: str, pictures: Sequence[str], earlier: str) -> str:
    """Return the page. A reading in the one before is kept when it belongs to the same `source`, the JSON file."""
    matched = (f"for {self_play}, step {same_cost(plan, results, self_play).step}" for self_play in SELF_PLAY)
    return Template(TEXT.read_text(encoding="utf-8")).substitute(
        _regime(plan),
        seeds=", ".join(map(str, plan.seeds)),
        samples=plan.samples,
        compared=plan.compared,
        longest=plan.steps[RLVR],
        source=source,
        light=pictures[0],
        dark=pictures[1],
        endings=_endings(plan, results),
        cost=_cost(plan, results),
        verdicts=_verdicts(plan, results),
        matched="; ".join(matched),
        weights=_weights(plan, results),
        written=" ".join(_written(results)),
        reading=reading(source, earlier),
    )


def _endings(plan: Reproduction, results: Results) -> str:
    """Return the table of the base, every method at the step compared, RLVR at the cost of SvS, and RLVR at its end."""
    names = [f"pass@{k}" for k in plan.ks if k in (1, 8, 32, plan.samples)]
    sides = [Side(BASE, 0), *(Side(method, plan.compared) for method in METHODS)]
    sides += [same_cost(plan, results, self_play) for self_play in SELF_PLAY]
    rows = []
    for side in dict.fromkeys((*sides, Side(RLVR, plan.steps[RLVR]))):
        values = {name: results.curve(side.method, name)[side.step] for name in (*names, "entropy")}
        cells = [spread(each, *scale_of(name)) for name, each in values.items()]
        responses = "" if side.method == BASE else f"{results.mean(side, 'responses'):,.0f}"
        rows.append([str(side), *cells, responses])
    return table(["", *(f"{name}, %" for name in names), "entropy, nats/token", "responses"], rows)


def _cost(plan: Reproduction, results: Results) -> str:
    if results.notes:
        return f"No seconds are quoted: {'; '.join(results.notes)}."
    each = (
        f"{method} {results.mean(Side(method, last), 'seconds'):.0f} s for {last}"
        for method, last in ((method, plan.steps[method]) for method in METHODS)
    )
    return f"Training steps took, with one thread: {', '.join(each)}."


def _verdicts(plan: Reproduction, results: Results) -> str:
    rows = []
    for claim, on_policy in zip(claims(plan, results, SVS), claims(plan, results, ON_POLICY), strict=True):
        other = "" if on_policy == claim else _verdict(results, on_policy)
        rows.append([claim.text, claim.source, claim.metric, _verdict(results, claim), other])
    return table(["claim", "of", "difference in", "here", f"here, with {ON_POLICY}"], rows)


def _verdict(results: Results, claim: Claim) -> str:
    found = results.difference(claim.left, claim.right, claim.metric)
    return f"**{judge(claim.expected, found)}**: {interval(found, claim.metric)}"


def _weights(plan: Reproduction, results: Results) -> str:
    rows = []
    for method in METHODS:
        cells = (results.curve(method, name)[plan.compared] for name in WEIGHTS)
        rows.append([f"{method} at step {plan.compared}", *(spread(each, 100, 2) for each in cells)])
    return table(["weights", *WEIGHTS.values()], rows)


def _written(results: Results) -> Iterable[str]:
    for method in SELF_PLAY:
        valid = results.curve(method, VALID)
        steps = [0, *valid]
        if valid:
            early, late = (spread(valid[step], 100, 1) for step in (steps[1], steps[-1]))
            yield f"{method}: {early}% up to step {steps[1]}, {late}% after step {steps[-2]}."


def _regime(plan: Reproduction) -> dict[str, object]:
    """Return the sizes of the regime, read from the configuration itself."""
    svs = load(TrainJob, CONFIGS / "svs.yaml")
    return {
        "problems": svs.data.limit,
        "prompts": svs.run.prompts_per_step,
        "responses": svs.rollout.samples_per_prompt,
        "rate": f"{svs.policy.optimizer.learning_rate:g}",
        "variants": svs.selfplay.variants_per_context,
        "solutions": svs.selfplay.samples_per_variant,
        "epochs": f"{plan.compared * svs.run.prompts_per_step / (svs.data.limit or 1):.1f}",
    }
