"""Every trick of the list is contained and reported, and the sandbox works on after all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tricks import tricks

from fastsvs.config import SandboxConfig
from fastsvs.sandbox import Outcome, Program, Sandbox, Status

SECRET = "the trainer's secret"
NAMES = sorted(tricks("", ""))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("host")
    (folder / "secret").write_text(SECRET)
    folder.chmod(0o777)
    return folder / "secret", folder / "target"


@pytest.fixture(scope="module")
def outcomes(places: tuple[Path, Path]) -> Iterator[dict[str, Outcome]]:
    os.environ["FASTSVS_TEST_SECRET"] = SECRET
    listed = tricks(*map(str, places))
    config = SandboxConfig(workers=2, timeout_seconds=1.5)
    with Sandbox(config) as sandbox:
        programs = [Program(source, "f", ("",)) for _, source in listed.values()]
        yield dict(zip(listed, sandbox.run(programs), strict=True))
        (after,) = sandbox.run([Program("def f(x): return x * 2", "f", ("21",))])
        assert after.values == (42,)
    del os.environ["FASTSVS_TEST_SECRET"]


@pytest.mark.parametrize("name", NAMES)
def test_a_trick_is_contained_and_reported(outcomes: dict[str, Outcome], places: tuple[Path, Path], name: str) -> None:
    allowed, _ = tricks("", "")[name]
    outcome = outcomes[name]
    assert outcome.status in allowed, outcome
    assert SECRET not in repr(outcome)


def test_nothing_reached_the_host(outcomes: dict[str, Outcome], places: tuple[Path, Path]) -> None:
    secret, target = places
    assert secret.read_text() == SECRET
    assert not target.exists()
    assert len(outcomes) >= 40


def test_no_trick_cost_a_zygote(outcomes: dict[str, Outcome]) -> None:
    assert Status.LOST not in {outcome.status for outcome in outcomes.values()}
