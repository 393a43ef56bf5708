"""What experiments share: statistics, figures of evaluations, work that continues, and the command line."""

from __future__ import annotations

import sys
from dataclasses import astuple, replace
from itertools import chain
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_runs import ROOT

from bench.experiments.jobs import Phase, finish
from bench.experiments.main import SHARED, Experiment, main
from bench.experiments.measure import entropies
from bench.experiments.plan import Plan, Run
from bench.experiments.results import Results, point_rows
from bench.experiments.statistics import DRAWS, Difference, chance, difference, holm, pass_rates
from fastsvs.errors import UserError


def test_pass_rates_are_the_unbiased_estimate_of_every_problem() -> None:
    counts = np.array([[0, 1], [2, 4]])
    assert pass_rates(counts, samples=4, k=2).tolist() == [[0.0, 0.5], [1 - 1 / 6, 1.0]]


def by_seed(*values: float) -> np.ndarray:
    return np.array([values]).T


def test_problems_are_drawn_together_on_both_sides() -> None:
    hard_and_easy = np.array([[0.1, 0.9, 0.5]])
    assert astuple(difference([hard_and_easy + 0.25], [hard_and_easy])) == pytest.approx((0.25, 0.25, 0.25))


def test_seeds_are_drawn_on_each_side_by_itself() -> None:
    """Two seeds at 0 and 1: the mean of a draw is 0, 1/2 or 1, with chances 1/4, 1/2 and 1/4, whatever the pairing."""
    two = [by_seed(0.0, 1.0)]
    assert difference(two, [by_seed(0.0, 0.0)]) == Difference(0.5, 0.0, 1.0)
    assert difference(two, two) == Difference(0.0, -1.0, 1.0)


def test_the_interval_is_that_of_all_possible_draws() -> None:
    """One seed, two problems at 0 and 1: 2.5% of the draws lie below 0.5 many times over, so the interval is [0, 1]."""
    found = difference([np.array([[0.0, 1.0]])], [np.array([[0.0, 0.0]])])
    assert found == Difference(0.5, 0.0, 1.0)


def test_terms_share_their_seeds_and_have_problems_of_their_own() -> None:
    """What two terms have in common cancels in every draw of seeds; problems do not, as each term draws its own."""
    seeds, none = by_seed(0.0, 1.0), by_seed(0.0, 0.0)
    assert difference([seeds, -seeds], [none, none]) == Difference(0.0, 0.0, 0.0)
    problems, same = np.array([[0.0, 1.0]]), np.array([[0.0, 0.0]])
    assert difference([problems, -problems], [same, same]) == Difference(0.0, -1.0, 1.0)


def test_the_chance_of_a_difference_is_twice_the_share_of_draws_on_its_other_side() -> None:
    """Seeds at 0 and 1 against 0 and 0: a draw is 0 with chance 1/4, so the p-value is 1/2."""
    two, one, none = [by_seed(0.0, 1.0)], [by_seed(1.0)], [by_seed(0.0)]
    assert chance(two, [by_seed(0.0, 0.0)]) == pytest.approx(0.5, abs=0.03)
    assert chance(two, two) == 1.0
    assert chance(one, none) == chance(none, one) == 2 / (DRAWS + 1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_bonferroni_for_the_smallest_and_keeps_the_order(chances: list[float]) -> None:
    corrected = holm(chances)
    assert min(corrected) == min(1.0, len(chances) * min(chances))
    assert all(before <= after <= 1 for before, after in zip(chances, corrected, strict=True))
    assert [after for _, after in sorted(zip(chances, corrected, strict=True))] == sorted(corrected)


def test_holm_rejects_step_by_step() -> None:
    """The smallest times four, the next times three; the last of them are never less than those before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_entropies_of_problems_have_the_mean_over_all_tokens() -> None:
    """One token of 3 nats and three of 1 nat in all: 4 nats over 4 tokens."""
    rows = [{"tokens": [1], "logprobs": [-3.0]}, {"tokens": [2, 1], "logprobs": [-0.75, -0.25]}]
    assert entropies(rows) == [1.5, 0.5]


class Nowhere(Plan):
    """One run, of a configuration whose data do not exist."""

    def base(self, root: Path) -> Path:
        return root / "base"

    def recipe(self, method: str, root: Path) -> list[str]:
        return ["sft", "configs/reproduce/sft.yaml", "data.path=nowhere.jsonl"]

    def evaluated(self, run: Run) -> list[int]:
        return [run.steps]


PLAN = Nowhere("test", seeds=(0, 1), steps={"SFT, long": 2}, samples=4, shrink={"sft": (), "eval": ()})


def test_all_methods_and_the_base_are_evaluated_at_every_seed(tmp_path: Path) -> None:
    evaluated = [(each.method, each.seed, each.step, each.model.name) for each in PLAN.evaluations(tmp_path)]
    runs = [("SFT, long", seed, 2, "step_00000002") for seed in (0, 1)]
    assert evaluated == [("base", 0, 0, "base"), ("base", 1, 0, "base"), *runs]
    works = [*PLAN.runs(tmp_path), *PLAN.evaluations(tmp_path)]
    assert len({work.folder for work in works}) == len(works)


def test_work_that_is_cut_short_has_whole_seeds(tmp_path: Path) -> None:
    """Every run is followed by its evaluations, and a seed begins after the one before."""
    [phase] = PLAN.phases(tmp_path)
    chains = [[(type(work).__name__, work.seed) for work in works] for works in phase.chains]
    assert chains == [
        works for seed in (0, 1) for works in ([("Evaluated", seed)], [("Run", seed), ("Evaluated", seed)])
    ]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    for phase in PLAN.phases(tmp_path):
        for work in chain.from_iterable(phase.chains):
            work.result.parent.mkdir(parents=True, exist_ok=True)
            work.result.touch()
    said: list[str] = []
    finish(PLAN.phases(tmp_path), workers=2, say=said.append)
    assert said == []


def test_a_process_that_fails_is_named_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=r"long_seed0 failed with exit status 2(.|\n)*nowhere\.jsonl does not exist"):
        finish([Phase([PLAN.runs(tmp_path)])], workers=1)


class Meeting:
    """Work that is done, and that waits for another one beside it before it says so."""

    def __init__(self, folder: Path, barrier: Barrier) -> None:
        self.folder, self.barrier = folder, barrier

    @property
    def result(self) -> Path:
        self.barrier.wait()
        return self.folder

    def arguments(self) -> list[str]:
        raise AssertionError("it is done")


def test_work_that_is_timed_has_the_machine_for_itself(tmp_path: Path) -> None:
    meeting = Barrier(2, timeout=60)
    finish([Phase([[Meeting(tmp_path, meeting)], [Meeting(tmp_path, meeting)]])], workers=2)
    alone = Barrier(2, timeout=0.1)
    with pytest.raises(BrokenBarrierError):
        finish([Phase([[Meeting(tmp_path, alone)], [Meeting(tmp_path, alone)]], alone=True)], workers=2)


def experiment(check) -> Experiment[Plan, Results]:
    """Return an experiment with nothing to run, whose page is the page before and its notes."""
    return Experiment(
        name="test",
        plans={"tiny": replace(PLAN, seeds=())},
        measure=lambda plan, root, note: Results(tuple(point_rows("seed 0", "SvS", {"seconds": 1.0}, note))),
        draw=lambda path, plan, results: [path],
        render=lambda plan, results, source, pictures, earlier: f"{earlier} {source} {pictures} {results.notes}",
        check=check,
    )


def test_the_command_writes_figures_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("before")
    monkeypatch.setattr(sys, "argv", ["test", "--out", str(tmp_path), "--page", str(page), "--shared"])
    main(experiment(check=str), "a test")
    [source] = tmp_path.glob("test-*.json")
    assert page.read_text() == f"before {source.name} ['page.png'] ['{SHARED}']"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--seeds", "7"), "--seeds: test has the seeds (), not [7]"),
        (("--methods", "GRPO"), "--methods: test has the methods ('SFT, long',), not ['GRPO']"),
    ],
)
def test_seeds_and_methods_are_those_of_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, option: tuple[str, str], message: str
) -> None:
    options = ["--out", str(tmp_path), "--page", str(tmp_path / "page.md"), *option]
    monkeypatch.setattr(sys, "argv", ["test", *options])
    with pytest.raises(SystemExit, match="2"):
        main(experiment(str), "a test")
    assert capsys.readouterr().err == f"python -m bench.test: {message}\n"


def test_a_page_is_refused_before_anything_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def refuse(earlier: str) -> None:
        raise UserError(f"no place in {earlier!r}")

    monkeypatch.setattr(sys, "argv", ["test", "--out", str(tmp_path), "--page", str(tmp_path / "page.md")])
    with pytest.raises(SystemExit, match="2"):
        main(experiment(refuse), "a test")
    assert capsys.readouterr().err == "python -m bench.test: no place in ''\n"
    assert not list(tmp_path.iterdir())
