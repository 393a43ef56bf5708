"""Single files of a Hugging Face model folder or hub id."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from fastsvs import hub
from fastsvs.errors import UserError

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"


def model_file(path: str, name: str) -> Path | None:
    """Return the file `name` of the model in the folder or of the hub id `path`, or None where the model has none."""
    folder = Path(path)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    hub.settle(path)
    try:
        return Path(hf_hub_download(path, name))
    except (EntryNotFoundError, OSError):  # also a hub that cannot be asked, and a cache without the file
        return None


def declared_stops(path: str) -> list[int] | None:
    """Return the token ids that the model's generation_config.json ends on, or None where there is no such file. Raises
    UserError for a file that cannot be read."""
    file = model_file(path, GENERATION_CONFIG)
    if file is None:
        return None
    cure = "mend it, or remove it to end on the tokens that config.json names"
    try:
        declared = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}; {cure}") from error
    if not isinstance(declared, dict):
        raise UserError(f"{file} holds no JSON object; {cure}")
    found = declared.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(token) is int for token in ids):
        raise UserError(f"{file}: eos_token_id must be a token id or a list of them, found {found!r}; {cure}")
    return ids
