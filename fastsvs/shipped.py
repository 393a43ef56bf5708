"""What comes with the code: the configurations, and the tiny model that those of the tiny task train.

A checkout has them in `configs/` and `models/` at its top, an installed package in the same folders under
`fastsvs/share/`. A path of a configuration such as `models/tiny` is looked for in the working folder, then here.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from posixpath import normpath

from fastsvs.errors import UserError

PREFIX = "fastsvs:"
"""Prefix of the name of a shipped configuration, as in `fastsvs:tiny_svs` and `fastsvs:eval/paper`."""
_HERE = Path(__file__).parent
_INSTALLED = _HERE / "share"


def find(path: str) -> str:
    """Return where `path` is: as it stands if anything is there or nothing of that name is shipped."""
    shipped = _root() / path
    top = Path(path).parts[:1]
    return str(shipped) if top in (("configs",), ("models",)) and not Path(path).exists() and shipped.exists() else path


def missing(path: str | Path) -> str:
    """Say that nothing is at `path`, and in which folder a relative one was looked for."""
    return f"no file or folder {path}" + ("" if os.path.isabs(os.path.expanduser(path)) else f" in {Path.cwd()}")


def shipped_as(path: str | Path) -> str:
    """Name the shipped configuration that a missing file seems to mean, such as `tiny_svs` or `configs/tiny_svs.yaml`;
    nothing where there is none."""
    name = Path(path).with_suffix("").as_posix().removeprefix("configs/")
    return f"; FastSvS ships one as {PREFIX}{name}" if name in configurations() else ""


def elsewhere(path: str, error: Exception) -> str:
    """Say why a model cannot be read; where `path` is no folder, also that it was looked for as one before the hub was
    asked."""
    reason = f"{type(error).__name__}: {error}"
    return reason if Path(path).exists() else f"{missing(path)}, and as the id of a model on the hub: {reason}"


def configurations() -> dict[str, str]:
    """Return the name of every shipped configuration, with the first line that it says of itself."""
    folder = _root() / "configs"
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}
    return {name: path.read_text(encoding="utf-8").partition("\n")[0].strip("# ") for name, path in files.items()}


def find_configuration(name: str) -> Path:
    """Return the file of a shipped configuration, named with or without `fastsvs:`. Raises UserError for an unknown
    one."""
    bare = name.removeprefix(PREFIX).removesuffix(".yaml")
    known = list(configurations())
    if bare not in known:
        near = get_close_matches(bare, known, n=1, cutoff=0.5)
        raise UserError(
            f"FastSvS ships no configuration {bare!r}"
            + (f"; did you mean {PREFIX}{near[0]}?" if near else "")
            + " (`fastsvs configs` lists them)"
        )
    return _root() / "configs" / f"{bare}.yaml"


def copy_configuration(name: str, to: Path | None) -> Path:
    """Write a shipped configuration to a new file, in the working folder if none is named. The copy goes on extending
    what the original extends. Raises UserError for a file that exists."""
    source = find_configuration(name)
    beside = source.parent.relative_to(_root() / "configs")
    target = to or Path(source.name)
    text = re.sub(
        r"^(extends: |  - )([\w./]+)\.yaml$",
        lambda line: f"{line[1]}{PREFIX}{normpath(beside / line[2])}",
        source.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    try:
        with open(target, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UserError(f"{target} exists already: name a new file") from error
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def _root() -> Path:
    return _INSTALLED if _INSTALLED.is_dir() else _HERE.parent
