"""Training that learns from a step in waves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from whole_runs import ROOT, SMALL

from fastsvs.cli import main
from fastsvs.files import read_jsonl
from fastsvs.stored_run import checkpoints_in

WAVES = ("train.waves=3", "algorithm.old_logprobs=engine")
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train(fastsvs: Callable[..., CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train the shrunken demo for two steps, and return its folder."""

    def run(*options: str, engine: str = "local") -> Path:
        folder = tmp_path_factory.mktemp("waves") / "run"
        sizes = [*SMALL, "evaluation.limit=4", "run.steps=2", f"rollout.engine={engine}", f"run.dir={folder}"]
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("PYTHONPATH", str(Path(__file__).parent))
            result = fastsvs("train", "configs/tiny_svs.yaml", *sizes, *options)
        assert result.returncode == 0, result.stderr
        return folder

    return run


def first_samples(folder: Path) -> list[dict]:
    return read_jsonl(folder / "samples" / "step_1.jsonl")


def figures(folder: Path, *prefixes: str) -> list[dict]:
    rows = read_jsonl(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name.startswith(prefixes)} for row in rows]


@pytest.fixture(scope="module")
def whole(train: Train) -> Path:
    return train("algorithm.old_logprobs=engine")


@pytest.fixture(scope="module")
def in_waves(train: Train) -> Path:
    return train(*WAVES)


def test_the_first_step_plays_the_same_in_waves_and_counts_the_same(whole: Path, in_waves: Path) -> None:
    assert first_samples(in_waves) == first_samples(whole)
    counted = ("groups/", "samples/", "kept_", "solve_rate", "contexts", "variants", "reward/", "rejected/")
    assert figures(in_waves, *counted)[0] == figures(whole, *counted)[0]
    assert figures(whole, "samples/")[0]["samples/original"] > 0


def test_a_wave_is_an_update_of_its_own(whole: Path, in_waves: Path) -> None:
    [once, *_], [thrice, *_] = (figures(folder, "policy/") for folder in (whole, in_waves))
    assert once["policy/updates"] == 1
    assert thrice["policy/updates"] == 3
    assert thrice["policy/loss"] != once["policy/loss"]


def test_the_same_seed_gives_the_same_bits_whatever_is_complete_first(train: Train, in_waves: Path) -> None:
    beside = train(*WAVES, engine="remote_engine:MainRankEngine")
    for step in (1, 2):
        assert read_jsonl(beside / "samples" / f"step_{step}.jsonl") == read_jsonl(
            in_waves / "samples" / f"step_{step}.jsonl"
        )
    learned = ("policy/loss", "policy/grad_norm", "policy/entropy", "policy/rollout")
    assert figures(beside, *learned) == figures(in_waves, *learned)


def test_waves_refill_what_a_whole_step_refills(train: Train) -> None:
    refills = ("sampler.refills=2", "selfplay.stage=none", "algorithm.old_logprobs=engine")
    whole, in_waves = train(*refills), train(*refills, "train.waves=3", engine="remote_engine:MainRankEngine")
    assert first_samples(in_waves) == first_samples(whole)
    counted = ("refill/", "groups/", "kept_")
    assert figures(in_waves, *counted)[0] == figures(whole, *counted)[0]
    assert figures(whole, "refill/asked")[0]["refill/asked"] > 0


def test_waves_go_together_with_rollouts_beside_the_update(train: Train) -> None:
    folder = train(*WAVES, "train.staleness=1", "train.wave_order=completed", engine="remote_engine:MainRankEngine")
    rows = read_jsonl(folder / "metrics.jsonl")
    assert all(1 <= row["policy/updates"] <= 3 for row in rows)  # a wave without anything to learn from takes none
    assert [row["rollout/version_lag"] for row in rows] == [0, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("train.waves=2",), "set algorithm.old_logprobs=engine"),
        ((*WAVES, "train.waves=100000"), "train.waves=100000 are more than the problems of a step"),
        (
            (*WAVES, "sampler.name=adaptive_resampling"),
            "looks at whole steps: set train.waves=1",
        ),
        (
            ("algorithm.old_logprobs=engine", "algorithm.rollout_correction=tis"),
            "set algorithm.rollout_correction=none",
        ),
    ],
)
def test_what_cannot_be_learned_from_in_waves_is_refused(options, said, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    words = ["train", "configs/tiny_svs.yaml", *SMALL, f"run.dir={tmp_path}/run", *options, "--dry-run"]
    assert main(words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_stage_that_judges_a_whole_step_is_refused(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    words = ["train", "configs/tiny_azr.yaml", f"run.dir={tmp_path}/run", *WAVES, "--dry-run"]
    assert main(words) == 2
    assert "selfplay.stage=azr judges a step as a whole" in " ".join(capsys.readouterr().err.split())


def test_a_step_that_is_cut_short_keeps_the_waves_it_learned_from(fastsvs, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    options = [
        *(*SMALL, "evaluation.limit=4", "run.steps=3", "run.save_every=3", f"run.dir={tmp_path}/run"),
        *(
            "rollout.engine=remote_engine:MainRankEngine",
            "rollout.max_sequences=4",
            "selfplay.stage=none",
            "run.prompts_per_step=8",
        ),
        *("train.waves=8", "train.wave_order=completed", "algorithm.old_logprobs=engine"),
    ]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("REMOTE_ENGINE_FAILS_AT", "1")
        cut = fastsvs("train", "configs/tiny_svs.yaml", *options)
    assert cut.returncode == 2
    assert "server 0 was restarted 3 times" in cut.stderr
    run = tmp_path / "run"
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl")] == [1, 2]
    played = [len(read_jsonl(run / "samples" / f"step_{step}.jsonl")) for step in (1, 2)]
    assert played[0] == 8
    assert 0 < played[1] < 8
    assert list(checkpoints_in(run / "checkpoints")) == [2]
    again = fastsvs("train", "configs/tiny_svs.yaml", *options)
    assert again.returncode == 0, again.stderr
    assert "after step 2" in again.stdout + again.stderr
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl")] == [1, 2, 3]
