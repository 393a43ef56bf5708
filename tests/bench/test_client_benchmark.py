"""The benchmark of the client: its servers give answers that the client accepts, and figures are what they say."""

from __future__ import annotations

import pytest

from bench.client import server
from bench.client.__main__ import CASES, Run, figures
from fastsvs.client import Expected, read_samples


@pytest.mark.parametrize("case", CASES, ids=str)
def test_answers_are_good_ones(case) -> None:
    stop = frozenset([server.EOS])
    expected = Expected(case.samples, server.LIMIT, stop, server.VOCABULARY, version=0)
    lengths = server.lengths(case.median, case.samples)[:2]
    for number, tokens in enumerate(lengths):
        samples = read_samples(server.answer(number, tokens), expected)
        assert [len(sample.ids) for sample in samples] == tokens


def test_figures_are_medians() -> None:
    runs = [Run(tokens=1_000_000, clock=clock, trainer=0.1, clients=2.0) for clock in (1.0, 4.0, 2.0)]
    rows = {row.metric: row for row in figures(CASES[0], "two processes", runs)}
    assert rows["tokens per second"].value == 500_000
    assert rows["tokens per second"].limit == 500_000
    assert rows["tokens per second, best"].value == 1_000_000
    assert rows["trainer: CPU per token"].value == pytest.approx(0.1)
    assert rows["clients: CPU per request"].value == pytest.approx(2000 / CASES[0].calls)
