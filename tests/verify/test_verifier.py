"""The verifier as a whole: real benchmarks, answers that never end, workers and trainers that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from waiting import alive

from fastsvs.config import VerifierConfig
from fastsvs.errors import UserError
from fastsvs.verify import Verdict, Verifier
from fastsvs.verify.limits import workers_of_machine

EVAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"
ENDLESS = [r"\binom{1000000000}{500000000}", r"\Gamma(1000000000)", r"\sum_{n=1}^{10^{12}} \sin n"]


def box(answer: str) -> str:
    return rf"Therefore \boxed{{{answer}}}."


@pytest.fixture(scope="module")
def verifier():
    with Verifier(VerifierConfig(workers=2, timeout_seconds=10)) as verifier:
        yield verifier


@pytest.fixture
def impatient():
    with Verifier(VerifierConfig(workers=2, timeout_seconds=0.5)) as verifier:
        yield verifier


def worker_ids(parent: int) -> list[int]:
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == parent and "fastsvs.verify.worker" in row[2]]


def busy_workers(verifier: Verifier) -> list[int]:
    """Wait for the workers that are at work on an answer, and return their process ids."""
    while not (busy := [worker.process.pid for worker in list(verifier._pool._workers.values()) if worker.request]):
        time.sleep(0.01)
    return busy


def wait_until(condition) -> None:
    """Polls; the suite's time limit ends a wait in vain."""
    while not condition():
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("cores", "ranks", "workers"), [(1, 1, 2), (2, 1, 2), (8, 1, 4), (16, 1, 8), (16, 8, 2), (128, 8, 8), (192, 1, 16)]
)
def test_as_many_workers_as_the_machine_has_room_for(monkeypatch, cores, ranks, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert workers_of_machine() == workers
    assert f"up to {workers} processes" in Verifier(VerifierConfig()).facts[0]
    assert "up to 3 processes" in Verifier(VerifierConfig(workers=3)).facts[0]


@pytest.mark.parametrize(("name", "solution"), [("math500", "solution"), ("aime24", "solution"), ("gsm8k", "answer")])
def test_gold_solutions_verify_against_their_answers(verifier, name, solution):
    path = EVAL / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = [(row[solution], str(row["answer"]).rpartition("####")[2].strip()) for row in rows]
    verdicts = verifier.verify(pairs)
    failed = {gold: verdict for (_, gold), verdict in zip(pairs, verdicts, strict=True) if verdict != Verdict.CORRECT}
    assert failed == {}
    assert len(pairs) == {"math500": 500, "aime24": 30, "gsm8k": 1319}[name]


@pytest.mark.parametrize("name", ["math500", "gsm8k"])
def test_solutions_of_other_problems_are_wrong(verifier, name):
    path = EVAL / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:100]]
    answers = [str(row["answer"]).rpartition("####")[2].strip() for row in rows]
    by_chance_equal = {("5", "x=5")}
    different = [pair for pair in pairwise(answers) if pair[0] != pair[1] and pair not in by_chance_equal]
    pairs = [(box(answer), gold) for answer, gold in different]
    verdicts = verifier.verify(pairs)
    assert verdicts == [Verdict.WRONG] * len(pairs)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"\frac{1}{2}", "0.5"),
        ("2, 1", "1,2"),
        (r"x = 12", "12"),
        ("5.0", "5."),
        (r"12 \text{ apples}", "12"),
        (r"\text{(C)}", "C"),
        ("1024", "2^{10}"),
        ("7", r"\boxed{7}"),
        (r"\sqrt{8}", r"$2\sqrt{2}$"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)"),
        ("(x+1)^2", "x^2+2x+1"),
    ],
)
def test_equal_answers_are_correct(verifier, answer, gold):
    assert verifier.verify([(box(answer), gold)]) == [Verdict.CORRECT]


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("", "5"),
        ("   ", "5"),
        ("I do not know.", "5"),
        (r"\boxed{}", "5"),
        (box("6"), "5"),
        (box(r"\frac{1}{3}"), r"\frac{1}{2}"),
        (box("1, 2, 3"), "1, 2"),
        (r"\boxed{4} or \boxed{5}", "5"),
        (r"\boxed{5} no, \boxed{6}", "5"),
        (r"<think>\boxed{5}</think>\boxed{6}", "5"),
        ("word " * 200_000, "5"),
    ],
)
def test_wrong_answers_are_wrong(verifier, response, gold):
    assert verifier.verify([(response, gold)]) == [Verdict.WRONG]


@pytest.mark.parametrize("gold", ["", "  ", ".", r"\frac{3}{", "??"])
def test_gold_answer_that_means_nothing_is_nobodys_fault(verifier, gold):
    assert verifier.verify([(box(r"\frac{3}{4}"), gold), ("", gold)])[0] is Verdict.UNVERIFIED


def test_early_box_of_a_long_response_counts(verifier):
    assert verifier.verify([(box(r"\frac{1}{2}") + " Let me add 3." * 5000, "0.5")]) == [Verdict.CORRECT]


def test_no_process_is_started_for_integers():
    with Verifier(VerifierConfig()) as verifier:
        assert verifier.verify([(box("1,000"), "1000"), (box("7"), "8")]) == [Verdict.CORRECT, Verdict.WRONG]
        assert verifier.verify([]) == []
        assert verifier._pool._workers == {}


def test_endless_checks_are_unverified_and_the_pool_lives_on(impatient):
    pairs = [(box(answer), "5") for answer in ENDLESS] + [(box("5.0"), "5"), (box("6.0"), "5")]
    assert impatient.verify(pairs) == [Verdict.UNVERIFIED] * len(ENDLESS) + [Verdict.CORRECT, Verdict.WRONG]
    assert impatient.verify(pairs[-2:]) == [Verdict.CORRECT, Verdict.WRONG]


def test_waiting_for_a_busy_pool_does_not_count():
    """B3: endless checks keep the only worker busy for twice the timeout of the right answer that waits behind them."""
    with Verifier(VerifierConfig(workers=1, timeout_seconds=0.5)) as verifier:
        hard = [(box(answer), "5") for answer in ENDLESS[:2]]
        assert verifier.verify([*hard, (box("5.0"), "5")]) == [Verdict.UNVERIFIED] * 2 + [Verdict.CORRECT]


def test_answers_that_take_long_go_to_the_end_of_the_queue():
    with Verifier(VerifierConfig(workers=1, timeout_seconds=300)) as verifier:
        endless = verifier.submit_answers([(box(answer), "5") for answer in ENDLESS])
        normal = [(box(rf"\frac{{{n}}}{{2}}"), "0.5") for n in range(1, 20)]
        assert verifier.verify(normal) == [Verdict.CORRECT] + [Verdict.WRONG] * 18
        assert not any(future.done() for future in endless)


def test_equal_answers_are_checked_once(monkeypatch):
    asked = []
    with Verifier(VerifierConfig(workers=2, timeout_seconds=300)) as verifier:  # the endless one outlasts the others
        submit = verifier._pool.submit
        monkeypatch.setattr(verifier._pool, "submit", lambda *question: asked.append(question) or submit(*question))
        verifier.verify([(box(r"\frac{1}{2}"), "0.5")])
        endless = verifier.submit_answers([(box(ENDLESS[0]), "5")])
        pairs = [(f"{n} ways to {box('5.0')}", gold) for n in range(50) for gold in ("5", "6")]
        assert verifier.verify(pairs) == [Verdict.CORRECT, Verdict.WRONG] * 50
        assert verifier.submit_answers([(f"again {box(ENDLESS[0])}", "5")]) == endless
    assert len(asked) == 4


def test_answers_are_checked_while_the_caller_does_something_else(impatient):
    integer, fraction, endless = impatient.submit_answers(
        [(box("5"), "5"), (box(r"\frac{1}{2}"), "0.5"), (box(ENDLESS[0]), "5")]
    )
    assert integer is Verdict.CORRECT
    wait_until(fraction.done)
    assert fraction.result() is Verdict.CORRECT
    assert not endless.done()
    (later,) = impatient.submit_answers([(box(r"\frac{1}{3}"), "0.5")])
    assert later.result(timeout=60) is Verdict.WRONG
    assert endless.result(timeout=60) is Verdict.UNVERIFIED


def test_close_ends_what_is_being_checked_and_what_waits():
    with Verifier(VerifierConfig(workers=1, timeout_seconds=60)) as verifier:
        assert verifier.verify([(box("5.0"), "5")]) == [Verdict.CORRECT]
        (worker,) = verifier._pool._workers.values()
        running, waiting = verifier.submit_answers([(box(ENDLESS[0]), "5"), (box(ENDLESS[1]), "5")])
        verifier.close()
        assert worker.process.poll() is not None
        assert running.cancelled()
        assert waiting.cancelled()
        assert verifier.verify([(box("5.0"), "5")]) == [Verdict.CORRECT]


def test_killed_worker_is_replaced_and_its_answer_unverified():
    with Verifier(VerifierConfig(workers=1, timeout_seconds=300)) as verifier:
        (endless,) = verifier.submit_answers([(box(ENDLESS[0]), "5")])
        for _ in range(2):  # attempts
            (worker,) = busy_workers(verifier)
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda worker=worker: not alive(worker))
        assert endless.result() is Verdict.UNVERIFIED
        assert verifier.verify([(box("5.0"), "5")]) == [Verdict.CORRECT]


def test_worker_killed_between_calls_costs_no_verdict(impatient):
    assert impatient.verify([(box("5.0"), "5")]) == [Verdict.CORRECT]
    for _ in range(3):
        (worker,) = list(impatient._pool._workers.values())
        worker.process.kill()
        worker.process.wait()
        assert impatient.verify([(box("6.0"), "5")]) == [Verdict.WRONG]


def test_close_ends_all_processes(impatient):
    impatient.verify([(box("5.0"), "5"), (box("6.0"), "5")])
    processes = [worker.process for worker in impatient._pool._workers.values()]
    assert processes
    impatient.close()
    assert all(process.poll() is not None for process in processes)


def test_workers_that_cannot_start_are_a_clear_error(impatient, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="do not start"):
        impatient.verify([(box("5.0"), "5")])
    monkeypatch.undo()
    assert impatient.verify([(box("5.0"), "5")]) == [Verdict.CORRECT]


def test_killed_trainer_leaves_no_orphan():
    program = (
        "from fastsvs.config import VerifierConfig\n"
        "from fastsvs.verify import Verifier\n"
        "verifier = Verifier(VerifierConfig(workers=2, timeout_seconds=60))\n"
        r"verifier.verify([('\\boxed{5.0}', '5'), ('\\boxed{6.0}', '5')])" + "\n"
        "print('busy', flush=True)\n"
        r"verifier.verify([('\\boxed{\\binom{1000000000}{500000000}}', '5')])" + "\n"
    )
    trainer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == b"busy\n"
    workers = worker_ids(trainer.pid)
    assert len(workers) == 2
    trainer.kill()
    trainer.wait()
    wait_until(lambda: not any(alive(worker) for worker in workers))


def test_worker_imports_are_light():
    program = "import sys, fastsvs.verify.worker; print('torch' in sys.modules, 'transformers' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "False False\n"


def test_check_that_runs_short_of_memory_is_unverified():
    program = (
        "import resource\n"
        "from fastsvs.verify import worker\n"
        "worker.MEMORY_BYTES = 200 * 1024**2\n"
        "resource.setrlimit(resource.RLIMIT_AS, (worker.MEMORY_BYTES, worker.MEMORY_BYTES))\n"
        r"print(worker.check(r'\boxed{\sum_{n=1}^{2} 2^{3\cdot10^{8}}}', '5'))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "unverified\n"
