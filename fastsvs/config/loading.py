"""Reading a job from a YAML file and overrides, with every fault named, and writing it back as YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from fastsvs.config.jobs import EvalJob, SelfJob, SftJob, TrainJob
from fastsvs.config.yaml_text import parse, write
from fastsvs.errors import UserError
from fastsvs.shipped import PREFIX, find_configuration, missing, shipped_as

Job = TypeVar("Job", TrainJob, SftJob, SelfJob, EvalJob)
_COMMANDS: dict[type[BaseModel], str] = {TrainJob: "train", SftJob: "sft", SelfJob: "self", EvalJob: "eval"}


def load(
    schema: type[Job], path: str | Path, overrides: Sequence[str] = (), sections: Mapping[str, Any] | None = None
) -> Job:
    """Return the validated job in the YAML file at `path`, or in the shipped configuration `fastsvs:NAME`, with the
    values of `sections` over it, nested as in the file, and `a.b=value` overrides. Raises UserError with every
    fault."""
    tree = _merge(_read_tree(_locate(str(path), Path())), dict(sections or {}))
    for override in overrides:
        _apply(tree, override)
    return build(schema, tree, str(path))


def build(schema: type[Job], tree: Mapping[str, Any], where: str) -> Job:
    """Return the validated job of the sections in `tree`. Raises UserError with every fault, which `where` begins."""
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise UserError(_explain(schema, error, where) + _other_command(schema, tree)) from error


def dump(job: BaseModel) -> str:
    """Return the resolved configuration as YAML that `load` reads back."""
    return write(job.model_dump(mode="json"))


def _read_tree(path: Path, heirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the sections of a file over those that it extends; `heirs` are the files that extend it, first to last."""
    here = Path(os.path.realpath(path))
    if here in heirs:
        circle = [*heirs[heirs.index(here) :], here]
        raise UserError(f"config files extend each other in a circle: {' extends '.join(map(str, circle))}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"config file {path} does not exist: {missing(path)}{shipped_as(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} cannot be read as YAML: {error}") from error
    tree = parse(text, f"config file {path}")
    if not isinstance(tree, dict):
        raise UserError(f"config file {path} must hold a mapping of sections, found {type(tree).__name__}")
    extended = tree.pop("extends", [])
    parents = [extended] if isinstance(extended, str) else extended
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise UserError(f"config file {path}: extends must name a file or a list of files, found {extended!r}")
    base: dict[str, Any] = {}
    for parent in parents:
        base = _merge(base, _read_tree(_locate(parent, path.parent), (*heirs, here)))
    return _merge(base, tree)


def _locate(path: str, beside: Path) -> Path:
    return find_configuration(path) if path.startswith(PREFIX) else beside / os.path.expanduser(path)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise UserError(f"override {override!r} must look like section.key=value")
    *sections, key = path.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UserError(f"override {override!r}: {section!r} is a value, not a section")
    tree[key] = parse(text, f"override {override!r}")


def _explain(schema: type[BaseModel], error: ValidationError, where: str) -> str:
    lines = [f"{where}: {error.error_count()} fault(s) in the configuration"]
    for fault in error.errors():
        location = [str(part) for part in fault["loc"]]
        name = ".".join(location) or "(whole file)"
        if fault["type"] == "extra_forbidden":
            near = get_close_matches(location[-1], _known_keys(schema, location[:-1]), n=1, cutoff=0.5)
            lines.append(f"  {name}: unknown key" + (f"; did you mean {near[0]!r}?" if near else ""))
        elif fault["type"] == "missing":
            lines.append(f"  {name}: {fault['msg']}")
        else:
            said = fault["msg"].removeprefix("Value error, ")  # by a check of ours, which says what it saw
            ours = said != fault["msg"] and isinstance(fault["input"], dict)
            got = "" if ours else f" (got {_shortened(fault['input'])}{_hint(fault['type'], fault['input'])})"
            lines.append(f"  {name}: {said}{got}" if location else f"  {said}")
    return "\n".join(lines)


def _other_command(schema: type[BaseModel], tree: Mapping[str, Any]) -> str:
    """Say of which other command the sections are, where they are one's."""
    for other, command in _COMMANDS.items():
        if other is not schema:
            with suppress(ValidationError):
                other.model_validate(tree)
                return f"\nit is a configuration of `fastsvs {command}`"
    return ""


def _hint(kind: str, value: Any) -> str:
    """Say what is right where YAML reads something else than was meant."""
    section = kind in ("model_type", "dict_type")
    if section and value is None:
        return "; write an empty section as {}, or leave it out"
    if kind == "string_type":
        quote = "; quote a word or number that is meant as a text"
        return f"{quote}, or give the key a value" if value is None else quote
    if kind == "tuple_type":
        return f"; write a list: [{value}]"
    return "; it is a section, with keys of its own" if section else ""


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."


def _known_keys(schema: type[BaseModel], sections: Sequence[str]) -> list[str]:
    for section in sections:
        field = schema.model_fields.get(section)
        annotation = field.annotation if field else schema  # the name of an entry in a mapping of sections
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        schema = annotation
    return list(schema.model_fields)
