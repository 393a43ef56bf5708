"""A folder of runs, live: the list, what opens from it, and what does not."""

from __future__ import annotations

import errno
import gzip
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hand_made import metrics, write_evaluation, write_run
from in_chromium import Opened, expect, needs_chromium

from fastsvs.cli import main
from fastsvs.files import append_jsonl
from fastsvs.report.server import open_server
from fastsvs.report.shelf import Shelf, folders


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_run(tmp_path / "runs" / "a+b c")
    unfinished = write_run(tmp_path / "runs" / "deep" / "er" / "run", selfplay__stage="none", run__steps=9)
    (unfinished / "summary.json").unlink()
    write_evaluation(tmp_path / "runs" / "eval", aime=["cw"])
    write_run(tmp_path / "runs" / "a+b c" / "round_1")  # a part of that run
    write_run(tmp_path / "runs" / "too" / "deep" / "to" / "find")
    write_run(tmp_path / "outside")
    return tmp_path / "runs"


def head(shelf: Shelf, path: str = "/") -> Any:
    found = shelf.answer(f"{path}data/head")
    assert found is not None
    return json.loads(gzip.decompress(found[1]))


def test_runs_and_evaluations_are_listed(root: Path) -> None:
    rows = {row["name"]: row for row in head(Shelf(root, 10))["folders"]}
    assert rows.keys() == {"a+b c", "deep/er/run", "eval"}
    told = {name: (row["kind"], row["progress"], row["finished"]) for name, row in rows.items()}
    assert told == {
        "a+b c": ("SvS", "4 of 4", True),
        "deep/er/run": ("RLVR", "4 of 9", False),
        "eval": ("evaluation", "1 of 1 sets", True),
    }
    assert (rows["a+b c"]["figure"], rows["a+b c"]["before"], rows["a+b c"]["after"]) == ("pass@1", 0.3, 0.45)


def test_a_folder_that_cannot_be_read_leaves_the_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(root / "locked"), write_run(root / "half")
    stat, iterdir = Path.stat, Path.iterdir

    def locked(path: Path, **keywords: Any) -> Any:
        if path.is_relative_to(root / "locked") and path != root / "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **keywords)

    def half(path: Path) -> Any:
        if path == root / "half" / "samples":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "stat", locked)
    monkeypatch.setattr(Path, "iterdir", half)
    rows = {row["name"]: row for row in head(Shelf(root, 10))["folders"]}
    assert rows.keys() == {"a+b c", "deep/er/run", "eval", "half"}
    assert rows["half"]["kind"] == "cannot be read"
    assert "half/samples: Permission denied" in rows["half"]["model"]


def test_the_list_is_live(root: Path) -> None:
    shelf = Shelf(root, 10)
    before = head(shelf)
    append_jsonl(root / "deep" / "er" / "run" / "metrics.jsonl", metrics(5))
    write_run(root / "new")
    rows = {row["name"]: row for row in head(shelf)["folders"]}
    assert rows.keys() - {row["name"] for row in before["folders"]} == {"new"}
    assert rows["deep/er/run"]["progress"] == "5 of 9"


def test_several_open_together(root: Path) -> None:
    shelf = Shelf(root, 10)
    page = shelf.answer("/open/a%2Bb%20c+deep%2Fer%2Frun/")
    assert page is not None
    assert b'data-live="true"' in page[1]
    found = head(shelf, "/open/a%2Bb%20c+deep%2Fer%2Frun/")
    assert [run["name"] for run in found["runs"]] == ["a+b c", "run"]
    assert shelf.answer("/open/eval/data/responses/0/0") is not None


def test_a_name_that_is_not_utf_8_opens(root: Path) -> None:
    write_run(root / os.fsdecode(b"r\xfcn"))
    shelf = Shelf(root, 10)
    (name,) = (row["name"] for row in head(shelf)["folders"] if row["name"].startswith("r"))
    assert name == r"r\xfcn"
    (run,) = head(shelf, f"/open/{quote(name, safe='')}/")["runs"]
    assert run["name"].startswith("r")


@pytest.mark.parametrize(
    "path",
    [
        *("/open/", "/open/a%2Bb%20c", "/open//", "/open/outside/", "/open/..%2Foutside/", "/open/%2e%2e%2Foutside/"),
        *("/open/too%2Fdeep%2Fto%2Ffind/", "/open/eval+outside/", "/open/eval/config.yaml", "/open/eval/../"),
        *("/data/groups/0", "/opens/eval/", "/eval/", f"/open/{'a' * 60_000}/", "/open/a%2Bb%20c%2Fround_1/"),
    ],
)
def test_nothing_else_opens(root: Path, path: str) -> None:
    assert Shelf(root, 10).answer(path) is None


def test_a_folder_of_runs_makes_no_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(root)]) == 2
    assert f"{root} is no run and no evaluation, but 3 lie below it" in capsys.readouterr().err
    assert main(["report", str(root / "deep")]) == 2
    assert "but 1 lies below it" in capsys.readouterr().err
    assert set(folders(root / "eval")) == set()


@contextmanager
def served(root: Path) -> Iterator[str]:
    with open_server(Shelf(root, 10), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@needs_chromium
def test_the_list_in_a_browser(visit: Callable[..., Opened], root: Path) -> None:
    with served(root) as address:
        opened = visit(address, viewport={"width": 390, "height": 844})
        try:
            assert opened.text("h1") == f"3 folders of runs and evaluations in {root}"
            assert opened.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            opened.page.get_by_label("Choose a+b c").check()
            write_run(root / "new")
            expect(opened.page.locator(".folders tbody tr")).to_have_count(4)
            opened.page.get_by_placeholder("Find a run").fill("rlvr")
            expect(opened.page.locator(".folders tbody tr")).to_have_count(1)
            opened.page.get_by_label("Choose deep/er/run").check()
            opened.page.get_by_role("button", name="Open 2 chosen ones together").click()
            opened.page.wait_for_selector("html[data-ready] #facts", state="attached")
            expect(opened.page.locator("#standfirst")).to_contain_text("run is at step 4 of 9")
            assert opened.page.locator(".row").count() > 0
            opened.page.get_by_role("link", name="All runs").click()
            expect(opened.page.locator(".folders tbody tr")).to_have_count(4)
        finally:
            opened.page.close()
