"""The comparison with TRL without its runs: what each side is asked for, and how the two are set side by side."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.whole_run import peer, peer_work
from bench.whole_run.cases import Place
from bench.whole_run.peer_work import LARGER, SMOLLM2, TINY, TINY_RANDOM, Measured
from fastsvs import config


def measured(setting: str, seconds: list[float], tokens: int = 100) -> Measured:
    return Measured(setting, seconds, [tokens] * len(seconds), {"rollout": seconds}, [*range(len(seconds))])


def place(suite: str, folder: Path) -> Place:
    return Place(suite, "models/tiny", folder / "work", folder / "out")


@pytest.mark.parametrize("shape", [SMOLLM2, LARGER, TINY, TINY_RANDOM], ids=lambda shape: shape.name)
def test_our_side_trains_on_all_responses_in_one_update(shape, tmp_path):
    file = tmp_path / "run.yaml"
    asked = peer.configuration(shape, peer.Ours("none", 4096), "models/tiny", peer.OPTIONS["h200"], tmp_path / "run")
    file.write_text(json.dumps(asked))
    job = config.load(config.TrainJob, str(file), [])
    assert job.algorithm.samples_per_update == job.run.prompts_per_step * job.rollout.samples_per_prompt
    assert job.evaluation.path is None
    assert job.run.save_every > shape.warmup + shape.steps


def test_rewards_differ_within_each_group():
    rewards = torch.tensor([peer_work.reward(index) for index in range(SMOLLM2.responses)])
    assert (rewards.view(SMOLLM2.prompts, SMOLLM2.samples).std(1) > 0).all()


def test_both_sides_come_first_at_both_sizes(tmp_path):
    names = [case.name.split("/")[1:] for case in peer.cases(place("h200", tmp_path))]
    assert [(size, side.split("-")[0]) for size, side in names[:4]] == [
        ("smollm2-135m", "fastsvs"),
        ("smollm2-135m", "trl"),
        ("1.7b", "fastsvs"),
        ("1.7b", "trl"),
    ]
    assert len({tuple(name) for name in names}) == len(names)


def test_every_setting_of_trl_divides_the_step(tmp_path):
    for case in peer.cases(place("h200", tmp_path)):
        _, shape, setting = case.measure.args
        if isinstance(setting, dict):
            assert shape.responses % setting["batch"] == 0


def test_the_fastest_runs_of_both_sides_are_compared(tmp_path):
    measured("slow", [4.0, 4.0]).write(tmp_path / peer.THEIRS / "slow.json")
    assert peer.ratio(tmp_path) is None
    measured("ours", [1.0, 1.0, 1.0]).write(tmp_path / peer.OURS / "ours.json")
    assert peer.ratio(tmp_path)[0] == 4.0
    measured("fast", [3.0, 3.0]).write(tmp_path / peer.THEIRS / "fast.json")
    value, note = peer.ratio(tmp_path)
    assert value == 3.0
    assert note.endswith("fast")


def test_warm_up_is_left_out():
    kept = measured("ours", [9.0, 1.0, 2.0]).after(1)
    assert kept.seconds == [1.0, 2.0]
    assert kept.parts == {"rollout": [1.0, 2.0]}
    assert kept.moments == [1, 2]


def test_options_of_the_command_line_become_arguments():
    assert peer_work.as_keywords(peer.OPTIONS["h200"]) == {
        "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
    }
    assert peer_work.as_keywords({"enforce-eager": True}) == {"enforce_eager": True}


def test_random_weights_need_a_shape_and_a_tokenizer(tmp_path):
    folder = Path(peer_work.model_folder(TINY_RANDOM, "models/tiny", tmp_path / "model"))
    read = json.loads((folder / "config.json").read_text())
    assert read["hidden_size"] == TINY_RANDOM.random["hidden_size"]
    assert read["tie_word_embeddings"]
    assert (folder / "tokenizer_config.json").exists()
    assert peer_work.model_folder(TINY, "models/tiny", tmp_path / "other") == "models/tiny"


def test_trl_that_comes_to_no_step_is_an_error_with_its_words(tmp_path, monkeypatch):
    monkeypatch.setattr(peer.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(peer.sys, "executable", "/bin/false")
    with pytest.raises(peer.UserError, match="exit status 1"):
        peer.run_theirs(replace(TINY, seconds=5), peer.theirs("b8", 8), "models/tiny", {}, tmp_path)


def test_trl_takes_all_arguments(tmp_path):
    pytest.importorskip("trl")
    from bench.whole_run import peer_trl

    for case in peer.cases(place("h200", tmp_path)):
        _, shape, setting = case.measure.args
        if isinstance(setting, dict):
            asked = peer_trl.arguments(shape, peer_trl.Setting(**setting), tmp_path)
            assert asked.generation_batch_size == shape.responses
            assert asked.steps_per_generation == asked.gradient_accumulation_steps
