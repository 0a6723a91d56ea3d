"""How units are called: a kind and a name, parsed only where text comes in from outside."""

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from steerproof.errors import ExperimentError


@dataclass(frozen=True, slots=True, order=True)
class UnitId:
    """Which unit is meant; written `kind/name`."""

    kind: str
    """What it is: `directions`, `adapter`, `cell`, ..."""
    name: str
    """Which one, readable; unique within its kind."""

    @classmethod
    def parse(cls, text: str) -> "UnitId":
        """Read what `str` wrote.

        Raises:
            ExperimentError: The text is not `kind/name`.
        """
        kind, slash, name = text.partition("/")
        if not (kind and slash and name):
            raise ExperimentError(f"{text!r} names no unit; write kind/name, such as answers/base")
        return cls(kind, name)

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """In records: text in JSON, the value in Python."""
        text = core_schema.no_info_after_validator_function(cls._read, core_schema.str_schema())
        value = core_schema.is_instance_schema(cls)
        return core_schema.json_or_python_schema(
            json_schema=text, python_schema=core_schema.union_schema([value, text])
        )

    @classmethod
    def _read(cls, text: str) -> "UnitId":
        try:
            return cls.parse(text)
        except ExperimentError as error:
            raise ValueError(str(error)) from None

    def record(self) -> str:
        """As it stands in JSON."""
        return str(self)
