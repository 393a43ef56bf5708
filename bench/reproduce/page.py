"""Writer of a reproduction's page from its JSON, from page.md, and from the hypotheses and background of its regime.

Only the reading of the figures is written by hand. It stays in the page as long as the figures do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template

from bench.experiments.page import interval, reading, scale_of, spread, table
from bench.experiments.plan import BASE, CONFIGS
from bench.reproduce.claims import SOME_K, Claim, claims, corrected, judge, same_cost
from bench.reproduce.plan import METHODS, RLVR, SFT, Reproduction
from bench.reproduce.results import GAP, KEPT, TRAIN, WRITTEN, Results, Side
from fastsvs.config import TrainJob, load

HERE = Path(__file__).parent
LEVEL = 0.05
TITLES = {
    "a": ("The papers' claims at the scale of a laptop", "reproduce-tiny"),
    "b": ("The papers' claims from a base with headroom", "reproduce-headroom"),
}
"""Titles of the pages, and the targets of `make` that write them, by the names of the regimes."""


def render(plan: Reproduction, results: Results, source: str, pictures: Sequence[str], earlier: str) -> str:
    """Return the page. A reading in the one before is kept when it belongs to the same `source`, the JSON file."""
    title, target = TITLES[plan.regime.name]
    return Template(_text("page")).substitute(
        _regime(plan),
        status=_status(plan),
        methods=len(plan.steps),
        samples=plan.samples,
        compared=plan.compared,
        source=source,
        light=pictures[0],
        dark=pictures[1],
        title=title,
        target=target,
        base=plan.regime.base.name,
        hypotheses=_text(f"hypotheses_{plan.regime.name}"),
        pilot=_pilot(results),
        verdicts=_verdicts(plan, results),
        endings=_endings(plan, results),
        cost=_cost(plan, results),
        memorised=_memorised(plan, results),
        written=_written(plan, results),
        reading=reading(source, earlier),
        background=Template(_text(f"background_{plan.regime.name}")).substitute(gates=_gates(plan, results)),
    )


def _gates(plan: Reproduction, results: Results) -> str:
    """Return the table of what the base had to be before anything was trained from it; "" where nothing was asked."""
    bounds, found = plan.regime.base.bounds, results.gates()
    cells = [[name, str(bound), f"{100 * found[name]:.1f}%"] for name, bound in bounds.items()]
    return table(["", "asked", "found"], cells) if cells else ""


def _text(name: str) -> str:
    return (HERE / f"{name}.md").read_text(encoding="utf-8").strip()


def _status(plan: Reproduction) -> str:
    done, missing = ", ".join(map(str, plan.seeds)), [method for method in METHODS if method not in plan.steps]
    without = f" Not run here, though hypotheses name them: {', '.join(missing)}." if missing else ""
    if not _partial(plan):
        return f"Seeds {done}.{without}"
    have = f"of {plan.planned_seeds} planned seeds this page holds those numbered {done}"
    return f"**Partial**: {have}; the same command goes on.{without}"


def _partial(plan: Reproduction) -> bool:
    return len(plan.seeds) < plan.planned_seeds


def _pilot(results: Results) -> str:
    """Return the table of the learning rates that were tried."""
    pilot = results.pilot()
    if not pilot:
        return "Nothing was tried."
    steps = list(next(iter(pilot.values())))
    rows = [[rate, *(f"{100 * scores[step]:.1f}" for step in steps)] for rate, scores in pilot.items()]
    return table(["learning rate", *(f"step {step}" for step in steps)], rows)


def _verdicts(plan: Reproduction, results: Results) -> str:
    """Return the table of the verdicts, or before all seeds are there that of the differences so far."""
    stated, head = claims(plan, results), ["", "difference in", "of", "to", "expected"]
    if _partial(plan):
        cells = [[*_case(claim), _difference(claim, results)] for claim in stated]
        note = "Verdicts, intervals and Holm's correction wait for all seeds."
        return f"{table([*head, 'so far'], cells)}\n\n{note}"
    corrections = corrected(stated, results)
    cells = [[*_case(claim), *_verdict(claim, results, p)] for claim, p in zip(stated, corrections, strict=True)]
    return table([*head, "found", "after Holm"], cells)


def _case(claim: Claim) -> list[str]:
    return [str(claim.number), claim.metric, str(claim.left), str(claim.right), claim.expected]


def _difference(claim: Claim, results: Results) -> str:
    scale, digits = scale_of(claim.metric)
    return f"{scale * results.difference(claim.left, claim.right, claim.metric).value:+.{digits}f}"


def _verdict(claim: Claim, results: Results, chance: float) -> list[str]:
    found = results.difference(claim.left, claim.right, claim.metric)
    survives = f"{'stands' if chance < LEVEL else 'open'}, p = {chance:.3f}"
    return [f"**{judge(claim.expected, found)}**: {interval(found, claim.metric)}", survives]


def _endings(plan: Reproduction, results: Results) -> str:
    """Return the table of the base, every method at the step compared, RLVR at the cost of self-play and at its end,
    and every method at its best."""
    names = [f"pass@{k}" for k in plan.ks if k in (1, 8, SOME_K, plan.samples)]
    sides = [Side(BASE, 0), *(Side(method, plan.compared) for method in plan.steps)]
    sides += [same_cost(results, Side(method, plan.compared)) for method in plan.self_play]
    sides += [Side(RLVR, plan.steps[RLVR]), *(Side(method, None) for method in plan.steps)]
    rows = []
    for side in dict.fromkeys(sides):
        cells = [spread(results.values(side, name), *scale_of(name)) for name in (*names, "entropy")]
        responses = "" if side.method == BASE else f"{results.mean(side, 'responses'):,.0f}"
        steps = ", ".join(f"{step:.0f}" for step in results.values(side, "steps")) if side.step is None else ""
        rows.append([str(side), *cells, responses, steps])
    return table(["", *(f"{name}, %" for name in names), "entropy, nats/token", "responses", "chosen steps"], rows)


def _cost(plan: Reproduction, results: Results) -> str:
    if results.notes:
        return f"No seconds are quoted: {'; '.join(results.notes)}."
    each = (
        f"{method} {results.mean(Side(method, last), 'seconds'):.0f} s for {last}"
        for method, last in plan.steps.items()
    )
    return f"Training steps took, with one thread: {', '.join(each)}."


def _memorised(plan: Reproduction, results: Results) -> str:
    rows = []
    for method in plan.steps:
        last = max(results.curve(method, TRAIN))
        for step in dict.fromkeys((plan.compared, last)):
            side = Side(method, step)
            cells = [spread(results.values(side, name), 100, 1) for name in (TRAIN, "pass@1", GAP)]
            kept = "" if method == SFT else f"{100 * results.mean(side, KEPT):.0f}"
            rows.append([str(side), *cells, kept])
    return table(
        ["", "training problems, %", "held-out, %", "difference", f"{KEPT} since the checkpoint before, %"], rows
    )


def _written(plan: Reproduction, results: Results) -> str:
    rows = []
    for method in plan.self_play:
        for step in results.curve(method, WRITTEN["right"]):
            found = (results.curve(method, name).get(step) for name in WRITTEN.values())
            rows.append([str(Side(method, step)), *(spread(values, 100, 0) if values else "" for values in found)])
    return table(["up to", *(f"{name}, %" for name in WRITTEN.values())], rows)


def _regime(plan: Reproduction) -> dict[str, object]:
    """Return the sizes of the regime, read from the configuration itself."""
    svs = load(TrainJob, CONFIGS / "svs.yaml")
    return {
        "problems": plan.regime.problems,
        "prompts": svs.run.prompts_per_step,
        "responses": svs.rollout.samples_per_prompt,
        "variants": svs.selfplay.variants_per_context,
        "solutions": svs.selfplay.samples_per_variant,
        "epochs": f"{plan.compared * svs.run.prompts_per_step / plan.regime.problems:.0f}",
        "longest": plan.steps[RLVR],
    }
