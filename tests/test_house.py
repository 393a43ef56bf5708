"""The house: rooms are entered by their doors, and data flows through them in one direction."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from whole_runs import ROOT

HOUSE = ROOT / "fastsvs"
ROOMS = {path.parent.name for path in HOUSE.glob("*/__init__.py")} - {"kernels"}
"""Folders of the trainer. The kernels stand alone, and the other modules are the ground floor and the stairs."""
FILES = [path for path in HOUSE.rglob("*.py") if "kernels" not in path.relative_to(HOUSE).parts]


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of the house that a file imports, wherever in it. A name that is a module counts as one, unless
    its package exports it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "fastsvs")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fastsvs":
            for alias in node.names:
                package = ROOT / node.module.replace(".", "/")
                hidden = (package / f"{alias.name}.py").exists() and alias.name not in exported(package)
                yield f"{node.module}.{alias.name}" if hidden else node.module


@cache
def exported(package: Path) -> list[str]:
    for node in ast.parse((package / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else None


def room_of(path: Path) -> str | None:
    inside = path.relative_to(HOUSE).parts
    return inside[0] if inside[0] in ROOMS else None


def test_a_room_is_entered_by_what_its_init_exports() -> None:
    """A door is the `__init__` of a room or of a room within it; each command is a door, which is imported when it is
    asked for."""
    deep = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in FILES
        for module in imported(path)
        if room(module) not in (None, "commands", room_of(path))
        and not (ROOT / module.replace(".", "/") / "__init__.py").exists()
    ]
    assert deep == []


def test_no_file_imports_itself_by_way_of_others() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES}
    graph = {
        name: {module for module in imported(path) if module in names and not name.startswith(module)}
        for path in FILES
        if path.name != "__init__.py"
        for name in [".".join(path.relative_to(ROOT).with_suffix("").parts)]
    }
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_rooms_stand_above_what_they_import() -> None:
    graph: dict[str, set[str]] = {name: set() for name in ROOMS}
    for path in FILES:
        here = room_of(path)
        if here is not None:
            graph[here] |= {there for module in imported(path) if (there := room(module)) not in (None, here)}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(("above", "below"), [("selfplay", "policy"), ("policy", "selfplay"), ("report", "policy")])
def test_rooms_that_know_nothing_of_each_other(above: str, below: str) -> None:
    assert [path for path in FILES if room_of(path) == above for name in imported(path) if room(name) == below] == []


def test_no_file_is_longer_than_one_can_read() -> None:
    sources = [*FILES, *(ROOT / "kernels").glob("*.py"), *(ROOT / "bench").rglob("*.py")]
    assert [path for path in sources if len(path.read_text().splitlines()) > 300] == []


def test_files_of_tests_have_names_of_their_own() -> None:
    """pytest imports each as a module of its name, and one process imports all of them."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert [name for name in names if names.count(name) > 1] == []


def test_tests_do_not_import_one_another() -> None:
    """What they share stands in modules of helpers, whose fixtures, marks and tests nobody collects twice."""
    found = [
        f"{path.name}: {node.module}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("test_")
    ]
    assert found == []


PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
RUNS_TEXT = {"eval", "exec", "compile", "torch.load", "numpy.load", "np.load", "yaml.load", "pandas.read_pickle"}


def test_nothing_reads_pickles_or_runs_text() -> None:
    """The sandbox runs programs; and what torch's collectives carry between ranks is their own."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.split(".")[0] in PICKLES]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""] if (node.module or "").split(".")[0] in PICKLES else []
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in RUNS_TEXT:
                names = [ast.unparse(node.func)]
            found += [f"{path.relative_to(HOUSE)}: {name}" for name in names]
            remote = isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle")
            found += [f"{path.relative_to(HOUSE)}: {node.arg}"] if remote else []
    assert sorted(found) == ["sandbox/program.py: compile", "sandbox/program.py: exec"]


def test_the_map_names_files_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([\w/]+\.py|[\w]+/(?:[\w/]*/)?)`", text))
    assert len(named) > 15
    assert [name for name in named if not ((HOUSE / name).exists() or (ROOT / name).exists())] == []


def test_the_map_names_every_module_of_the_ground_floor() -> None:
    picture = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    modules = {path.stem for path in HOUSE.glob("*.py")} - {"__init__", "__main__"}
    assert modules <= set(re.findall(r"\w+", picture))


def test_no_wait_goes_by_the_clock_on_the_wall() -> None:
    """Clocks are set while a job runs; what is waited for and measured goes by one that cannot jump."""
    stamps = {"telemetry/loggers/mlflow.py", "rollout/vllm/server.py", "environment.py", "commands/cluster.py"}
    wall = re.compile(r"time\.time\(|from time import [^\n]*\btime\b|datetime\.now\(|\.utcnow\(")
    found = {path.relative_to(HOUSE).as_posix() for path in FILES if wall.search(path.read_text())}
    assert found == stamps, "dates of records alone may come from the clock on the wall"
