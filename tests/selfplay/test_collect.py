"""Self-play driven to its end: order, determinism, and the defects of the reference code that must not come back."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from random import Random

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from selfplay_world import SAMPLING, BoxVerifier, PolicyEngine, decode, encode, problem

from fastsvs.config import SelfPlayConfig, ShapingConfig
from fastsvs.selfplay import ORIGINAL, STAGES, SYNTHESIS, VARIANT, Experience, StageTools, collect, original_tasks
from fastsvs.verify import Verdict

STEP = original_tasks([(problem(n), encode(f"SOLVE {problem(n).question}")) for n in range(5)], samples=8)


def half_sure(prompt: str, random: Random) -> str:
    """Solves anything now and then, writes sensible and degenerate problems, ends some checks in a timeout."""
    if prompt.startswith("REWRITE"):
        question = random.choice(["What makes {}?", "Find {}.", "", "[your problem]"]).format(random.randrange(30))
        return random.choice([f"```text\n{question}\n```", question])
    return rf"Thus \boxed{{{random.choice(['0', '2', '4', '6', '8', '?'])}}}"


def run(policy=half_sure, order=lambda waiting: 0, config: dict | None = None, stage="svs", **others) -> Experience:
    made = STAGES.get(stage)(
        SelfPlayConfig(**(config or {})),
        StageTools(
            lambda problem: encode(f"SOLVE {problem.question}"), lambda text: encode("REWRITE" + text[-600:]), 1000, 200
        ),
    )
    tasks = others.pop("tasks", STEP)
    engine = others.pop("engine", None) or PolicyEngine(policy, order)
    verifier = others.pop("verifier", None) or BoxVerifier()
    return collect(made, tasks, engine, verifier, decode, SAMPLING, seed=3, **others)


def test_all_three_kinds_come_out_sorted_and_complete():
    experience = run()
    groups = [*experience.groups, *experience.discarded]
    assert {group.task.kind for group in experience.groups} == {ORIGINAL, SYNTHESIS, VARIANT}
    assert [g.task.key for g in experience.groups] == sorted(g.task.key for g in experience.groups)
    assert all(len(g.rollouts) == len(g.texts) == len(g.rewards) == g.task.samples for g in groups)
    assert len({group.task.key for group in groups}) == len(groups)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_result_does_not_depend_on_the_order_of_completion(random):
    assert run(order=lambda waiting: random.randrange(waiting)) == run()


def slow_half(response: str) -> bool:
    """For half of the responses the verdict takes a while."""
    return sum(response.encode()) % 2 == 0


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from(["streaming", "phased"]))
def test_result_depends_on_neither_schedule_nor_engine_nor_when_verdicts_come(seed, collective, schedule):
    random = Random(seed)  # what is drawn depends on the clock, which hypothesis does not bear
    engine = PolicyEngine(half_sure, lambda waiting: random.randrange(waiting), collective)
    assert run(engine=engine, verifier=BoxVerifier(slow_half), schedule=schedule) == run()


def test_requests_of_a_collective_engine_come_in_an_order_that_no_clock_decides():
    """Bits of a small engine depend on the company of a sequence: a resumed run must give it the same company."""
    first, second = PolicyEngine(half_sure), PolicyEngine(half_sure)
    run(engine=first, verifier=BoxVerifier(slow_half))
    run(engine=second, verifier=BoxVerifier(slow_half, seconds=0.02))
    assert first.requests == second.requests


def test_phased_asks_for_nothing_new_before_all_of_one_kind_are_checked():
    order: list[tuple[str, str]] = []

    class Recorder(PolicyEngine):
        def submit(self, requests):
            order.extend(("asked", request.key) for request in requests)
            super().submit(requests)

    experience = run(
        engine=Recorder(half_sure),
        schedule="phased",
        progress=lambda group, asked: order.append(("done", group.task.key)),
    )
    kinds = {group.task.key: group.task.kind for group in [*experience.groups, *experience.discarded]}
    phases = [(event, kinds[key]) for event, key in order]
    assert list(dict.fromkeys(phases)) == [
        (event, kind) for kind in (ORIGINAL, SYNTHESIS, VARIANT) for event in ("asked", "done")
    ]
    assert [phase for phase, _ in groupby(phases)] == list(dict.fromkeys(phases))


@pytest.mark.parametrize("collective", [True, False])
def test_generation_goes_on_while_an_answer_is_being_checked(collective):
    """The verdict on the first group comes only after the engine was asked for the second."""
    verdict: Future[Verdict] = Future()

    class Busy(PolicyEngine):
        polls = 0

        def poll(self, timeout):
            self.polls += 1
            if self.polls == 2:
                verdict.set_result(Verdict.WRONG)
            return super().poll(timeout)

    class Slow(BoxVerifier):
        def submit(self, pairs):
            verdicts = super().submit(pairs)
            return [verdict, *verdicts[1:]] if len(self.calls) == 1 else verdicts

    engine = Busy(half_sure, collective=collective)
    experience = run(engine=engine, verifier=Slow())
    assert engine.polls == len(engine.requests)
    assert {group.task.key for group in [*experience.groups, *experience.discarded]} >= {task.key for task in STEP}


def test_a_cancelled_collection_ends_soon():
    engine = PolicyEngine(half_sure)
    with pytest.raises(CancelledError):
        run(engine=engine, cancelled=lambda: len(engine.requests) > len(STEP))
    assert engine.pending() > 0


def test_recorded_rollouts_give_the_same_experience_bit_for_bit():
    recorded = {}

    class Recorder(PolicyEngine):
        def poll(self, timeout):
            groups = super().poll(timeout)
            recorded.update(groups)
            return groups

    class Player(PolicyEngine):
        def poll(self, timeout):
            key = self.waiting.pop().key
            return [(key, recorded[key])]

    first = run(engine=Recorder(half_sure))
    assert repr(run(engine=Player(half_sure))) == repr(first)


def test_seed_of_a_request_comes_from_the_run_and_its_key():
    engine, again = PolicyEngine(half_sure), PolicyEngine(half_sure, order=lambda waiting: -1)
    run(engine=engine)
    run(engine=again)
    assert {r.key: r.seed for r in engine.requests} == {r.key: r.seed for r in again.requests}
    assert len({request.seed for request in engine.requests}) == len(engine.requests)


def test_every_sample_is_verified_exactly_once():
    """B2: the reference code verifies every batch twice. Writing a problem is not verified at all."""
    verifier = BoxVerifier()
    experience = run(verifier=verifier)
    groups = [*experience.groups, *experience.discarded]
    expected = Counter((text, g.task.problem.answer) for g in groups if g.task.kind != SYNTHESIS for text in g.texts)
    assert Counter(pair for call in verifier.calls for pair in call) == expected


def test_step_without_contexts_is_a_plain_rlvr_step():
    """B5: the reference code throws the whole step away, the original problems' update included."""

    def knows_two(prompt: str, random: Random) -> str:
        return r"\boxed{2}" if random.random() < 0.8 else r"\boxed{-1}"

    config = {"context_range": (0.0, 0.01)}
    svs, plain = run(knows_two, config=config), run(knows_two, stage="none")
    assert svs.groups == plain.groups != []
    assert svs.counters["contexts"] == 0
    assert svs.counters.items() >= plain.counters.items()


def test_step_whose_responses_hold_no_problem_still_trains_on_the_originals():
    """B5, second place: no extractable variant."""
    experience = run(lambda prompt, random: "no" if prompt.startswith("REWRITE") else half_sure(prompt, random))
    assert experience.counters["contexts"] > 0
    assert experience.counters["variants_valid"] == 0
    assert {group.task.kind for group in experience.groups} == {ORIGINAL}


def test_empty_step_gives_an_empty_experience():
    assert run(tasks=[]).groups == []


def test_no_weights_are_loaded_within_a_step():
    """B6: the reference code syncs weights before each of the three generations."""
    engine = PolicyEngine(half_sure)
    run(engine=engine)
    assert engine.weight_loads == 0


def test_one_slow_group_holds_nothing_else_up():
    """B7: the reference code waits for all of one kind before it asks for the next."""
    straggler = STEP[0].key
    finished: list[str] = []

    class OneIsSlow(PolicyEngine):
        def poll(self, timeout):
            quick = [request for request in self.waiting if request.key != straggler]
            request = (quick or self.waiting)[0]
            finished.append(request.key)
            return [self._finish(request)]

    experience = run(engine=OneIsSlow(half_sure))
    before = finished[: finished.index(straggler)]
    others = [g.task for g in [*experience.groups, *experience.discarded] if not g.task.key.startswith(straggler)]
    assert {task.key for task in others} == set(before)
    assert any(task.kind == VARIANT for task in others)


def test_no_group_is_cut_to_fit_a_number_of_ranks():
    """B9: the reference code drops the tail of the batch, which can split a group."""
    config = {"variants_per_context": 3, "samples_per_variant": 5}
    for group in run(config=config).groups:
        assert len(group.rollouts) == {ORIGINAL: 8, SYNTHESIS: 3, VARIANT: 5}[group.task.kind]


def test_rollouts_keep_their_own_tokens_whatever_they_were_made_from():
    """B1 and B10: responses are ragged; a derived group never carries its source's lengths."""
    experience = run()
    for group in [*experience.groups, *experience.discarded]:
        assert [len(r.response_ids) for r in group.rollouts] == [len(text) for text in group.texts]
        assert [len(r.logprobs) for r in group.rollouts] == [len(text) for text in group.texts]


def test_synthesis_has_its_own_token_limit_and_truncation_is_counted():
    engine = PolicyEngine(half_sure)
    experience = run(engine=engine, config={"max_synthesis_tokens": 4})
    assert {r.sampling.max_tokens for r in engine.requests} == {200, 4}
    assert experience.counters["truncated/synthesis"] > 0
    assert experience.counters["truncated/original"] == 0


def test_groups_that_finish_together_are_verified_together_with_the_same_result():
    class Waves(PolicyEngine):
        def poll(self, timeout):
            return [self._finish(request) for request in list(self.waiting)]

    verifier, one_by_one = BoxVerifier(), BoxVerifier()
    assert run(engine=Waves(half_sure), verifier=verifier) == run(verifier=one_by_one)
    assert len(verifier.calls) == 2 < len(one_by_one.calls)


def test_progress_sees_every_group_once():
    seen: dict[str, int] = {}
    experience = run(progress=lambda group, asked: seen.update({group.task.key: asked}))
    assert sorted(seen) == sorted(g.task.key for g in [*experience.groups, *experience.discarded])
    assert list(seen.values()) == sorted(seen.values())
    assert max(seen.values()) == len(seen)


def test_two_tasks_with_one_key_are_refused():
    with pytest.raises(ValueError, match="key"):
        run(tasks=[STEP[0], replace(STEP[1], key=STEP[0].key)])


def test_engine_that_loses_a_group_is_an_error_and_no_endless_loop():
    class Loser(PolicyEngine):
        def poll(self, timeout):
            self.waiting.clear()
            return []

    with pytest.raises(RuntimeError, match="gave back only 0 of the 5 groups"):
        run(engine=Loser(half_sure))


def test_rewarding_any_solvable_problem_pays_for_leaked_answers():
    """Appendix G: under 1[acc > 0] a policy that writes the answer into the problem earns every synthesis reward, and
    its solutions are all correct, so nothing is learned from them. The band pays nothing for it."""

    def leaks(prompt: str, random: Random) -> str:
        if prompt.startswith("REWRITE"):
            answer = prompt.split("boxed{")[1].split("}")[0]
            return f"```text\nSum number {random.random()}. Hint: the answer is {answer}.\n```"
        if "Hint" in prompt:
            return rf"\boxed{{{prompt.split('answer is ')[1].rstrip('.')}}}"
        return rf"\boxed{{{random.choice(['0', '2', '4', '6', '8'])}}}"

    def contents(text: str) -> tuple[int, ...]:
        return encode("REWRITE" + text.split("<response>")[1].split("</response>")[0])

    def reward(rule: str) -> Experience:
        stage = STAGES.get("svs")(
            SelfPlayConfig(shaping=ShapingConfig(rule=rule)),
            StageTools(lambda problem: encode(problem.question), contents, 1000, 200),
        )
        return collect(stage, STEP, PolicyEngine(leaks), BoxVerifier(), decode, SAMPLING, seed=3)

    solvable, band = reward("solvable"), reward("band")
    assert solvable.counters["variants_valid"] == band.counters["variants_valid"] > 0
    assert solvable.counters["solve_rate/variant"] == 1
    assert solvable.counters["reward/synthesis"] == 1
    assert solvable.counters["kept_samples/variant"] == 0
    assert band.counters["reward/synthesis"] == 0
    assert band.counters["kept_samples/synthesis"] == 0


def test_verdicts_stand_with_their_texts():
    for group in run().discarded + run().groups:
        for text, verdict in zip(group.texts, group.verdicts, strict=False):
            assert (verdict is Verdict.CORRECT) == (rf"\boxed{{{group.task.problem.answer}}}" in text)


def play_on_a_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    verifier = BoxVerifier(slow_half)
    experience = run(verifier=verifier)
    checked = sum(len(call) for call in verifier.calls)
    Path(folder, str(rank)).write_text(f"{checked}\n{experience!r}")
    dist.destroy_process_group()


def test_two_ranks_share_the_verification_and_see_the_same_experience(tmp_path):
    torch.multiprocessing.start_processes(play_on_a_rank, (str(tmp_path),), nprocs=2, start_method="forkserver")
    (first, one), (second, two) = ((tmp_path / name).read_text().split("\n", 1) for name in "01")
    verifier = BoxVerifier()
    assert one == two == repr(run(verifier=verifier))
    assert int(first) + int(second) == sum(len(call) for call in verifier.calls)
    assert min(int(first), int(second)) > 0
