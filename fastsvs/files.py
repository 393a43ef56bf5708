"""Files that survive a kill at any moment: whole or absent, never half."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import IO, Any

import yaml

from fastsvs.errors import UserError

LOCK = ".lock"
CURE = "bring it back as it was written, or move the file away"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` in one step. Raises UserError when the disk refuses."""
    if not path.name:  # of the working folder, and of the root
        raise UserError(f"cannot write {path}: it is a folder, name a file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `folder` to write into. When the block ends it becomes `folder` in one step; where
    that exists already, its files replace those of their names one by one. Nothing of it stays when the block fails.
    Its files are as readable as the user's mask lets new ones be: safetensors keeps what it writes to their owner, and
    a server of another user could not load it. Raises UserError when the disk refuses."""
    target = folder.resolve()
    draft = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(draft, ignore_errors=True)  # what a kill has left
        draft.mkdir(parents=True)
        yield draft
        readable = draft.stat().st_mode & 0o666
        for file in filter(Path.is_file, draft.rglob("*")):
            file.chmod(readable)
        if target.is_dir():
            for file in sorted(draft.iterdir()):
                _move_into(file, target)
        else:
            draft.rename(target)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_folder(key: str, folder: Path) -> None:
    """Raise UserError where `folder`, which the configuration's `key` names, is no folder, cannot be made or
    written, or is another process's."""
    if "\0" in str(folder):
        raise UserError(f"{key}: {str(folder)!r} is no name of a folder")
    nearest = _nearest(folder)
    if not nearest.is_dir():
        raise UserError(f"{key}: {nearest} is a file; name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{key}: nothing can be written to {nearest}; name a folder of your own")
    _check_free(folder)


def free_bytes(folder: Path) -> int | None:
    """Return the number of bytes that this user may still write where `folder` lies, or will lie once it is made; None
    where the file system does not tell."""
    try:
        facts = os.statvfs(_nearest(folder))
    except OSError:
        return None
    return facts.f_bavail * facts.f_frsize if facts.f_blocks else None


def in_words(size: int) -> str:
    """Return a number of bytes with its unit, such as `3.5 GiB`."""
    unit = max(0, min(4, (size.bit_length() - 1) // 10))
    return f"{size} bytes" if unit == 0 else f"{size / 1024**unit:.1f} {' KMGT'[unit]}iB"


def lock(folder: Path) -> IO[str]:
    """Keep other processes from writing into `folder` until the returned file is closed or this process ends, however
    it ends. Raises UserError when another process holds the lock. Where the file system has no locks, nobody is kept
    out."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "w")  # noqa: SIM115 (it stays open)
    except OSError as error:
        raise UserError(
            f"nothing can be written to {folder}: {error.strerror or error}; name another folder"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UserError(_taken(folder)) from error
    except OSError:
        pass
    return file


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))


def _check_free(folder: Path) -> None:
    """Raise UserError where another process holds the lock of `folder`, which need not exist. Writes nothing."""
    with suppress(OSError), open(folder / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(_taken(folder)) from error


def _taken(folder: Path) -> str:
    return f"another process is at work in {folder}: wait for its end, or choose another folder"


def _move_into(path: Path, folder: Path) -> None:
    """Replace what `folder` has under the name of `path`."""
    if path.is_dir():
        shutil.rmtree(folder / path.name, ignore_errors=True)
    os.replace(path, folder / path.name)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically. Raises UserError where it cannot be written."""
    write_atomic(path, _to_json(value, path, indent=2) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write each row as a line of JSON, atomically. Raises UserError where they cannot be written."""
    write_atomic(path, "".join(_to_json(row, path) + "\n" for row in rows))


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line and flush it to the disk."""
    line = _to_json(row, path) + "\n"
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def iterate_jsonl(path: Path, spoiled: Callable[[UserError], object] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a jsonl file, without a last line that is cut off by a kill or is still being written.

    Raises UserError for a file that cannot be read or a line that is no JSON object; a missing file has no lines. With
    `spoiled` such lines are left out, and it is called with the error of each.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if line.endswith("\n") and line.strip():
                    try:
                        row = _object(line, f"{path}, line {number}")
                    except UserError as error:
                        if spoiled is None:
                            raise
                        spoiled(error)
                    else:
                        yield row
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the objects that `iterate_jsonl` yields."""
    return list(iterate_jsonl(path))


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a .json or YAML file, empty when there is no file. Raises UserError for a file that holds
    none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if path.suffix == ".json":
        return _object(text, str(path))
    try:
        tree = yaml.safe_load(text)
    except Exception as error:  # PyYAML raises all sorts over dates, numbers and nesting
        raise UserError(f"{path} is not YAML: {_reason(error)}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no mapping of keys to values")
    return tree


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {_reason(error)}; {CURE}") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: not a JSON object; {CURE}")
    return value


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _to_json(value: Any, path: Path, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        name, number = next(_not_finite(value, ""), ("", error))
        raise UserError(f"cannot write {path}: {name} is {number}, and JSON has finite numbers alone") from error


def _not_finite(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Yield where a value holds numbers that are not finite, and the numbers."""
    if isinstance(value, float) and not isfinite(value):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _not_finite(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _not_finite(part, f"{name}[{index}]")
