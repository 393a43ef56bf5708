"""MeRF: the reward's rules are part of the training prompt, and of no other."""

import pytest
from whole_runs import ROOT, SMALL

from fastsvs.cli import main
from fastsvs.config import DataConfig
from fastsvs.data import PROMPTS
from fastsvs.errors import UserError

RULES = "A right answer earns 1, any other 0."


def messages(mode: str, **config: object) -> list[dict[str, str]]:
    return PROMPTS.get("merf")("2 + 2?", DataConfig(path="x", suffix="!", rules=RULES, **config), mode)


def test_the_rules_join_the_system_prompt_in_training():
    assert messages("train") == [{"role": "system", "content": RULES}, {"role": "user", "content": "2 + 2?!"}]
    assert messages("train", system_prompt="Be kind.")[0]["content"] == f"Be kind.\n\n{RULES}"
    assert messages("train", rules_in="user") == [{"role": "user", "content": f"{RULES}\n\n2 + 2?!"}]


@pytest.mark.parametrize("rules_in", ["system", "user"])
def test_evaluation_never_hears_of_them(rules_in):
    assert messages("eval", rules_in=rules_in) == [{"role": "user", "content": "2 + 2?!"}]


def test_rules_are_needed():
    with pytest.raises(UserError, match=r"say it in data\.rules"):
        PROMPTS.get("merf")("2 + 2?", DataConfig(path="x"), "train")


def test_a_run_tells_them(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments = ["train", "configs/tiny_rlvr.yaml", *SMALL, "run.steps=1", "data.prompt=merf", f"data.rules={RULES}"]
    assert main([*arguments, "data.rules_in=user", f"run.dir={tmp_path}/run"]) == 0
