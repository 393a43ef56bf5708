"""The chats that stored groups were asked, made again as the stages made them."""

from __future__ import annotations

from typing import Any

import pytest
from whole_runs import ROOT

from fastsvs.config import TrainJob, load
from fastsvs.selfplay import SYNTHESIS, VARIANT, VERIFICATION, chat_of
from fastsvs.selfplay.svs.stage import load_template

TOLD = ("data.suffix=' Think.'", "data.system_prompt='Be brief.'", "selfplay.template=null")
BRIEF, OWN = ({"role": "system", "content": text} for text in ("Be brief.", "Be exact."))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def row(kind: str, question: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "question": question, **more}


@pytest.mark.parametrize(("context", "seen"), [("answer", "5"), ("whole", "<think>2 + 3</think>5")])
def test_a_chat_is_that_which_was_asked(context: str, seen: str) -> None:
    job = load(TrainJob, ROOT / "configs/tiny_svs.yaml", [*TOLD, f"selfplay.context={context}"])
    rows = {
        "7": row("original", "2 + 3?", system="Be exact.", responses=["4", "<think>2 + 3</think>5"]),
        "7/0": row(SYNTHESIS, "2 + 3?", system="Be exact.", parent="7", parent_sample=1),
        "7/0/0": row(VARIANT, "3 + 2?"),
        "7/1": row(VERIFICATION, "Is 4 right?"),
        "8": row("propose_deduction", "Write a program."),
    }
    assert [chat_of(each, rows, job) for each in rows.values()] == [
        [OWN, user("2 + 3? Think.")],
        [user(load_template(None).replace("{response}", seen))],
        [BRIEF, user("3 + 2? Think.")],
        [user("Is 4 right?")],
        [user("Write a program.")],
    ]
