"""A stage over the small world of selfplay_world.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from selfplay_world import SYNTHESIS_TEMPLATE, encode

from fastsvs.config import SelfPlayConfig
from fastsvs.selfplay import STAGES, ExperienceStage, StageTools


@pytest.fixture
def make_stage(tmp_path) -> Callable[..., ExperienceStage]:
    path = tmp_path / "template.txt"
    path.write_text(SYNTHESIS_TEMPLATE)

    def make(name: str = "svs", max_prompt_tokens: int = 500, tools: dict | None = None, **config) -> ExperienceStage:
        return STAGES.get(name)(
            SelfPlayConfig(**{"template": str(path)} | config),
            StageTools(
                lambda problem: encode(f"SOLVE {problem.question}"), encode, max_prompt_tokens, 200, **(tools or {})
            ),
        )

    return make
