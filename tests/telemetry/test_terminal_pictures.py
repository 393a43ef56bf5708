"""The terminals in docs/ show what the demo shows now; `python docs/terminal.py` records them anew."""

from __future__ import annotations

import runpy

import pytest
from whole_runs import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "terminal.py"))


@pytest.mark.parametrize("columns", SCRIPT["COLUMNS"])
def test_a_terminal_is_of_the_demo_as_it_is(columns: int) -> None:
    drawn = (ROOT / "docs" / f"terminal-{columns}.svg").read_text(encoding="utf-8")
    assert drawn.endswith(f"<!-- {SCRIPT['digest']()} -->\n"), "stale: python docs/terminal.py"
