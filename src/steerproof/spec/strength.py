"""How hard a cell pushes: a value, read from text at the edge and nowhere else.

`none`, `c=+2` (the number that multiplies the direction) and `ratio=-0.2` (the size of the push
over the layer's baseline norm, with its sign) are what files say; `Strength` is what code passes.
"""

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from steerproof.errors import SteeringError

PUSH_TOLERANCE = 0.05
"""Largest relative difference between the push asked for and the one that arrived."""
_TEXT = re.compile(r"^(none|(c|ratio)=([+-]\d+(?:\.\d+)?))$", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """How hard a push is, for every persona alike. `str` gives its one spelling."""

    kind: Literal["none", "c", "ratio"]
    """What the number is: nothing, the coefficient, or the ratio to the baseline norm."""
    number: float = 0.0
    """Signed: a negative one pushes against the direction. 0.0 for `none`, never otherwise."""

    def __post_init__(self) -> None:
        """Refuse a push by nothing that calls itself a push.

        Raises:
            ValueError: The number does not belong to the kind.
        """
        if (self.kind == "none") != (self.number == 0.0) or not math.isfinite(self.number):
            raise ValueError(
                f"strength {self.kind}={self.number:+} is no push; a coefficient or ratio is "
                "finite and not 0, and no push is 'none'"
            )

    @classmethod
    def parse(cls, text: str) -> "Strength":
        """Read `none`, `c=+2` or `ratio=-0.2`.

        Raises:
            ValueError: Any other text; the sign is part of it.
        """
        match = _TEXT.match(text)
        if match is None:
            raise ValueError(f"strength {text!r} must be 'none', 'c=+2' or 'ratio=-0.2', with sign")
        if match[1] == "none":
            return NONE
        number = float(match[3])
        if number == 0.0 or not math.isfinite(number):
            raise ValueError(f"strength {text!r} pushes by nothing; write 'none'")
        return cls(kind="c" if match[2] == "c" else "ratio", number=number)

    def __str__(self) -> str:
        """The canonical text: `c=+2`, never `c=+2.0`; `parse` gives the very number back."""
        if self.kind == "none":
            return "none"
        return f"{self.kind}={Decimal(repr(self.number)).normalize():+f}"

    def record(self) -> str:
        """What files hold: the text."""
        return str(self)

    def __neg__(self) -> "Strength":
        """The same push the other way."""
        return Strength(kind=self.kind, number=-self.number)

    def coefficient(self, *, h_bar: float, norm: float) -> float:
        """The number that multiplies a direction: `c(ratio) = ratio * h_bar / ||v||`.

        Args:
            h_bar: Baseline residual norm of the layer.
            norm: Norm of the direction, above 0.
        """
        return self.number * h_bar / norm if self.kind == "ratio" else self.number

    def ratio(self, *, h_bar: float, norm: float) -> float:
        """The signed size of the push over the baseline: `c ||v|| / h_bar`.

        Args:
            h_bar: Baseline residual norm of the layer.
            norm: Norm of the direction, above 0.
        """
        return self.coefficient(h_bar=h_bar, norm=norm) * norm / h_bar

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """In records: text in JSON and YAML, the value in Python."""
        text = core_schema.no_info_after_validator_function(cls.parse, core_schema.str_schema())
        value = core_schema.is_instance_schema(cls)
        return core_schema.json_or_python_schema(
            json_schema=text,
            python_schema=core_schema.union_schema([value, text]),
            serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json"),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """For editors: the text, and how it is spelt."""
        return {"type": "string", "pattern": _TEXT.pattern}


NONE = Strength(kind="none")
"""No push."""


def one_strength(
    strength: Strength | None, *, ratio: float | int | None, c: float | int | None
) -> Strength:
    """The one of three ways to say how hard that was used.

    Args:
        strength: A value.
        ratio: Size of the push over the baseline norm, signed.
        c: The number that multiplies the direction.

    Raises:
        SteeringError: Not exactly one is given, or it pushes nothing.
    """
    try:
        given = [
            *([] if strength is None else [strength]),
            *([] if ratio is None else [Strength(kind="ratio", number=float(ratio))]),
            *([] if c is None else [Strength(kind="c", number=float(c))]),
        ]
    except ValueError as error:
        raise SteeringError(f"{error}; to push nothing, leave the push out") from None
    if len(given) != 1 or given[0] == NONE:
        raise SteeringError("a push needs one strength: ratio=0.2 or c=2.0, one of them and not 0")
    return given[0]
