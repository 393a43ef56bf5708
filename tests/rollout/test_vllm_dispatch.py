"""Whatever fails, is given up or comes back: every sample of a wanted group is counted once, by one server."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastsvs.rollout import Request, Rollout, SamplingParams
from fastsvs.rollout.vllm.dispatch import Call, Dispatcher

SERVERS = ["a", "b", "c"]


def request(index: int, samples: int, first: int = 0) -> Request:
    return Request(f"r{index}", (index,), samples, SamplingParams(), seed=0, first_sample=first)


def rollouts(call: Call) -> list[Rollout]:
    key = int(call.group.request.key[1:])
    return [Rollout((key, sample), (0.0, 0.0), "stop", 1) for sample in call.samples]


@given(st.data(), st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 8), st.integers(1, 30))
def test_every_sample_is_counted_once(data: st.DataObject, sizes: list[int], per_call: int, window: int) -> None:
    dispatcher = Dispatcher(per_call, window)
    groups, dropped, flying = {}, set(), []
    for index, size in enumerate(sizes):
        dispatcher.add(request(index, size, first=3 * (index % 2)))
    for _ in range(400):
        up = data.draw(st.sets(st.sampled_from(SERVERS), min_size=1))
        flying += dispatcher.assign(up)
        if not flying:
            break
        call, server = flying.pop(data.draw(st.integers(0, len(flying) - 1)))
        match data.draw(st.sampled_from(["complete", "complete", "complete", "fail", "server fails", "drop"])):
            case "complete":
                if (group := dispatcher.complete(call, rollouts(call))) is not None:
                    assert call.group.request.key not in groups
                    groups[call.group.request.key] = group
            case "fail":
                dispatcher.give_back(call)
            case "server fails":
                flying.append((call, server))
                lost = dispatcher.calls_on(server)
                for other in lost:
                    dispatcher.give_back(other)
                flying = [(other, where) for other, where in flying if other not in lost]
                assert dispatcher.load(server) == 0
            case "drop":
                flying.append((call, server))
                dropped.add(call.group.request.key)
                gone = dispatcher.drop([call.group.request.key])
                assert {other.group for other in gone} == {call.group}
                flying = [(other, where) for other, where in flying if other not in gone]
        for name in SERVERS:
            assert dispatcher.load(name) == sum(len(other.samples) for other, where in flying if where == name)
    else:
        for call, _ in flying:
            dispatcher.give_back(call)
        while assigned := dispatcher.assign(SERVERS):
            for call, _ in assigned:
                if (group := dispatcher.complete(call, rollouts(call))) is not None:
                    groups[call.group.request.key] = group
    assert dispatcher.waiting() == 0
    assert groups.keys() | dropped == {f"r{index}" for index in range(len(sizes))}
    assert not groups.keys() & dropped
    for key, group in groups.items():
        index = int(key[1:])
        first = 3 * (index % 2)
        numbers = range(first, first + sizes[index])
        assert [rollout.response_ids for rollout in group] == [(index, number) for number in numbers]


def test_the_least_loaded_server_is_next_and_none_goes_over_its_window() -> None:
    dispatcher = Dispatcher(samples_per_call=8, window=8)
    for index in range(10):
        dispatcher.add(request(index, 4))
    first = dispatcher.assign(SERVERS)
    assert [server for _, server in first] == ["a", "b", "c", "a", "b", "c"]
    assert dispatcher.assign(SERVERS) == []
    assert dispatcher.waiting() == 16
    dispatcher.complete(first[1][0], rollouts(first[1][0]))
    assert [server for _, server in dispatcher.assign(SERVERS)] == ["b"]


def test_parts_of_a_large_group_share_a_prefix_cache() -> None:
    dispatcher = Dispatcher(samples_per_call=8, window=64)
    dispatcher.add(request(0, 20))
    assigned = dispatcher.assign(SERVERS)
    assert [(call.samples, server) for call, server in assigned] == [
        (range(8), "a"),
        (range(8, 16), "a"),
        (range(16, 20), "a"),
    ]


def test_a_request_that_failed_goes_before_those_that_wait() -> None:
    dispatcher = Dispatcher(samples_per_call=8, window=8)
    dispatcher.add(request(0, 8))
    dispatcher.add(request(1, 8))
    [(call, _)] = dispatcher.assign(["a"])
    dispatcher.give_back(call)
    assert dispatcher.assign(["b"]) == [(call, "b")]
