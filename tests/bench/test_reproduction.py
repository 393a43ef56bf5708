"""What the reproduction's page says, on made-up runs whose figures are known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest
from finished_experiment import run_small_twice, write_evaluation
from whole_runs import ROOT

from bench.experiments.main import only
from bench.experiments.page import UNREAD
from bench.experiments.plan import BASE, CONFIGS, Evaluated
from bench.experiments.results import point_rows
from bench.experiments.statistics import Difference
from bench.report import Row, read, write
from bench.reproduce import page
from bench.reproduce.claims import claims, judge, same_cost
from bench.reproduce.figure import draw
from bench.reproduce.gates import HEADROOM, LUCKY, RIGHT, SOLVED, Bounds, GatedBase, GivenBase
from bench.reproduce.measure import measure
from bench.reproduce.plan import (
    AGAIN,
    ON_POLICY,
    PLANS,
    RLVR,
    SELF_PLAY,
    SFT,
    SVS,
    SVS_BUDGET,
    SVS_UNFILTERED,
    TRAIN,
    UNFILTERED,
    Reproduction,
)
from bench.reproduce.regimes import VALIDATION, Regime
from bench.reproduce.results import GAP, GATES, KEPT, WRITTEN, Results, Side
from fastsvs.config import EvalJob, SftJob, TrainJob, load
from fastsvs.data import tiny
from fastsvs.errors import UserError
from fastsvs.files import write_json, write_jsonl

REGIME = Regime("a", base=GivenBase(Path("models/tiny")), problems=4, rates=(1e-4, 2e-4), pilot_grid=(1, 2))
PLAN = Reproduction(
    suite="reproduce-test",
    seeds=(0, 1),
    steps={ON_POLICY: 2, SVS: 2, SVS_UNFILTERED: 2, SVS_BUDGET: 2, AGAIN: 2, RLVR: 4, UNFILTERED: 4, SFT: 2},
    samples=4,
    shrink={"train": (), "sft": (), "eval": ()},
    regime=REGIME,
    grid=(1, 2, 4),
    compared=2,
    planned_seeds=2,
)
CORRECT = {
    (BASE, 0): (1, 0),
    **{(method, 1): (2, 1) for method in (*SELF_PLAY, AGAIN, UNFILTERED)},
    (SVS, 2): (3, 2),
    **{(method, 2): (4, 1) for method in (ON_POLICY, SVS_UNFILTERED, SVS_BUDGET)},
    (AGAIN, 2): (3, 0),
    (RLVR, 1): (2, 0),
    (RLVR, 2): (3, 0),
    (RLVR, 4): (1, 0),
    (UNFILTERED, 2): (3, 1),
    (UNFILTERED, 4): (3, 1),
    (SFT, 1): (2, 2),
    (SFT, 2): (4, 3),
}
"""Of four samples to each of two held-out problems, at both seeds."""
ON_TRAIN = {SVS: (4, 2), ON_POLICY: (4, 2), RLVR: (4, 4)}
"""Of four samples to each of two training problems, at all steps and seeds; of the others (2, 2)."""
ON_VALIDATION = {1: 0.2, 2: 0.3, 4: 0.3}
"""pass@1 on the validation problems by step: the best is step 2, the first of two."""
ENTROPY = {BASE: 0.2, SVS: 0.15, ON_POLICY: 0.25, RLVR: 0.1, UNFILTERED: 0.15, AGAIN: 0.1, SFT: 0.05}
ENTROPY |= {SVS_UNFILTERED: 0.25, SVS_BUDGET: 0.25}
SAMPLED = {
    SVS: {"samples/original": 8, "samples/synthesis": 2, "samples/variant": 14, "kept_samples/variant": 6},
    ON_POLICY: {"samples/original": 8, "samples/synthesis": 1, "samples/variant": 3},
    SVS_UNFILTERED: {"samples/original": 8},
    SVS_BUDGET: {"samples/original": 8},
    AGAIN: {"samples/original": 8, "samples/repeat": 4},
    RLVR: {"samples/original": 8, "kept_samples/original": 4},
    UNFILTERED: {"samples/original": 8},
    SFT: {},
}
FIRST, SECOND = tiny.problems("tiny:train", 2)


def write_split(evaluated: Evaluated, name: str, rate: float) -> None:
    write_json(evaluated.figures(name), {"pass@1": {"mean": rate}})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs and evaluations, in files as `fastsvs` leaves them."""
    root = tmp_path_factory.mktemp("reproduce")
    pilot = REGIME._pilot(root)
    for run in pilot.runs(root / "pilot"):
        for each in pilot.of_run(run):
            write_split(each, VALIDATION, {"100": 0.4, "200": 0.1 * each.step}[each.method.split()[1][:3]])
    for each in PLAN.evaluations(root):
        write_evaluation(each, CORRECT[each.method, each.step], ENTROPY[each.method])
        write_evaluation(each, ON_TRAIN.get(each.method, (2, 2)), ENTROPY[each.method], TRAIN)
        write_split(each, VALIDATION, ON_VALIDATION.get(each.step, 0.0))
    for run in PLAN.runs(root):
        steps = range(1, run.steps + 1)
        write_jsonl(run.folder / "metrics.jsonl", [{"step": s, "time/step": 1.5} | SAMPLED[run.method] for s in steps])
        (run.folder / "config.yaml").write_text("run:\n  prompts_per_step: 3\n")
        for step in steps if run.method in SELF_PLAY else ():
            lines = step_of_self_play(right=step, wrong=1) if run.method == SVS else []
            write_jsonl(run.folder / "samples" / f"step_{step}.jsonl", lines)
    return root


def step_of_self_play(right: int, wrong: int) -> list[dict[str, object]]:
    """One problem with a sound context, whose variants are right and reword it, and a lucky one, whose are wrong."""
    asked = {"question": FIRST.question, "answer": FIRST.answer}
    responses = [FIRST.solution, f"1+1=2\n\\boxed{{{FIRST.answer}}}"]
    rows = [{"key": "0", "kind": "original", "parent": None, "responses": responses, **asked}]
    for context, (count, question) in enumerate([(right, FIRST.question), (wrong, SECOND.question)]):
        key = f"0/{context}"
        rows += [{"key": key, "kind": "synthesis", "parent": "0", "parent_sample": context, **asked}]
        told = {"question": question, "answer": FIRST.answer}
        rows += [{"key": f"{key}/{n}", "kind": "variant", "parent": key, **told} for n in range(count)]
    return rows


@pytest.fixture(scope="module")
def results(root: Path) -> Results:
    with chdir(ROOT):
        return measure(PLAN, root, note=None)


def render(results: Results, source: str = "x.json", earlier: str = "", plan: Reproduction = PLAN) -> str:
    with chdir(ROOT):
        return page.render(plan, results, source, ["light.png", "dark.png"], earlier)


def lines_of(section: str) -> list[list[str]]:
    return [re.split(r" *\| *", line)[1:-1] for line in section.splitlines() if line.startswith("|")]


def sections_of(text: str) -> dict[str, str]:
    return dict(re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize(
    ("interval", "higher", "lower"),
    [
        ((0.1, 0.3), "agrees", "does not agree"),
        ((-0.3, -0.1), "does not agree", "agrees"),
        ((-0.1, 0.3), "undecided", "undecided"),
        ((0.0, 0.0), "undecided", "undecided"),
        ((0.0, 0.2), "undecided", "undecided"),
        ((-0.2, 0.0), "undecided", "undecided"),
    ],
)
def test_a_claim_is_judged_by_its_interval(interval: Sequence[float], higher: str, lower: str) -> None:
    found = Difference(sum(interval) / 2, *interval)
    assert [judge("higher", found), judge("lower", found)] == [higher, lower]


def test_equal_cost_is_the_step_of_rlvr_with_the_nearest_number_of_responses() -> None:
    def at(cost: float) -> Side:
        costs = {(RLVR, 1): 100, (RLVR, 2): 200, (RLVR, 4): 400, (SVS, 2): cost}
        rows = [
            row
            for (method, step), value in costs.items()
            for seed in PLAN.seeds
            for row in point_rows(f"seed {seed}, step {step}", method, {"responses": value})
        ]
        return same_cost(Results(tuple(rows)), Side(SVS, 2))

    assert [at(310), at(290), at(9000)] == [Side(RLVR, 4), Side(RLVR, 2), Side(RLVR, 4)]


def test_the_learning_rate_is_that_with_the_best_checkpoint_on_validation_problems(root: Path) -> None:
    """The first stays at 0.4, the second reaches 0.2."""
    assert REGIME.pilot_scores(root) == {1e-4: {1: 0.4, 2: 0.4}, 2e-4: {1: 0.1, 2: 0.2}}
    assert REGIME.rate(root) == 1e-4
    assert replace(REGIME, rates=(2e-4,)).rate(root) == 2e-4


def test_every_run_has_the_learning_rate_that_the_pilot_chose_and_the_same_problems(root: Path) -> None:
    for run in PLAN.runs(root):
        _, config, *overrides = run.arguments()
        job = load(SftJob if run.method == SFT else TrainJob, ROOT / config, overrides)
        assert job.policy.optimizer.learning_rate == 1e-4
        assert (job.data.path, job.data.limit, str(job.model.path)) == ("tiny:train", 4, "models/tiny")
        assert job.run.steps == PLAN.steps[run.method]


def test_every_evaluated_step_has_a_checkpoint() -> None:
    for name in ("tiny", "quick"):
        plan = PLANS[name]
        every = load(TrainJob, ROOT / CONFIGS / "svs.yaml").run.save_every
        for run in plan.runs(Path("runs")):
            evaluated = plan.evaluated(run)
            assert {plan.compared, run.steps} <= set(evaluated)
            assert all(step % every == 0 for step in (*evaluated, *plan.regime.pilot_grid))


def test_nobody_chooses_by_held_out_problems() -> None:
    held_out, validation, train = (
        {read for each in tiny.problems(f"tiny:{name}", limit) if (read := tiny.read_problem(each.question))}
        for name, limit in (("heldout", 200), ("validation", None), ("train", PLANS["tiny"].regime.problems))
    )
    assert not validation & (held_out | train)
    assert not held_out & train
    pilot = REGIME._pilot(Path("runs"))
    assert set(pilot.sets) == set(load(EvalJob, ROOT / pilot.evaluation).sets) == {VALIDATION}


def test_methods_share_every_setting_that_they_can_share() -> None:
    def job(name: str) -> TrainJob:
        return load(TrainJob, ROOT / CONFIGS / f"{name}.yaml")

    svs, rlvr, on_policy = job("svs"), job("rlvr"), job("svs_on_policy")
    sft = load(SftJob, ROOT / CONFIGS / "sft.yaml")
    assert svs.algorithm.samples_per_update == svs.run.prompts_per_step * svs.rollout.samples_per_prompt
    assert on_policy == svs.model_copy(update={"algorithm": on_policy.algorithm})
    asked_again = on_policy.selfplay.model_copy(update={"stage": "upsampled"})
    assert job("asked_again") == on_policy.model_copy(update={"selfplay": asked_again})
    assert job("svs_unfiltered").algorithm == on_policy.algorithm.model_copy(update={"denominator": "all"})
    assert job("svs_unfiltered") == on_policy.model_copy(update={"algorithm": job("svs_unfiltered").algorithm})
    budget = on_policy.selfplay.model_copy(update={"budget": job("svs_budget").selfplay.budget})
    assert job("svs_budget") == on_policy.model_copy(update={"selfplay": budget})
    without_self_play = svs.selfplay.model_copy(update={"stage": "none"})
    assert rlvr == svs.model_copy(update={"selfplay": without_self_play, "run": rlvr.run})
    unfiltered = rlvr.algorithm.model_copy(update={"denominator": "all"})
    assert job("rlvr_unfiltered") == rlvr.model_copy(update={"algorithm": unfiltered})
    assert (sft.model, sft.policy) == (svs.model, svs.policy)
    assert (sft.data.path, sft.data.limit) == (svs.data.path, svs.data.limit)
    for other in (rlvr, sft):
        assert other.run.model_copy(update={"steps": svs.run.steps}) == svs.run
    splits = load(EvalJob, ROOT / PLAN.evaluation)
    assert splits.sets[TRAIN].data.limit == svs.data.limit == PLANS["tiny"].regime.problems


def test_figures_are_those_of_the_files(results: Results) -> None:
    assert results.curve(SVS, "pass@1") == {0: [0.125] * 2, 1: [0.375] * 2, 2: [0.625] * 2}
    assert results.curve(RLVR, "entropy") == {0: [0.2] * 2, 1: [0.1] * 2, 2: [0.1] * 2, 4: [0.1] * 2}
    assert results.curve(SVS, "responses") == {1: [24] * 2, 2: [48] * 2}
    assert results.curve(SFT, "responses") == {1: [3] * 2, 2: [6] * 2}
    assert results.curve(RLVR, "seconds")[4] == [6.0, 6.0]
    assert results.curve(SVS, KEPT) == {1: [0.25] * 2, 2: [0.25] * 2}
    assert results.curve(SVS, GAP)[2] == [0.125] * 2


def test_each_run_is_compared_at_its_own_best_checkpoint(results: Results) -> None:
    best = Side(RLVR, None)
    assert results.values(best, "steps") == [2, 2]
    assert results.values(best, "pass@1") == [0.375] * 2
    collapse = results.difference(Side(RLVR, 4), best, "pass@1")
    assert (collapse.value, collapse.low, collapse.high) == (-0.25, -0.5, 0.0)


def test_variants_are_told_apart_by_their_contexts(results: Results) -> None:
    """At step 1 one right and one wrong, at step 2 two right and one wrong; the questions are those of the data."""
    written = {name: results.curve(SVS, metric) for name, metric in WRITTEN.items()}
    assert written["right"] == {1: [1 / 2] * 2, 2: [2 / 3] * 2}
    assert written["sound"] == written["same"] == {1: [1 / 2] * 2, 2: [2 / 3] * 2}
    assert written["right, sound"] == {1: [1.0] * 2, 2: [1.0] * 2}
    assert written["right, lucky"] == {1: [0.0] * 2, 2: [0.0] * 2}
    assert written["other"] == written["new"] == {1: [0.0] * 2, 2: [0.0] * 2}


def test_differences_pair_the_problems_whatever_their_order_in_the_files(results: Results) -> None:
    """SvS solves 3 and 2 of 4, RLVR 3 and 0; on-policy 4 and 1, so half of all on each problem less than the base."""
    assert results.difference(Side(SVS, 2), Side(RLVR, 2), "pass@1") == Difference(0.25, 0.0, 0.5)


def test_what_is_memorised_is_compared_over_the_problems_of_both_sets(results: Results) -> None:
    """SvS solves 4 and 2 of 4 in training, RLVR 4 and 4. A draw takes the first or the second problem of each set twice
    with chance 1/16."""
    assert results.difference(Side(SVS, 2), Side(RLVR, 2), GAP) == Difference(-0.5, -1.0, 0.0)


def test_the_page_says_what_the_json_holds(results: Results, tmp_path: Path) -> None:
    published = Results(read(write(PLAN.suite, results.rows, tmp_path)))
    sections = sections_of(render(published))
    ends = {cells[0]: cells for cells in lines_of(sections["Where the methods end"])}
    assert ends["base"][1] == "12.5 (12.5 to 12.5)"
    assert ends["SvS at step 2"][-3:] == ["0.150 (0.150 to 0.150)", "48", ""]
    assert ends["RLVR at its best"][-2:] == ["16", "2, 2"]
    assert "RLVR 6 s for 4" in sections["Where the methods end"]
    [_, _, *found] = lines_of(sections["What was found"])
    assert len(found) == len(claims(PLAN, published)) > 20
    kept = ["3", "entropy", "SvS at step 2", "RLVR at step 2", "higher"]
    [verdict] = [cells for cells in found if cells[:5] == kept]
    assert verdict[5:] == ["**agrees**: +0.050 [+0.050, +0.050]", "stands, p = 0.007"]
    same = [cells for cells in found if cells[:4] == ["4", "pass@1", "SvS at step 2", "RLVR at step 4"]]
    assert len(same) == 1
    assert ["0.0001", "40.0", "40.0"] in lines_of(sections["The learning rate"])
    assert "Stated on 2026-11-27" in sections["What was stated beforehand"]


def test_a_page_of_fewer_seeds_than_were_planned_says_so_and_judges_nothing(results: Results) -> None:
    assert "**Partial**" not in render(results)
    partial = render(results, plan=replace(PLAN, planned_seeds=3))
    assert "**Partial**: of 3 planned seeds this page holds those numbered 0, 1" in partial
    found = sections_of(partial)["What was found"]
    assert ["3", "entropy", "SvS at step 2", "RLVR at step 2", "higher", "+0.050"] in lines_of(found)
    assert "agrees" not in found


def test_a_page_of_fewer_methods_names_the_others_and_claims_nothing_of_them(root: Path) -> None:
    plan = only(PLAN, None, [RLVR, ON_POLICY])
    assert list(plan.steps) == [ON_POLICY, RLVR]
    with chdir(ROOT):
        few = measure(plan, root, note=None)
    assert {claim.left.method for claim in claims(plan, few)} == {ON_POLICY, RLVR}
    missing = "SvS, SvS unfiltered, SvS budget, asked again, RLVR unfiltered, SFT"
    assert f"Not run here, though hypotheses name them: {missing}.\n" in render(few, plan=plan)


def test_methods_are_compared_with_rlvr() -> None:
    with pytest.raises(UserError, match="compares methods with 'RLVR', which has to be among them"):
        only(PLAN, None, [SVS])


def test_seconds_of_a_shared_machine_are_not_quoted(results: Results) -> None:
    shared = Results(
        tuple(replace(row, note="it was busy") if row.metric == "seconds" else row for row in results.rows)
    )
    text = render(shared)
    assert "No seconds are quoted: it was busy." in text
    assert "RLVR 6 s" not in text


def test_a_reading_stays_with_its_figures_only(results: Results) -> None:
    unread = render(results, "first.json")
    read = unread.replace(UNREAD, "Read by hand.")
    assert unread != read == render(results, "first.json", read)
    assert UNREAD in render(results, "second.json", read)
    assert "Read by hand." not in render(results, "second.json", read)


def test_the_picture_is_drawn_for_light_and_dark_pages(results: Results, tmp_path: Path) -> None:
    pictures = draw(tmp_path / "picture.png", PLAN, results)
    assert [path.name for path in pictures] == ["picture.png", "picture-dark.png"]
    assert len({path.read_bytes() for path in pictures}) == 2


def gated(**bounds: Bounds) -> GatedBase:
    return GatedBase(Path("configs/tiny_misled_sft.yaml"), {**HEADROOM, **bounds}, seed=100, problems=1, samples=4)


@pytest.fixture
def tried(tmp_path: Path) -> Path:
    """A base on trial: it solves one of two held-out problems, and its one sound context has nineteen right variants,
    the lucky one a wrong one."""
    base = gated()
    held_out, trial = base._trial(tmp_path).of_base(tmp_path / "trial", 100), base._trial(tmp_path)
    write_evaluation(held_out, (3, 0), 0.1)
    [run] = trial.runs(tmp_path / "trial")
    write_jsonl(run.folder / "samples" / "step_1.jsonl", step_of_self_play(right=19, wrong=1))
    return tmp_path


def test_a_base_is_tried_before_anything_is_trained_from_it(tried: Path) -> None:
    base = gated()
    assert base.figures(tried) == {SOLVED: 0.5, RIGHT: 0.95, LUCKY: 0.5}
    with pytest.raises(UserError, match=r"within all tries: 50\.0%, which should be 80 to 92%; contexts .* at most 5%"):
        list(base.phases(tried))
    kept = replace(base, bounds={SOLVED: Bounds(0.5, 0.5), LUCKY: Bounds(most=0.5)})
    [[training], trial] = [list(chain) for phase in kept.phases(tried) for chain in phase.chains][:2]
    assert load(SftJob, ROOT / training.arguments()[1], training.arguments()[2:]).export == str(base.model(tried))
    assert [work.arguments()[0] for work in trial] == ["eval"]


def test_a_regime_of_its_own_base_trains_from_it_and_shows_its_gates(root: Path, results: Results, tried: Path) -> None:
    plan = replace(PLAN, regime=replace(REGIME, name="b", base=gated(), rates=(1e-4,)))
    model = f"model.path={tried}/base/model"
    assert all(model in run.arguments() for run in plan.runs(tried))
    rows = tuple(Row(GATES, BASE, name, share, "share") for name, share in gated().figures(tried).items())
    text = render(Results((*results.rows, *rows)), plan=plan)
    [_, _, *gates] = lines_of(sections_of(text)["The base"])
    assert gates == [[SOLVED, "80 to 92%", "50.0%"], [RIGHT, "at least 90%", "95.0%"], [LUCKY, "at most 5%", "50.0%"]]
    assert text.startswith("# The papers' claims from a base with headroom")


@pytest.mark.slow
def test_all_of_it_runs(tmp_path: Path) -> None:
    assert "| SvS at step 1 |" in run_small_twice("bench.reproduce", tmp_path / "runs", tmp_path / "page.md")


@pytest.mark.parametrize("name", sorted(page.stem for page in (ROOT / "docs").glob("reproduction*.md")))
def test_the_published_page_is_made_from_the_json_that_it_names(name: str) -> None:
    suite = {"reproduction": "tiny", "reproduction_headroom": "headroom"}[name]
    text = (ROOT / "docs" / f"{name}.md").read_text()
    figures = rf"^Figures: \[.*?\]\(\.\./(bench/results/{PLANS[suite].suite}-[\w-]+\.json)"
    [source] = re.findall(figures, text, re.MULTILINE)
    results = Results(read(ROOT / source))
    seeds = tuple(range(len(results.curve(BASE, "pass@1")[0])))
    providers = {row.provider for row in results.rows}
    methods = [method for method in PLANS[suite].steps if method in providers]
    pictures = [f"{name}.png", f"{name}-dark.png"]
    with chdir(ROOT):
        published = only(PLANS[suite], seeds, methods)
        assert text == page.render(published, results, Path(source).name, pictures, text)
    assert all((ROOT / "docs" / picture).exists() for picture in pictures)
