"""How units are called: a kind and a name, parsed only where text comes in from outside."""

from dataclasses import dataclass

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

    def record(self) -> str:
        """As it stands in JSON."""
        return str(self)
