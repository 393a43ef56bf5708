"""Groups in which there is nothing to compare: refused, advised against, and explained where they come up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forking import Run
from hypothesis import given
from hypothesis import strategies as st
from whole_runs import ROOT, SMALL, TRAIN, Refuse

from fastsvs.cli import main
from fastsvs.config import TrainJob, load
from fastsvs.data.records import Problem
from fastsvs.files import read_jsonl
from fastsvs.rollout.engine import Rollout
from fastsvs.selfplay import ORIGINAL, Group, PlainStage, Task, count
from fastsvs.training.comparison import advice, lost_steps, why_nothing_was_learned
from fastsvs.verify import Verdict

pytestmark = pytest.mark.usefixtures("at_root")

PLAIN = ("train", "configs/tiny_rlvr.yaml", *SMALL)
DEMO = load(TrainJob, ROOT / "configs" / "tiny_svs.yaml", [])
AZR = ("train", "configs/tiny_azr.yaml", "model.path=models/tiny", "evaluation.path=null")


@pytest.mark.parametrize("advantage", ["grpo", "rloo", "trr", "verl"])
@pytest.mark.parametrize("job", [TRAIN, PLAIN, (*TRAIN, "selfplay.stage=rise"), (*PLAIN, "algorithm.reward=majority")])
def test_one_response_to_a_problem_is_refused(refuse: Refuse, job: tuple[str, ...], advantage: str) -> None:
    message = refuse(*job, "rollout.samples_per_prompt=1", f"algorithm.advantage={advantage}")
    assert f"rollout.samples_per_prompt=1: algorithm.advantage={advantage} has nothing to compare" in message
    assert "set it to 2 or more (8 is usual)" in message


class Keeping(PlainStage):
    """A stage of a user's own, whose filters nobody knows."""


def advised(config: str, *overrides: str) -> list[str]:
    return advice(load(TrainJob, config, [*overrides]))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((f"selfplay.stage={__name__}:Keeping", "rollout.samples_per_prompt=1"), "algorithm.advantage=trr"),
        (("selfplay.samples_per_variant=1",), "selfplay.samples_per_variant=1: a variant with one solution"),
        (("selfplay.context_range=[0.3,0.3]",), "rollout.samples_per_prompt=8 responses above 0 lies in selfplay."),
        (("selfplay.positive_range=[0.1,0.12]",), "selfplay.samples_per_variant=8 solutions above 0 lies in"),
        (("selfplay.stage=rise", "selfplay.rise.samples_per_critique=1"), "selfplay.rise.samples_per_critique=1: a"),
        (("selfplay.budget.first_samples=1",), "selfplay.budget.first_samples=1 stops no variant"),
        (("rollout.top_p=0.7",), "rollout.top_p=0.7 cut the distribution"),
        (("rollout.top_k=20", "algorithm.rollout_correction=tis"), "algorithm.rollout_correction=tis takes that"),
        (("rollout.top_k=20", "rollout.top_p=0.9"), "rollout.top_p=0.9 and rollout.top_k=20 cut"),
        (("evaluation.temperature=0",), "evaluation.temperature=0 is greedy: the 8 responses to a problem"),
    ],
)  # fmt: skip
def test_what_will_hardly_be_meant_is_said(overrides: tuple[str, ...], expected: str) -> None:
    lines = advised("configs/tiny_svs.yaml", *overrides)
    assert [line for line in lines if expected in line and line.startswith("warning: ")]


@given(st.integers(2, 40), st.integers(0, 40), st.floats(0, 1), st.floats(0, 0.1))
def test_a_range_is_out_of_reach_where_no_share_of_responses_lies_in_it(
    size: int, right: int, low: float, width: float
) -> None:
    for limits in ((low, min(1.0, low + width)), (low * min(right, size) / size, min(right, size) / size)):
        selfplay = DEMO.selfplay.model_copy(update={"context_range": limits})
        rollout = DEMO.rollout.model_copy(update={"samples_per_prompt": size})
        lines = advice(DEMO.model_copy(update={"selfplay": selfplay, "rollout": rollout}))
        reached = any(limits[0] <= count / size <= limits[1] for count in range(1, size + 1))
        assert any("selfplay.context_range" in line for line in lines) == (not reached)


def test_proposals_have_no_baseline_in_their_group() -> None:
    assert advised("configs/tiny_azr.yaml") == []
    [line] = advised("configs/tiny_azr.yaml", "algorithm.advantage=rloo")
    assert "(its proposals, one to a prompt) keep their bare reward" in line
    assert advised("configs/tiny_azr.yaml", "algorithm.advantage=verl", "algorithm.verl.base=trr") == []


def test_nothing_that_is_shipped_is_advised_against() -> None:
    shipped = [path for path in (ROOT / "configs").rglob("*.yaml") if "eval" not in str(path.relative_to(ROOT))]
    jobs = {path.stem: load(TrainJob, path) for path in shipped if not {"sft", "self"} & set(path.stem.split("_"))}
    assert len(jobs) > 15
    assert {name: advice(job) for name, job in jobs.items() if advice(job)} == {}


def test_a_dry_run_shows_the_advice(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*TRAIN, "rollout.top_p=0.9", f"run.dir={tmp_path}/run", "--dry-run"]) == 0
    assert "# warning: rollout.top_p=0.9 cut the distribution" in capsys.readouterr().out


def group(key: str, *verdicts: Verdict) -> Group:
    task = Task(key, ORIGINAL, Problem(key, "q", "1"), (1,), len(verdicts))
    rollouts = (Rollout((1,), (0.0,), "stop", 0),) * len(verdicts)
    return Group(task, rollouts, ("",) * len(verdicts), verdicts, rewards=(0.0,) * len(verdicts))


RIGHT, WRONG, UNVERIFIED = Verdict.CORRECT, Verdict.WRONG, Verdict.UNVERIFIED


def test_groups_are_counted_by_how_they_came_out() -> None:
    groups = [
        group("a", RIGHT, RIGHT),
        group("b", RIGHT, UNVERIFIED),
        group("c", WRONG, WRONG),
        group("d", UNVERIFIED, WRONG),
        group("e", UNVERIFIED, UNVERIFIED),
        group("f", RIGHT, WRONG),
    ]
    counters = count(groups, groups[-1:])
    outcomes = {name: counters[f"{name}/original"] for name in ("all_right", "all_wrong", "all_unverified")}
    assert outcomes == {"all_right": 2, "all_wrong": 2, "all_unverified": 1}
    assert why_nothing_was_learned(counters, groups, "file") is None


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (
            RIGHT,
            "(2 all right, 0 all wrong, 0 not verified); see 'a' and the others in file; the problems are too easy",
        ),
        (WRONG, "(0 all right, 2 all wrong, 0 not verified); see 'a' and the others in file; read the responses"),
        (
            UNVERIFIED,
            "(0 all right, 0 all wrong, 2 not verified); see 'a' and the others in file; the verifier gave up",
        ),
    ],
)
def test_why_a_step_taught_nothing(verdict: Verdict, told: str) -> None:
    groups = [group("a", verdict, verdict), group("b", verdict, verdict)]
    assert told in (why_nothing_was_learned(count(groups, []), groups, "file") or "")
    survey = count(groups, []) | {"sampler/surveyed": 2}
    assert why_nothing_was_learned(survey, groups, "file") is None


def test_lost_steps_are_summed_up() -> None:
    rows = [
        {"step": 1, "policy/updates": 0, "all_wrong/original": 3, "all_wrong/variant": 1, "all_right/original": 2},
        {"step": 2, "policy/updates": 1, "all_wrong/original": 5},
        {"step": 3, "policy/updates": 0, "sampler/surveyed": 8, "all_wrong/original": 5},
    ]
    assert lost_steps(rows) == {"steps": 1, "all_right": 2, "all_wrong": 4, "all_unverified": 0}


def test_a_run_that_never_learns_says_why(tmp_path: Path) -> None:
    """No answer in the data is right, so that every group is all wrong."""
    rows = [{"question": f"{n} + {n}?", "answer": str(10**9 + n)} for n in range(16)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = ("data.limit=16", "run.steps=2", "run.prompts_per_step=4", "evaluation.path=null", "dynamics.every=0")
    ended = Run(*PLAIN, *few, f"data.path={tmp_path}/data.jsonl", f"run.dir={tmp_path}/run").completed(240)
    assert ended.returncode == 0, ended.stderr
    first = read_jsonl(tmp_path / "run" / "samples" / "step_1.jsonl")[0]["key"]
    assert (
        "step 1: nothing was learned: the rewards within each of the 4 groups are all the same (0 all right, 4 all "
        f"wrong, 0 not verified); see {first!r} and the others in {tmp_path}/run/samples/step_1.jsonl; read the"
    ) in ended.stdout
    assert "2 of 2 steps learned nothing (groups 0 all right, 8 all wrong, 0 not verified)" in ended.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["without_learning"] == {"steps": 2, "all_right": 0, "all_wrong": 8, "all_unverified": 0}


def test_greedy_evaluation_in_a_run_and_on_its_own(tmp_path: Path) -> None:
    few = (
        "run.steps=1",
        "run.prompts_per_step=4",
        "dynamics.every=0",
        "evaluation.temperature=0",
        "evaluation.limit=4",
    )
    ended = Run(*PLAIN, *few, f"run.dir={tmp_path}/run").completed(240)
    assert ended.returncode == 0, ended.stderr
    assert "warning: evaluation.temperature=0 is greedy" in ended.stdout
    for row in read_jsonl(tmp_path / "run" / "evaluations" / "step_0.samples.jsonl"):
        assert len(set(row["responses"])) == 1
    sets = ("sets.heldout.temperature=0", "sets.heldout.samples=1", "sets.heldout.k=[1]", "sets.heldout.data.limit=4")
    ended = Run("eval", "configs/tiny_eval.yaml", "model.path=models/tiny", *sets, f"output={tmp_path}/out").completed(
        240
    )
    assert ended.returncode == 0, ended.stderr
    assert "warning" not in ended.stdout
    figures = json.loads((tmp_path / "out" / "heldout.json").read_text())
    assert figures["entropy_estimate"] == 0
