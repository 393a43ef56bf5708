"""The rehearsal of the 32B job: its judgement and its stand-in servers, and the whole of it on a small scale."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_runs import ROOT, environment

from bench import report
from bench.rehearsal import __main__ as rehearsal
from bench.rehearsal.answers import HALF, NEVER, Writer, answer, question
from bench.rehearsal.cluster import RehearsalError
from bench.rehearsal.figures import ALLOWED, Start, costs, growth, processor_per_token, start_of, too_steep
from bench.rehearsal.hosts import open_hosts
from bench.rehearsal.inputs import TEMPLATE, problem, write_inputs
from bench.rehearsal.phases import Moment, Phase, now, read_phases, recorded
from bench.rehearsal.rank import Place
from bench.rehearsal.scales import FULL, SCALES, SMALL, command_line
from fastsvs import config, network
from fastsvs.client import Expected, read_samples
from fastsvs.config import TrainJob
from fastsvs.rollout import read_nodes
from fastsvs.selfplay.svs.extraction import read_variants
from fastsvs.telemetry import StepProgress


def moment(at: float, processor: float = 0.0, received: int = 0) -> Moment:
    return Moment(at, processor, processor / 2, loopback=0, link=received, files=9)


def job(cost: Callable[[float], float], tokens: float, steps: int = 3) -> list[Start]:
    """Return one start whose updates cost `cost(tokens)` CPU seconds and MiB, as does everything a sync."""
    phases, at, spent = [], 0.0, 0.0
    for _ in range(steps):
        for name, more in (("sync", 5.0), ("update", cost(tokens))):
            begin = moment(at, spent, int(spent * 2**20))
            at, spent = at + 1.0, spent + more
            phases.append(Phase(name, begin, moment(at, spent, int(spent * 2**20))))
    row = {
        **{"time/step": 2.0, "throughput/response_tokens_per_second": tokens / 2.0, "time/generation": 1.0},
        **{"time/update": 1.0, "throughput/trained_tokens_per_second": tokens, "sync/bytes": 100.0, "samples/a": 4.0},
    }
    numbers = range(1, steps + 1)
    return [start_of(phases, dict.fromkeys(numbers, row), dict.fromkeys(numbers, 10), steps)]


@given(slope=st.floats(1e-3, 1.0), fixed=st.floats(0.0, 100.0), tokens=st.integers(100, 10_000))
def test_costs_that_grow_as_the_data_or_less_are_no_fault(slope: float, fixed: float, tokens: int) -> None:
    before, after = (costs(job(lambda t: fixed + slope * t, size)) for size in (tokens, 2 * tokens))
    assert too_steep(before, after) == []


def test_a_phase_that_grows_with_the_square_of_its_data_is_named() -> None:
    before, after = (costs(job(lambda t: (t / 100) ** 2, size)) for size in (1000, 2000))
    faults = {fault.split(" where")[0].split()[-1]: fault for fault in too_steep(before, after)}
    assert faults.keys() == {"CPU", "bytes"}
    assert all(fault.startswith("phase 'update' took") for fault in faults.values())
    assert "400 s CPU where 260 are allowed" in faults["CPU"]
    assert "took 100 with 1,000 of its data, which are 2,000 now" in faults["CPU"]


def test_a_phase_without_data_may_not_grow() -> None:
    before = costs(job(lambda t: 1.0, 1000))
    after = costs(job(lambda t: 1.0, 2000))
    after["sync", "s CPU"] = type(after["sync", "s CPU"])(total=8.0, data=1.0, times=1)
    assert len(too_steep(before, after)) == 1


def test_growth_is_of_a_unit_of_data() -> None:
    before, after = (costs(job(lambda t: (t / 100) ** 2, size)) for size in (1000, 2000))
    rows = {row.metric: row for row in growth(before, after)}
    assert rows["update: growth of s CPU"].value == pytest.approx(2.0)
    assert rows["update: growth of s CPU"].limit == ALLOWED
    assert rows["update: growth of s"].limit is None  # of the clock: not judged
    assert rows["sync: growth of s CPU"].value == pytest.approx(1.0)


def test_the_first_step_of_a_start_and_the_last_of_the_job_are_left_out() -> None:
    [start] = job(lambda t: 1.0, 1000, steps=3)
    assert [len(step.phases) for step in start.steps] == [2, 2, 2]
    assert [step.last for step in start.steps] == [False, False, True]
    assert costs([start])["update", "s CPU"].times == 1
    assert processor_per_token(start.steps) == {
        "main thread": pytest.approx(0.003),
        "other threads": pytest.approx(0.003),
    }


def test_a_step_that_was_cut_short_is_no_step() -> None:
    [start] = job(lambda t: 1.0, 1000, steps=2)
    row, more = start.steps[0].metrics, Phase("sync", moment(9.0), moment(10.0))
    again = start_of([*start.phases, more], {7: row, 8: row}, {7: 1, 8: 2}, last=8)
    assert [step.sample_bytes for step in again.steps] == [1, 2]
    assert [len(step.phases) for step in again.steps] == [2, 2]


def test_what_is_no_part_of_a_step_counts_wherever_it_is() -> None:
    [start] = job(lambda t: 1.0, 1000)
    rare = [Phase(name, moment(0.0), moment(1.0, 7.0)) for name in ("resume", "evaluation", "save")]
    starts = [Start([*rare, *start.phases, *rare[1:]], start.steps)] * 2
    found = costs(starts)
    assert (found["evaluation", "s CPU"].times, found["save", "s CPU"].times) == (4, 4)
    assert found["resume", "s CPU"].times == 1  # not of the new run
    assert found["evaluation", "s CPU"].each == 7.0


def test_phases_are_recorded_with_what_they_took(tmp_path: Path) -> None:
    path = tmp_path / "phases.jsonl"
    with StepProgress("test", 1, 0, enabled=False) as progress:
        phase = recorded(StepProgress.phase, path)
        with phase(progress, "update"):
            sum(range(300_000))
    [seen] = read_phases(path)
    assert seen.name == "update"
    assert seen.processor > 0
    assert seen.end.seconds <= now().seconds
    assert seen.begin.files > 0


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(SMALL, folder)
    return Writer.from_settings({"model": str(folder / "model"), "long_median": 100, "short_median": 10})


def ask(writer: Writer, prompt: str, samples: int = 8, limit: int = 400) -> list[str]:
    """Return the texts of an answer that the client has accepted."""
    ids = writer.tokenizer.encode(prompt).ids
    sampling = {"n": samples, "seed": 7, "max_tokens": limit, "stop_token_ids": [3]}
    made = answer(writer.samples(ids, sampling, "5"))
    assert made == answer(writer.samples(ids, sampling, "5"))
    expected = Expected(samples, limit, {3}, writer.tokenizer.get_vocab_size(), version=5)
    return [writer.tokenizer.decode(sample.ids.tolist()) for sample in read_samples(made, expected)]


def test_servers_solve_what_they_are_told_to(writer: Writer) -> None:
    solved = [text.endswith("\\boxed{41}") for text in ask(writer, problem(41, HALF)["question"])]
    assert solved.count(True) == 3
    never = ask(writer, problem(41, NEVER)["question"], limit=2000)
    assert not any("41}" in text for text in never)


def test_a_right_response_becomes_problems_that_keep_its_answer(writer: Writer) -> None:
    right = next(text for text in ask(writer, problem(41, HALF)["question"]) if "{41}" in text)
    written = ask(writer, TEMPLATE.replace("{response}", right), samples=4)
    variants = read_variants(written, problem(41, HALF)["question"], TEMPLATE, "</think>")
    assert [variant.rejection for variant in variants] == [None] * 4
    assert [NEVER in variant.question for variant in variants] == [False, True, False, True]
    assert any("{41}" in text for text in ask(writer, variants[0].question))


def test_lengths_do_not_go_over_the_limit(writer: Writer) -> None:
    texts = writer.samples([5, 6], {"n": 32, "seed": 1, "max_tokens": 9, "stop_token_ids": [3]}, "1")
    assert {choice["finish_reason"] for choice in texts} == {"length"}
    assert all(len(choice["token_ids"]) == 9 for choice in texts)
    assert writer.response(question("a", NEVER, 1), random.Random(1), 0)[1] == 100


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_the_job_is_the_shipped_one(scale, tmp_path: Path) -> None:
    words = command_line(scale, tmp_path, tmp_path / "run", prompts=8, steps=3)
    made = config.load(TrainJob, ROOT / words[1], list(words[2:]))
    assert made.train.staleness == 1
    assert made.rollout.placement == "dedicated"
    assert made.policy.tensor_parallel * made.policy.pipeline_parallel <= scale.training_ranks
    if scale is FULL:
        shipped = config.load(TrainJob, ROOT / words[1], [])
        assert made.policy == shipped.policy
        assert made.algorithm == shipped.algorithm
        assert made.rollout.server.count == 8 // shipped.rollout.server.tensor_parallel


def test_ranks_are_told_their_place_as_torchrun_does(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = Place(node=2, nodes=4, local=0, ranks=8, address="10.0.0.1", port=1234).variables()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    words = command_line(FULL, Path("in"), Path("run"), prompts=8, steps=3)
    nodes = read_nodes(config.load(TrainJob, ROOT / words[1], list(words[2:])).rollout)
    assert (nodes.serves, nodes.leads, nodes.trainers, nodes.own) == (True, True, 16, 2)
    assert network.read_place(os.environ) == network.Place(2, 4, True, "10.0.0.1")
    assert variables["RANK"] == "16"


def test_nodes_are_gone_in_the_end() -> None:
    with open_hosts(2) as hosts:
        if not hosts.names:
            pytest.skip("network namespaces are not permitted here")
        words = ["ip", "netns", "exec", hosts.names[1]]
        subprocess.run([*words, "ping", "-c1", "-W5", hosts.main_address], check=False)
        inside = [*words, "sh", "-c", "echo inside; exec sleep 60"]
        with subprocess.Popen(inside, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout.readline() == "inside\n"
                assert hosts.processes(1) == [process.pid]
                assert hosts.processes(0) == []
            finally:
                process.kill()
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert not any(name in left for name in hosts.names)


@pytest.mark.parametrize("outcome", ["steep", "failed"])
def test_what_went_wrong_is_named(outcome: str, monkeypatch, capsys, tmp_path: Path) -> None:
    def rehearse(*_: object) -> tuple[list[report.Row], list[str]]:
        if outcome == "failed":
            raise RehearsalError("the job is not done")
        return [], ["phase 'update' took too much"]

    monkeypatch.setattr(rehearsal, "rehearse", rehearse)
    assert rehearsal.main(["--out", str(tmp_path), "--scale", "small"]) == 1
    said = capsys.readouterr().err
    assert "rehearsal: phase 'update' took too much" in said or "rehearsal: the job is not done" in said


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_the_whole_job_on_a_small_scale(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.rehearsal", "--out", str(tmp_path / "out"), "--scale", "small"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        [*command, "--keep", str(tmp_path / "runs")],
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=1900,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    [file] = (tmp_path / "out").glob("rehearsal-small-*.json")
    found = {(row["case"], row["metric"]): row["value"] for row in json.loads(file.read_text())["rows"]}
    case = f"{2 * SMALL.prompts} problems a step"
    assert found[case, "newest checkpoint after the kill"] in (1, 2)
    for phase in ("sync", "rollout", "update", "save", "evaluation", "resume"):
        assert found[case, phase] > 0
    assert found[case, "weights sent"] > 0
    assert found[case, "peak open files, rank 0"] > 0
    assert found[case, "peak memory, its share of what it shares included, rank 0"] > 0
