"""What all sections of a configuration have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from fastsvs.shipped import find

InputPath = Annotated[str, AfterValidator(find)]
"""A path that is looked for where one stands, and then among what FastSvS ships."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
