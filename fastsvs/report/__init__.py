"""`fastsvs report`: runs as one HTML page that needs no other file, or as a live page on loopback.

The report reads the files of run folders only, and loads neither torch nor the rest of the trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fastsvs.errors import UserError
from fastsvs.files import write_atomic
from fastsvs.output import say
from fastsvs.report.document import build
from fastsvs.report.page import page
from fastsvs.report.runs import Runs
from fastsvs.report.server import HOST, open_server
from fastsvs.report.shelf import Shelf, folders, is_stored
from fastsvs.stored_run import RunLayout

__all__ = ["serve_report", "write_report"]


def write_report(runs: Sequence[Path], out: Path | None, samples: int) -> Path:
    """Write the page of the runs and evaluations, with at most `samples` responses of each, and return its path. What
    of their files is spoiled is left out, and said in the page and on stderr.

    The path is `out`, else report.html in the run's folder, or in the working folder for several runs. Raises UserError
    for a folder that is neither, and when the file cannot be written.
    """
    for folder in (path for path in runs if not is_stored(path) and folders(path)):
        count = len(folders(folder))
        raise UserError(
            f"{folder} is no run and no evaluation, but {count} {'lies' if count == 1 else 'lie'} below it: name those "
            f"that the page is to show, or list them with --serve"
        )
    path, document = out or RunLayout(runs[0] if len(runs) == 1 else Path()).report, build(runs, samples)
    write_atomic(path, page(document))
    for line in document.notices():
        say(f"fastsvs: left out: {line}")
    return path


def serve_report(paths: Sequence[Path], port: int, samples: int, say: Callable[[str], None] = print) -> None:
    """Serve the live page of runs and evaluations, or of one folder the list of those in it, until Ctrl-C. Raises
    UserError for a folder that holds none, and for a port that is taken."""
    shelf = len(paths) == 1 and not is_stored(paths[0]) and bool(folders(paths[0]))
    with open_server(Shelf(paths[0], samples) if shelf else Runs(paths, samples), port) as server:
        try:
            say(f"report on http://{HOST}:{server.server_address[1]}/ (this machine only); Ctrl-C ends it")
            server.serve_forever()
        except KeyboardInterrupt:
            say("")
