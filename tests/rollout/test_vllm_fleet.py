"""What becomes of requests and servers when one of them fails, over real HTTP, with servers that only speak."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from speaking_fleet import check_each_sample_once, collect, expected, opened, publish, requests
from speaking_server import EOS, VOCABULARY, SpeakingServer

from fastsvs.client import ExpertShape
from fastsvs.config import ServerConfig
from fastsvs.errors import EngineFailure, UserError
from fastsvs.rollout import Request, SamplingParams, VllmEngine
from fastsvs.rollout.vllm import ExternalServer

Opener = Callable[..., VllmEngine]
CONFIG = ServerConfig(start_timeout_seconds=30, stall_timeout_seconds=60, max_restarts=2)
IMPATIENT = CONFIG.model_copy(update={"stall_timeout_seconds": 0.5})
"""For servers that hang; on a busy host it may take the others for hung as well."""


@pytest.fixture
def open_engine() -> Iterator[Opener]:
    """See `speaking_fleet.opened`; the engine is closed after the test."""
    with ExitStack() as stack:

        def open_one(servers: Sequence[SpeakingServer], config: ServerConfig = CONFIG, **options: Any) -> VllmEngine:
            return stack.enter_context(opened(servers, config, **options))

        yield open_one


def test_groups_come_whole_and_in_sample_order(open_engine: Opener) -> None:
    engine = open_engine([SpeakingServer("a")])
    asked = [*requests(10), *requests(1, samples=40, first=10)]  # the last takes three HTTP requests
    engine.submit(asked)
    groups = collect(engine)
    check_each_sample_once(groups, asked)
    assert all(rollout.weight_version == 1 and not rollout.mixed_versions for _, group in groups for rollout in group)
    reasons = {rollout.finish_reason: rollout.response_ids[-1] for _, group in groups for rollout in group}
    assert reasons.keys() == {"stop", "length"}
    assert reasons["stop"] == EOS


def test_load_is_spread_and_groups_stay_together(open_engine: Opener) -> None:
    servers = [SpeakingServer("a"), SpeakingServer("b"), SpeakingServer("c")]
    engine = open_engine(servers)
    asked = requests(60)
    engine.submit(asked)
    check_each_sample_once(collect(engine), asked)
    assert all(15 <= server.served <= 25 for server in servers)
    assert all(samples == 4 for server in servers for _, samples in server.heard)


def test_a_server_gets_nothing_before_its_weights(open_engine: Opener) -> None:
    a, b = SpeakingServer("a"), SpeakingServer("b")
    engine = open_engine([a, b], load=False)
    with pytest.raises(ValueError, match="published"):
        engine.submit(requests(1))
    assert [endpoint.name for endpoint in engine.endpoints(10)] == ["a", "b"]
    engine.weights_loaded(["b"], 1)
    assert engine.stale()
    engine.submit(requests(8))
    collect(engine, refresh=False)
    assert (a.served, b.served) == (0, 8)
    publish(engine, 1)
    assert not engine.stale()
    engine.submit(requests(8))
    collect(engine, refresh=False)
    assert a.served > 0


@pytest.mark.parametrize(
    "fault", ["babble", "html", "error", "drop", "dead", "hung", "refuse", "redirect", "flood", "half"]
)
def test_the_requests_of_a_failing_server_go_elsewhere_and_it_comes_back(open_engine: Opener, fault: str) -> None:
    a, b = SpeakingServer("a"), SpeakingServer("b")
    engine = open_engine([a, b], IMPATIENT if fault == "hung" else CONFIG)

    def fail_once() -> None:
        if a.served >= 3 and a.started == 1:
            a.manners = fault

    a.on_request = fail_once
    stop = a.stop

    async def stop_and_recover() -> None:
        await stop()
        a.manners = "good"

    a.stop = stop_and_recover  # type: ignore[method-assign]
    asked = requests(100)
    engine.submit(asked)
    check_each_sample_once(collect(engine), asked)
    deadline = time.monotonic() + 20
    while engine.metrics()["rollout/servers"] < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert a.started >= 2
    publish(engine, 1)
    engine.submit(asked)
    check_each_sample_once(collect(engine), asked)
    assert a.served > 4


def test_metrics_count_what_happened_since_the_last_look(open_engine: Opener) -> None:
    a, b = SpeakingServer("a"), SpeakingServer("b")
    engine = open_engine([a, b])
    asked = requests(20)
    a.manners = "slow"
    engine.submit(asked)
    while engine.pending() > 10:
        engine.poll(1)
    running = engine.metrics()
    assert running["rollout/samples_running/a"] > 0
    assert running["rollout/generated_tokens"] > 0
    [endpoint] = [endpoint for endpoint in engine.endpoints(10) if endpoint.name == "a"]
    engine.report_failure(endpoint, "the test says so")
    engine.report_failure(endpoint, "twice")
    collect(engine)
    then = engine.metrics()
    assert then["rollout/restarts"] == 1
    assert then["rollout/requests_resent"] * 4 == running["rollout/samples_running/a"]
    assert then["rollout/unavailable_seconds"] > 0
    tokens = sum(len(ids) for request in asked for ids in expected(request))
    assert running["rollout/generated_tokens"] + then["rollout/generated_tokens"] == tokens
    assert engine.metrics()["rollout/generated_tokens"] == 0


def test_an_aborted_request_is_given_up_by_its_server(open_engine: Opener) -> None:
    server = SpeakingServer("a", "slow")
    engine = open_engine([server], ServerConfig(stall_timeout_seconds=60))
    first, second = requests(2)
    engine.submit([first, second])
    while server.calls["/inference/v1/generate"] < 3:  # with the warm-up
        time.sleep(0.01)
    engine.abort([first.key, "never heard of"])
    assert engine.pending() == 1
    deadline = time.monotonic() + 10
    while server.given_up < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.given_up == 1
    server.manners = "good"
    engine.submit([first])  # its key is free again
    engine.abort([second.key])
    check_each_sample_once(collect(engine), [first])


def test_the_run_ends_clearly_when_no_restart_is_left(open_engine: Opener) -> None:
    server = SpeakingServer("a", "babble")
    engine = open_engine([server])
    engine.submit(requests(3))
    with pytest.raises(EngineFailure, match="no rollout server is left: a: answered nonsense"):
        collect(engine)
    assert server.started == 1 + CONFIG.max_restarts
    with pytest.raises(EngineFailure):
        engine.poll(5)
    with pytest.raises(EngineFailure):
        engine.endpoints(5)
    with pytest.raises(EngineFailure):
        engine.stale()


def test_the_run_goes_on_without_a_server_whose_restarts_are_used_up(open_engine: Opener) -> None:
    bad, good = SpeakingServer("a", "babble"), SpeakingServer("b")
    engine = open_engine([bad, good])
    for first in (0, 20, 40, 60):
        asked = requests(20, first=first)
        engine.submit(asked)
        check_each_sample_once(collect(engine), asked)
        publish(engine, 1)
    assert bad.started == 1 + CONFIG.max_restarts
    assert [endpoint.name for endpoint in engine.endpoints(1)] == ["b"]


def test_a_server_that_cannot_be_started_at_all_is_an_error_at_once(open_engine: Opener) -> None:
    engine = open_engine([SpeakingServer("a", starts=0), SpeakingServer("b")], load=False)
    with pytest.raises(EngineFailure, match=r"cannot be started: a: .*it will not start"):
        engine.endpoints(30)


def test_a_refused_request_ends_the_run_with_the_servers_words(open_engine: Opener) -> None:
    engine = open_engine([SpeakingServer("a", "wrong request")])
    engine.submit(requests(1))
    with pytest.raises(EngineFailure, match="too long for me"):
        collect(engine)


def test_a_request_for_later_samples_goes_on_where_another_ended(open_engine: Opener) -> None:
    """Calls hold 16 samples at most, so that the second request takes several."""
    engine = open_engine([SpeakingServer("a"), SpeakingServer("b")])
    [whole] = requests(1, samples=40)
    for first, samples in ((0, 3), (3, 37)):
        part = replace(whole, samples=samples, first_sample=first)
        engine.submit([part])
        check_each_sample_once(collect(engine), [part])
        assert expected(part) == expected(whole)[first : first + samples]


def test_greedy_samples_are_asked_for_once_and_given_as_often_as_wanted(open_engine: Opener) -> None:
    server = SpeakingServer("a")
    engine = open_engine([server])
    greedy = SamplingParams(max_tokens=8, temperature=0.0)
    engine.submit([Request("g", (1, 2), samples=5, sampling=greedy, seed=0)])
    [(_, rollouts)] = collect(engine)
    assert {samples for _, samples in server.heard} == {1}  # vLLM refuses more
    assert len(rollouts) == 5
    assert {rollout.response_ids for rollout in rollouts} == {rollouts[0].response_ids}
    assert {logprob for rollout in rollouts for logprob in rollout.logprobs} == {0.0}


def test_diverged_weights_are_not_the_servers_fault(open_engine: Opener) -> None:
    server = SpeakingServer("a", "diverged")
    engine = open_engine([server])
    engine.submit(requests(1))
    with pytest.raises(FloatingPointError, match="diverged"):
        collect(engine)
    assert server.started == 1


def test_external_servers_are_avoided_and_found_again_but_never_stopped(open_engine: Opener) -> None:
    a, b = SpeakingServer("a", ours=False), SpeakingServer("b", ours=False)
    engine = open_engine([a, b], IMPATIENT)
    a.manners = "hung"
    asked = requests(40)
    engine.submit(asked)
    check_each_sample_once(collect(engine), asked)
    assert engine.metrics()["rollout/servers"] == 1
    a.manners = "good"
    deadline = time.monotonic() + 20
    while not engine.stale() and time.monotonic() < deadline:
        time.sleep(0.05)
    publish(engine, 1)
    asked = requests(40, first=40)
    served = a.served
    engine.submit(asked)
    check_each_sample_once(collect(engine), asked)
    assert a.served > served


@pytest.mark.parametrize(
    ("section", "option", "value", "fault"),
    [
        ("model_config", "logprobs_mode", "raw_logprobs", "--logprobs-mode is raw_logprobs and must be processed_log"),
        ("model_config", "max_model_len", 63, "--max-model-len is 63 and must be 64"),
        ("scheduler_config", "max_num_seqs", 8, "--max-num-seqs is 8 and must be 16"),
    ],
)
def test_external_servers_must_be_started_for_us(
    open_engine: Opener, section: str, option: str, value: object, fault: str
) -> None:
    server = SpeakingServer("a", ours=False)
    server.settings[section][option] = value  # type: ignore[assignment]
    engine = open_engine([server], load=False)
    with pytest.raises(EngineFailure, match=fault):
        engine.endpoints(5)


def test_external_servers_must_say_experts_where_they_are_replayed(open_engine: Opener) -> None:
    server = SpeakingServer("a", ours=False)
    engine = open_engine([server], load=False, experts=ExpertShape(layers=2, active=2, count=4, routed=(0, 1)))
    with pytest.raises(EngineFailure, match="--enable-return-routed-experts is off and must be on"):
        engine.endpoints(5)


def test_settings_that_make_no_sense_are_no_settings(open_engine: Opener) -> None:
    server = SpeakingServer("a", ours=False)
    server.settings = "[" * 10**5  # type: ignore[assignment]
    config = CONFIG.model_copy(update={"start_timeout_seconds": 0.5})
    engine = open_engine([server], config, load=False)
    with pytest.raises(EngineFailure, match="failed its first request"):
        engine.endpoints(5)


def test_external_servers_without_a_guard_are_refused_unless_told(open_engine: Opener) -> None:
    server = SpeakingServer("a", ours=False)
    server.guarded = False
    engine = open_engine([server], load=False)
    with pytest.raises(EngineFailure, match=r"answers /is_paused without a key .* rollout\.server\.unguarded=true"):
        engine.endpoints(5)
    told = open_engine([server], CONFIG.model_copy(update={"unguarded": True}))
    asked = requests(4)
    told.submit(asked)
    check_each_sample_once(collect(told), asked)


def test_external_servers_that_never_answer_end_the_run(open_engine: Opener) -> None:
    config = ServerConfig(start_timeout_seconds=0.5, stall_timeout_seconds=0.5)
    engine = open_engine([ExternalServer("a", "http://127.0.0.1:9")], config, load=False)
    with pytest.raises(EngineFailure, match=r"has answered for 0\.5 s: a: it does not answer"):
        engine.endpoints(0.1)


def test_a_restart_between_publish_and_its_report_leaves_a_server_stale(open_engine: Opener) -> None:
    a, b = SpeakingServer("a"), SpeakingServer("b")
    engine = open_engine([a, b])
    endpoints = engine.endpoints(10)
    engine.report_failure(endpoints[0], "died while it received")
    while a.started < 2 or engine.metrics()["rollout/servers"] < 2:
        time.sleep(0.02)
    engine.weights_loaded(["a", "b"], 2)
    assert engine.stale()


def test_sleeping_servers_wake_for_weights(open_engine: Opener) -> None:
    server = SpeakingServer("a")
    engine = open_engine([server], shares_devices=True)
    [before] = engine.endpoints(10)
    engine.weights_loaded(["a"], 1)
    engine.sleep()
    assert server.asleep
    engine.submit(requests(2))
    assert engine.poll(0.2) == []
    [after] = engine.endpoints(10)
    assert not server.asleep
    assert after.incarnation > before.incarnation
    assert engine.stale()
    engine.weights_loaded(["a"], 1)
    collect(engine)
    assert server.served == 2


def test_servers_with_devices_of_their_own_do_not_sleep(open_engine: Opener) -> None:
    server = SpeakingServer("a")
    engine = open_engine([server])
    engine.sleep()
    assert not server.asleep
    engine.submit(requests(2))
    collect(engine)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"prompt_ids": ()}, "prompt is empty"),
        ({"prompt_ids": (VOCABULARY,)}, "outside the model's vocabulary"),
        ({"samples": 0}, "samples=0"),
        ({"first_sample": -1}, "first_sample=-1 must be at least 0"),
        ({"sampling": SamplingParams(max_tokens=64)}, "max-model-len of 64"),
        (
            {"sampling": SamplingParams(max_tokens=8, temperature=0.001)},
            r"temperature=0.001 must be 0 or lie in \[0.01, 2.0\]",
        ),
        ({"sampling": SamplingParams(max_tokens=8, top_p=0.0)}, "top_p=0.0"),
    ],
)
def test_requests_that_no_server_can_serve_are_refused(open_engine: Opener, change: dict, fault: str) -> None:
    engine = open_engine([SpeakingServer("a")])
    values = {"key": "k", "prompt_ids": (1,), "samples": 1, "sampling": SamplingParams(max_tokens=8), "seed": 0}
    with pytest.raises(UserError, match=fault):
        engine.submit([*requests(1), Request(**values | change)])
    assert engine.pending() == 0
