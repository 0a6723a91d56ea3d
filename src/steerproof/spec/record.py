"""What the records of an experiment have in common: strict, frozen, each field explained."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Text = Annotated[str, Field(min_length=1, max_length=8000)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1, le=1_000_000)]
Resamples = Annotated[int, Field(ge=99, le=1_000_000)]


def later(default: object) -> Any:
    """A field that is written out only where it is used.

    It came after experiments had been locked and units made, whose hashes have to stay.
    """
    return Field(default=default, exclude_if=lambda value: value == default)


class Record(BaseModel):
    """A frozen, strict record: no unknown keys, no silent conversion."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )
