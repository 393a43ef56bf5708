"""What the reproduction's page says, on made-up runs whose figures are known."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from finished_experiment import change_layers, run_small_twice, write_evaluation
from safetensors.torch import load_file
from whole_runs import ROOT

from bench.experiments.page import UNREAD
from bench.experiments.plan import BASE
from bench.experiments.results import point_rows
from bench.experiments.statistics import Difference
from bench.report import read, write
from bench.reproduce import page
from bench.reproduce.claims import judge, same_cost
from bench.reproduce.figure import draw
from bench.reproduce.measure import measure
from bench.reproduce.plan import CONFIGS, ON_POLICY, PLANS, RLVR, SFT, SVS, Reproduction
from bench.reproduce.results import VALID, Results, Side
from fastsvs.config import SftJob, TrainJob, load
from fastsvs.data import tiny
from fastsvs.files import write_jsonl

PLAN = Reproduction(
    suite="reproduce-test",
    seeds=(0, 1),
    steps={ON_POLICY: 2, SVS: 2, RLVR: 4, SFT: 2},
    grid=(1, 2, 4),
    compared=2,
    samples=4,
    shrink={"train": (), "sft": (), "eval": ()},
)


def points(responses: Mapping[tuple[str, int], float]) -> Results:
    """Only costs, the same for both seeds."""
    rows = [
        row
        for (method, step), value in responses.items()
        for seed in PLAN.seeds
        for row in point_rows(f"seed {seed}, step {step}", method, {"responses": value})
    ]
    return Results(tuple(rows))


@pytest.mark.parametrize(
    ("interval", "higher", "not_higher", "lower", "not_lower"),
    [
        ((0.1, 0.3), "agrees", "does not agree", "does not agree", "agrees"),
        ((-0.3, -0.1), "does not agree", "agrees", "agrees", "does not agree"),
        ((-0.1, 0.3), "undecided", "undecided", "undecided", "undecided"),
        ((0.0, 0.0), "does not agree", "agrees", "does not agree", "agrees"),
        ((0.0, 0.2), "undecided", "undecided", "does not agree", "agrees"),
        ((-0.2, 0.0), "does not agree", "agrees", "undecided", "undecided"),
    ],
)
def test_a_claim_is_judged_by_its_interval(interval, higher, not_higher, lower, not_lower) -> None:
    found = Difference(sum(interval) / 2, *interval)
    verdicts = [judge(expected, found) for expected in ("higher", "not higher", "lower", "not lower")]
    assert verdicts == [higher, not_higher, lower, not_lower]


def test_equal_cost_is_the_step_of_rlvr_with_the_nearest_number_of_responses() -> None:
    costs = {(RLVR, 1): 100, (RLVR, 2): 200, (RLVR, 4): 400}
    assert same_cost(PLAN, points({**costs, (SVS, 2): 310}), SVS) == Side(RLVR, 4)
    assert same_cost(PLAN, points({**costs, (SVS, 2): 290}), SVS) == Side(RLVR, 2)
    assert same_cost(PLAN, points({**costs, (SVS, 2): 9000}), SVS) == Side(RLVR, 4)


def test_plans_compare_what_all_methods_have() -> None:
    for plan in PLANS.values():
        assert all({plan.compared, run.steps} <= set(plan.evaluated(run)) for run in plan.runs(Path("runs")))
        assert plan.ks[-1] == plan.samples


def test_methods_share_every_setting_that_they_can_share() -> None:
    svs, rlvr = (load(TrainJob, ROOT / CONFIGS / f"{name}.yaml") for name in ("svs", "rlvr"))
    sft = load(SftJob, ROOT / CONFIGS / "sft.yaml")
    on_policy = load(TrainJob, ROOT / CONFIGS / "svs_on_policy.yaml")
    assert svs.algorithm.samples_per_update == svs.run.prompts_per_step * svs.rollout.samples_per_prompt
    assert on_policy == svs.model_copy(update={"algorithm": on_policy.algorithm})
    without_self_play = svs.selfplay.model_copy(update={"stage": "none"})
    assert rlvr == svs.model_copy(update={"selfplay": without_self_play, "run": rlvr.run})
    assert (sft.model, sft.policy) == (svs.model, svs.policy)
    assert (sft.data.path, sft.data.limit) == (svs.data.path, svs.data.limit)
    for job in (rlvr, sft):
        assert job.run.model_copy(update={"steps": svs.run.steps}) == svs.run


CORRECT = {
    (BASE, 0): (1, 0),
    (SVS, 1): (2, 1),
    (SVS, 2): (3, 2),
    (ON_POLICY, 1): (2, 1),
    (ON_POLICY, 2): (4, 1),
    (RLVR, 1): (2, 0),
    (RLVR, 2): (3, 0),
    (RLVR, 4): (4, 0),
    (SFT, 1): (2, 2),
    (SFT, 2): (4, 3),
}
"""Of four samples to each of two problems, at both seeds."""
ENTROPY = {BASE: 0.2, SVS: 0.15, ON_POLICY: 0.25, RLVR: 0.1, SFT: 0.05}
SAMPLED = {
    SVS: {"samples/original": 8, "samples/synthesis": 2, "samples/variant": 14},
    ON_POLICY: {"samples/original": 8, "samples/synthesis": 1, "samples/variant": 3},
    RLVR: {"samples/original": 8},
    SFT: {},
}
CHANGED = {SVS: 2, ON_POLICY: 3, RLVR: 1, SFT: 4}
"""Of the four layers, those whose MLP input has moved, by as much as bf16 shows."""
PROBLEM = tiny.problems("tiny:train", 1)[0]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs and evaluations, in files as `fastsvs` leaves them."""
    root = tmp_path_factory.mktemp("reproduce")
    for each in PLAN.evaluations(root):
        write_evaluation(each, CORRECT[each.method, each.step], ENTROPY[each.method])
    for run in PLAN.runs(root):
        steps = range(1, run.steps + 1)
        write_jsonl(run.folder / "metrics.jsonl", [{"step": s, "time/step": 1.5} | SAMPLED[run.method] for s in steps])
        (run.folder / "config.yaml").write_text("run:\n  prompts_per_step: 3\n")
        shutil.copytree(ROOT / "models" / "tiny", run.checkpoint(PLAN.compared))
        change_layers(run.checkpoint(PLAN.compared), CHANGED[run.method])
        for step in steps if run.method == SVS else ():
            write_variants(run.folder / "samples" / f"step_{step}.jsonl", right=step, wrong=1)
    return root


@pytest.fixture(scope="module")
def results(root: Path) -> Results:
    with chdir(ROOT):
        return measure(PLAN, root, note=None)


def write_variants(path: Path, right: int, wrong: int) -> None:
    answers = [PROBLEM.answer] * right + [PROBLEM.answer + "0"] * wrong
    rows = [{"kind": "variant", "question": PROBLEM.question, "answer": answer} for answer in answers]
    write_jsonl(path, [{"kind": "original", "question": "?", "answer": "0"}, *rows])


def lines_of(section: str) -> dict[str, str]:
    """Of a table, by their first cell."""
    return {line.split(" | ")[0].removeprefix("| "): line for line in section.splitlines() if line.startswith("|")}


def test_figures_are_those_of_the_files(results: Results) -> None:
    assert results.curve(SVS, "pass@1") == {0: [0.125] * 2, 1: [0.375] * 2, 2: [0.625] * 2}
    assert results.curve(RLVR, "entropy") == {0: [0.2] * 2, 1: [0.1] * 2, 2: [0.1] * 2, 4: [0.1] * 2}
    assert results.curve(SVS, "responses") == {1: [24] * 2, 2: [48] * 2}
    assert results.curve(SFT, "responses") == {1: [3] * 2, 2: [6] * 2}
    assert results.curve(RLVR, "seconds")[4] == [6.0, 6.0]
    assert results.curve(SVS, VALID) == {1: [1 / 2] * 2, 2: [2 / 3] * 2}


def test_weights_are_compared_with_the_base(results: Results) -> None:
    """Zeros do not move."""
    base = load_file(ROOT / "models" / "tiny" / "model.safetensors")
    for method, layers in CHANGED.items():
        moved = sum(int(base[f"model.layers.{layer}.mlp.up_proj.weight"].count_nonzero()) for layer in range(layers))
        expected = 1 - moved / sum(tensor.numel() for tensor in base.values())
        for metric in ("sparsity/exact", "sparsity/bf16"):
            assert results.curve(method, metric) == {2: [pytest.approx(expected)] * 2}


def test_differences_pair_the_problems_whatever_their_order_in_the_files(results: Results) -> None:
    """SvS solves 3 and 2 of 4, the base 1 and 0: half of all on each problem, so without any spread."""
    assert results.difference(Side(SVS, 2), Side(BASE, 0), "pass@1") == Difference(0.5, 0.5, 0.5)
    spread = results.difference(Side(SVS, 2), Side(RLVR, 2), "pass@1")
    assert spread == Difference(0.25, 0.0, 0.5)
    kept = results.difference(Side(SVS, 2), Side(RLVR, 2), "entropy")
    assert astuple(kept) == pytest.approx((0.05, 0.05, 0.05))


def test_the_page_says_what_the_json_holds(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    published = Results(read(write(PLAN.suite, results.rows, tmp_path)))
    text = page.render(PLAN, published, "x.json", ["light.png", "dark.png"], "")
    sections = dict(re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    ends = lines_of(sections["Where the methods end"])
    assert "| 12.5 (12.5 to 12.5) |" in ends["base"]
    assert ends["SvS at step 2"].endswith("| 0.150 (0.150 to 0.150) | 48 |")
    assert "RLVR 6 s for 4" in sections["Where the methods end"]
    verdicts = lines_of(sections["What the papers claim"])
    assert verdicts["RLVR raises pass@1 above the base's"].endswith("| **undecided**: +25.0 [+0.0, +50.0] |  |")
    assert "| entropy | **agrees**: -0.100 [-0.100, -0.100] |  |" in verdicts["RLVR lowers the policy's entropy"]
    kept = "| **does not agree**: -0.050 [-0.050, -0.050] | **agrees**: +0.050 [+0.050, +0.050] |"
    assert verdicts["SvS keeps the base's entropy"].endswith(kept)
    assert "(for SvS, step 4; for SvS on-policy, step 2)" in sections["What the papers claim"]
    written = "SvS: 50.0 (50.0 to 50.0)% up to step 1, 66.7 (66.7 to 66.7)% after step 1."
    assert written in sections["Problems that SvS wrote"]


def test_seconds_of_a_shared_machine_are_not_quoted(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shared = Results(
        tuple(replace(row, note="it was busy") if row.metric == "seconds" else row for row in results.rows)
    )
    text = page.render(PLAN, shared, "x.json", ["light.png", "dark.png"], "")
    assert "No seconds are quoted: it was busy." in text
    assert "RLVR 6 s" not in text


def test_a_reading_stays_with_its_figures_only(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)

    def render(source: str, earlier: str) -> str:
        return page.render(PLAN, results, source, ["light.png", "dark.png"], earlier)

    unread = render("first.json", "")
    read = unread.replace(UNREAD, "Read by hand.")
    assert unread != read == render("first.json", read)
    assert UNREAD in render("second.json", read)
    assert "Read by hand." not in render("second.json", read)


def test_the_picture_is_drawn_for_light_and_dark_pages(results: Results, tmp_path: Path) -> None:
    pictures = draw(tmp_path / "picture.png", PLAN, results)
    assert [path.name for path in pictures] == ["picture.png", "picture-dark.png"]
    assert len({path.read_bytes() for path in pictures}) == 2


@pytest.mark.slow
def test_all_of_it_runs(tmp_path: Path) -> None:
    assert "| SvS at step 1 |" in run_small_twice("bench.reproduce", tmp_path / "runs", tmp_path / "page.md")


def test_the_published_page_is_made_from_the_json_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "reproduction.md").read_text()
    [source] = set(re.findall(r"\.\./(bench/results/reproduce-tiny-[\w-]+\.json)", text))
    pictures = ["reproduction.png", "reproduction-dark.png"]
    assert text == page.render(PLANS["tiny"], Results(read(ROOT / source)), Path(source).name, pictures, text)
    assert all((ROOT / "docs" / picture).exists() for picture in pictures)
