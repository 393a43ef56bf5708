"""Plug-ins of a user's own: found, or refused with what is wrong and where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastsvs.errors import UserError
from fastsvs.registry import Registry

CALLED = Registry("trick", takes=("one", "two"))
BUILT = Registry("engine", has=("check", "build"))
MADE = Registry("stage", takes=("config",), makes=("begin", "finish"))

GOOD = """
def trick(one, two): return one + two
def keywords(one, *, two): ...
def anything(*arguments): ...
class Trick:
    def __init__(self, one, two=3): ...
class Engine:
    def check(self): ...
    def build(self): ...
class Stage:
    def __init__(self, config): ...
    def begin(self): ...
    def finish(self): ...
class Half:
    def __init__(self, config): ...
    def begin(self): ...
number = 5
"""


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "good_ideas": GOOD,
        "broken_ideas": "\n\nnonsense",
        "unwritten_ideas": "def f(:\n",
        "needy_ideas": "import a_package_that_nobody_has",
        "quitting_ideas": "raise SystemExit(0)",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", ["trick", "anything", "Trick"])
def test_what_can_be_called_is_found(name: str) -> None:
    CALLED.get(f"good_ideas:{name}")(1, 2)


def test_what_has_its_attributes_is_found() -> None:
    assert BUILT.get("good_ideas:Engine").__name__ == "Engine"
    assert MADE.make("good_ideas:Stage", {}).begin


@pytest.mark.parametrize(
    ("registry", "name", "message"),
    [
        (CALLED, "nowhere:trick", r"'nowhere:trick' cannot be imported: ModuleNotFoundError: No module named 'nowhere"),
        (CALLED, "good_ideas.py:trick", "cannot be imported: ModuleNotFoundError: .*put its folder on PYTHONPATH"),
        (CALLED, "good_ideas:trik", r"module 'good_ideas' has no 'trik', did you mean 'trick'\?"),
        (CALLED, "good_ideas:", "module 'good_ideas' has no ''"),
        (CALLED, ":trick", "cannot be imported: ValueError: Empty module name"),
        (CALLED, ".good_ideas:trick", "cannot be imported: TypeError"),
        (CALLED, "a:b:c", "cannot be imported: ModuleNotFoundError"),
        (CALLED, "broken_ideas:f", r"NameError: name 'nonsense' is not defined \(.*broken_ideas.py, line 3\)"),
        (CALLED, "unwritten_ideas:f", r"SyntaxError: .*\(unwritten_ideas.py, line 1\)"),
        (CALLED, "needy_ideas:f", "No module named 'a_package_that_nobody_has'"),
        (CALLED, "quitting_ideas:f", r"cannot be imported: SystemExit: 0 \(.*quitting_ideas.py, line 1\)"),
        (CALLED, "good_ideas:number", "trick 'good_ideas:number' is of type int: name a function or a class"),
        (CALLED, "good_ideas:keywords", r"cannot be called with \(one, two\): too many positional arguments"),
        (CALLED, "good_ideas:Stage", r"cannot be called with \(one, two\): too many positional arguments"),
        (BUILT, "good_ideas:trick", "engine 'good_ideas:trick' has no check, build: see docs/extend.md"),
        (MADE, "good_ideas:trick", r"cannot be called with \(config\): missing a required argument: 'two'"),
        (MADE, "good_ideas:Half", "stage 'good_ideas:Half' makes a Half without finish: see docs/extend.md"),
        (MADE, "good_ideas:anything", "makes a NoneType without begin, finish"),
        (CALLED, "unknown", "unknown trick 'unknown'. Known: `module:object` of your own"),
    ],
)  # fmt: skip
def test_what_is_no_plug_in_is_refused(registry: Registry, name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        registry.make(name, *({},) * (1 if registry is MADE else 2))
    assert re.search(message, str(caught.value))


def test_names_that_are_no_plug_ins_are_known_too() -> None:
    beside = Registry("trick", beside=("juggling",))
    with pytest.raises(UserError, match=r"unknown trick 'jugling'\. Did you mean 'juggling'\? Known: juggling, or"):
        beside.get("jugling")
