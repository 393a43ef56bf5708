"""The base of all sections of a configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fastsvs.shipped import find

InputPath = Annotated[str, AfterValidator(find)]
"""Path that is looked for in the working folder, and then among the files that come with FastSvS."""
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Share of a running mean that stays at every step."""


class Section(BaseModel):
    """One section of a configuration: frozen, without unknown keys. `make docs` turns the docstrings of its fields into
    docs/configuration.md: each begins with a noun, gives the unit and the meaning of special values, and leaves the
    default to the table."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
