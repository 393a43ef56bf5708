"""The tokens that a run keeps of a share of its responses: which, what of each, and what is left of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase
from whole_runs import ROOT, SMALL, assert_tokens_of_answers

from fastsvs import api
from fastsvs.algorithms import make_batch
from fastsvs.cli import main
from fastsvs.config import TrainJob, load
from fastsvs.data import Problem, load_tokenizer
from fastsvs.rollout import Rollout
from fastsvs.selfplay import ORIGINAL, SYNTHESIS, VARIANT, Group, Task
from fastsvs.token_rows import is_chosen, token_row, token_texts
from fastsvs.training.token_log import watched

SHARES = st.floats(0, 1)
PROBLEMS = st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), unique=True, max_size=8)


def job_with(share: float, seed: int = 0) -> TrainJob:
    return load(TrainJob, ROOT / "configs" / "tiny_svs.yaml", [f"logging.token_share={share}", f"run.seed={seed}"])


def group_of(key: str, kind: str, problem: Problem, samples: int = 2) -> Group:
    task = Task(key, kind, problem, (1, 2), samples)
    rollout = Rollout((3, 4), (-0.5, -0.25), "stop", 0)
    return Group(task, (rollout,) * samples, ("",) * samples, rewards=(0.0,) * samples)


def families(problems: Sequence[tuple[str, str]]) -> list[Group]:
    """A family for each problem: it, what was written from its first response, and the solutions to that."""
    made = []
    for number, (name, question) in enumerate(problems):
        problem, key = Problem(name, question, "1"), f"{number:06d}"
        made.append(group_of(f"{key}/000/000", VARIANT, Problem(f"{name}/v", "another", "1")))
        made.append(group_of(key, ORIGINAL, problem))
        made.append(group_of(f"{key}/000", SYNTHESIS, problem))
    return made


@given(PROBLEMS, SHARES, st.integers(0, 3))
def test_families_are_kept_whole_whatever_else_is_in_the_step(problems, share, seed):
    job, groups = job_with(share, seed), families(problems)
    keys = watched(job, groups)
    kept = {key for key in keys if "/" not in key}
    assert keys == {group.task.key for group in groups if group.task.family in kept}
    assert watched(job, groups[::-1]) == keys
    halves = groups[: len(groups) // 6 * 3], groups[len(groups) // 6 * 3 :]
    assert watched(job, halves[0]) | watched(job, halves[1]) == keys


@given(st.text(), st.text(), SHARES, SHARES, st.integers())
def test_a_larger_share_has_the_problems_of_a_smaller_one(name, question, one, other, seed):
    problem, (small, large) = Problem(name, question, "1"), sorted((one, other))
    assert is_chosen(problem, large, seed) or not is_chosen(problem, small, seed)
    assert is_chosen(problem, 1.0, seed)
    assert not is_chosen(problem, 0.0, seed)


def test_the_share_of_problems_is_about_what_was_asked_for():
    problems = [Problem(f"set/{number}", "?", "1") for number in range(4000)]
    chosen = [{one.id for one in problems if is_chosen(one, 0.1, seed)} for seed in (0, 1)]
    assert [abs(len(one) - 400) < 80 for one in chosen] == [True, True]
    assert len(chosen[0] & chosen[1]) < 100, "another seed chooses others"


def test_a_batch_names_the_samples_of_the_groups_that_are_watched():
    groups = [
        group_of("000000", ORIGINAL, Problem("a", "?", "1"), 1),
        group_of("000001", ORIGINAL, Problem("b", "?", "1")),
    ]
    assert make_batch(groups).watched is None
    assert make_batch(groups, watched={"000002"}).watched is None
    batch = make_batch(groups, watched={"000001"})
    assert batch.watched == [None, ("000001", 0), ("000001", 1)]
    assert batch.select([2, 0]).watched == [("000001", 1), None]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(str(ROOT / "models" / "tiny"))


@given(text=st.text(max_size=40))
def test_the_texts_of_the_tokens_are_the_text(tokenizer, text):
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    texts = token_texts(ids, tokenizer.decode)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode(ids)
    assert texts[-1] == tokenizer.eos_token


@given(data=st.data())
def test_texts_of_any_tokens_have_no_more_than_they_decode_to(tokenizer, data):
    """Bytes that make no character, at the end or in the middle, cost no token its place."""
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=30))
    texts = token_texts(ids, tokenizer.decode)
    assert len(texts) == len(ids)
    sound = [text for text in texts if "\ufffd" not in text]
    assert all(text in tokenizer.decode(ids) for text in sound)


def test_a_character_of_several_tokens_belongs_to_the_last_of_them(tokenizer):
    ids = tokenizer.encode("a🎉b", add_special_tokens=False)
    assert token_texts(ids, tokenizer.decode) == ["a", "", "", "", "🎉", "b"][-len(ids) :]
    assert token_texts(ids[:-2], tokenizer.decode)[-1] != "", "cut off within a character"


def test_what_no_update_learned_from_has_the_log_probs_of_the_engine_alone(tokenizer):
    group = group_of("000000", ORIGINAL, Problem("a", "?", "1"))
    seen = {("000000", 1): torch.tensor([[-0.123456, -0.0], [float("inf"), 2.0]])}
    row = token_row(group, tokenizer.decode, seen)
    assert (row["key"], row["prompt"]) == ("000000", tokenizer.decode([1, 2]))
    assert row["engine_logprobs"] == [[-0.5, -0.25]] * 2
    assert row["policy_logprobs"] == [None, [-0.1235, 0.0]]
    assert row["entropies"] == [None, [None, 2.0]]
    assert token_row(group, tokenizer.decode)["policy_logprobs"] == [None, None]


def test_a_run_keeps_the_tokens_of_its_responses(tmp_path: Path, at_root: None, tokenizer) -> None:
    words = ["train", "configs/tiny_svs.yaml", *SMALL, "dynamics.every=0"]
    words += [
        "train.waves=2",
        "algorithm.old_logprobs=engine",
        "algorithm.samples_per_update=1000",
        f"run.dir={tmp_path}/run",
    ]
    assert main([*words, "logging.token_share=1", "run.steps=1"]) == 0
    run = api.load_run(tmp_path / "run")
    rows = {row["key"]: row for row in run.tokens(1)}
    for step in (0, 1):
        assert_tokens_of_answers(list(run.evaluation_tokens(step)), list(run.evaluation_samples(step)))
    samples = {row["key"]: row for row in run.samples(1)}
    assert rows.keys() == samples.keys()
    same = []
    for key, row in rows.items():
        sample = samples[key]
        assert [len(texts) for texts in row["texts"]] == sample["tokens"]
        texts = ["".join(texts).removesuffix(tokenizer.eos_token) for texts in row["texts"]]
        assert texts == sample["responses"]
        assert row["prompt"].startswith("<|user|>")
        assert row["prompt"].endswith("<|assistant|>")
        assert sample["kind"] == SYNTHESIS or sample["question"] in row["prompt"]
        for names in ("policy_logprobs", "entropies"):
            for figures, engine in zip(row[names], row["engine_logprobs"], strict=True):
                assert sample["trained"] or figures is None
                assert figures is None or len(figures) == len(engine)
        for policy, engine in zip(row["policy_logprobs"], row["engine_logprobs"], strict=True):
            if policy is not None:
                same.append(policy == pytest.approx(engine, abs=2e-3))
    assert 4 < sum(same) < len(same), "the first wave's policy is the engine's, the second wave's has learned since"
    # A session that keeps none, over what an earlier one kept and did not save.
    (tmp_path / "run" / "samples" / "step_2.tokens.jsonl").write_text("{}\n")
    assert main([*words, "logging.token_share=0", "run.steps=2"]) == 0
    assert (list(run.token_files()), list(run.sample_files())) == ([1], [1, 2])
    assert (list(run.evaluation_token_files()), list(run.evaluations())) == ([0, 1], [0, 1, 2])
