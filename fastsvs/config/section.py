"""The base of all sections of a configuration."""

from __future__ import annotations

import os
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from fastsvs.shipped import find

AnyPath = Annotated[str, AfterValidator(os.path.expanduser)]
"""Path, or what stands in its place (a hub id, `tiny:train`); `~` at its beginning is the user's home."""
InputPath = Annotated[AnyPath, AfterValidator(find)]
"""Path that is looked for in the working folder, and then among the files that come with FastSvS."""
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
"""Text that may be empty, for which null stands as well."""
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Share of a running mean that stays at every step."""
Timeout = Annotated[float, Field(gt=0, le=200_000)]
"""Longest wait in seconds, at most some two days: ten times as much is what a wait of the operating system takes."""


class Section(BaseModel):
    """One section of a configuration: frozen, without unknown keys. `make docs` turns the docstrings of its fields into
    docs/configuration.md: each begins with a noun, gives the unit and the meaning of special values, and leaves the
    default to the table."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        """Raise ValueError for true or false where a number belongs: they would count as 1 and 0."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = {annotation, *get_args(annotation)}
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            raise ValueError("it must be a number")
        return value
