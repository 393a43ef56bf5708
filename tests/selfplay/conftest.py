"""A stage over the small world of selfplay_world.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from selfplay_world import SYNTHESIS_TEMPLATE, encode

from fastsvs.config import SelfPlayConfig
from fastsvs.selfplay import STAGES, ExperienceStage


@pytest.fixture
def make_stage(tmp_path) -> Callable[..., ExperienceStage]:
    path = tmp_path / "template.txt"
    path.write_text(SYNTHESIS_TEMPLATE)

    def make(name: str = "svs", max_prompt_tokens: int = 500, **config) -> ExperienceStage:
        return STAGES.get(name)(
            SelfPlayConfig(**{"template": str(path)} | config),
            encode_question=lambda question: encode(f"SOLVE {question}"),
            encode_synthesis=encode,
            max_prompt_tokens=max_prompt_tokens,
            max_response_tokens=200,
        )

    return make
