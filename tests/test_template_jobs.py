"""Chat templates in whole jobs: what they lack is refused or said, by the run and its dry run alike."""

import json
import shutil
from pathlib import Path

import pytest
from chat_templates import GEMMA, QWEN3, R1_DISTILL
from whole_runs import ROOT, SFT, TRAIN, Refuse

from fastsvs.cli import main

pytestmark = pytest.mark.usefixtures("at_root")

EVAL = ("eval", "configs/tiny_eval.yaml", "sets.heldout.samples=1", "sets.heldout.k=[1]")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """The tiny tokenizer in a folder of its own, for other templates."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models" / "tiny" / name, folder)
    return folder


def write_dialogues(path: Path, *chats: tuple[str, ...]) -> str:
    roles = ("user", "assistant") * 4
    rows = [
        {"messages": [{"role": role, "content": text} for role, text in zip(roles, chat, strict=False)]}
        for chat in chats
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("job", [TRAIN, SFT], ids=["train", "sft"])
def test_template_keys_that_do_not_fit_are_refused(refuse: Refuse, tokenizer: Path, job: tuple[str, ...]) -> None:
    (tokenizer / "chat_template.jinja").write_text(QWEN3)
    given = (*job, f"model.tokenizer={tokenizer}")
    message = refuse(*given, "data.template_arguments.enable_thinkng=false")
    assert "data.template_arguments.enable_thinkng: the chat template of" in message
    assert "did you mean 'enable_thinking'?" in message
    assert "data.template_name='x', but the tokenizer" in refuse(*given, "data.template_name=x")
    (tokenizer / "chat_template.jinja").unlink()
    (tokenizer / "additional_chat_templates").mkdir()
    for name in ("think", "plain"):
        (tokenizer / "additional_chat_templates" / f"{name}.jinja").write_text(QWEN3)
    assert "chat templates plain, think, and none of them is the default: name one in data." in refuse(*given)


def test_a_system_prompt_that_the_template_does_not_show_is_moved_and_said(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tokenizer / "chat_template.jinja").write_text(GEMMA)
    arguments = [*TRAIN, f"model.tokenizer={tokenizer}", "data.system_prompt=Be brief.", f"run.dir={tmp_path}/run"]
    assert main([*arguments, "--dry-run"]) == 0
    assert "#   64 system messages stand at the beginning of the user's" in capsys.readouterr().out


@pytest.mark.parametrize(("template", "examples"), [(R1_DISTILL, 3), (QWEN3, 3)], ids=["r1-distill", "qwen3"])
def test_fine_tuning_under_templates_that_drop_thoughts(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], template: str, examples: int
) -> None:
    (tokenizer / "chat_template.jinja").write_text(template)
    thought = "<think>\nOne and one.\n</think>\n\n2"
    data = write_dialogues(tmp_path / "x.jsonl", ("1+1?", thought), ("1+1?", thought, "and 1?", "3"))
    arguments = [*SFT, f"data.path={data}", f"model.tokenizer={tokenizer}", f"run.dir={tmp_path}/run"]
    assert main([*arguments, "--dry-run"]) == 0
    assert f"{examples} encoded examples of {examples} rows" in capsys.readouterr().out
    assert main([*arguments, "run.steps=1"]) == 0


def test_an_evaluation_checks_the_template_of_every_set(refuse: Refuse) -> None:
    if not (ROOT / "models" / "tiny" / "model.safetensors").is_file():
        pytest.skip("the tiny model has no weights yet")
    message = refuse(*EVAL, "sets.heldout.data.template_arguments={thinking: true}")
    assert "data.template_arguments.thinking: the chat template of" in message
