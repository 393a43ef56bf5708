"""The benchmark of host time a token: whose processor time it counts, and what it makes of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.frontend.__main__ import SETTINGS, Case, figures
from bench.frontend.processes import Seconds, spent

BUSY = """
import sys, time
until = time.process_time() + 0.3
while time.process_time() < until: pass
print("ready", flush=True)
sys.stdin.read()
"""
FRONT = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BUSY!r}]).wait()\n"
SUPERVISOR = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {FRONT!r}]).wait()\n"


def test_time_is_that_of_the_process_that_took_it() -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with supervisor:
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == "ready\n"
        seconds = spent(supervisor.pid, supervisor.pid)
        supervisor.stdin.close()
    assert seconds.engine >= 0.29
    assert seconds.front < seconds.engine
    assert seconds.worker == 0


def test_figures_are_medians_per_token_and_per_response() -> None:
    spells = [Seconds(front, engine=2.0, worker=4.0, client=0.5) for front in (1.0, 9.0, 2.0)]
    rows = {row.metric: row.value for row in figures(Case(responses=100, samples=4, tokens=20), SETTINGS[0], spells)}
    assert rows["front: CPU per 1,000 tokens"] == pytest.approx(1000)
    assert rows["front: CPU per response"] == pytest.approx(20)
    assert rows["engine: CPU per response"] == pytest.approx(20)
    assert rows["client: CPU per 1,000 tokens"] == pytest.approx(250)


def test_a_case_asks_for_what_it_says() -> None:
    requests = Case(responses=1024, samples=8, tokens=22).requests()
    assert sum(request.samples for request in requests) == 1024
    assert len({request.key for request in requests}) == 128
