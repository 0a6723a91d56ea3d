"""The experiment as JSON Schema: what editors complete and check while it is written.

It says what each field may hold by itself. What only shows in several fields together, `plan` says.
"""

from collections.abc import Mapping
from typing import Any

from steerproof.spec.experiment import Experiment
from steerproof.spec.strength import Strength

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of an experiment file."""
    made = Experiment.model_json_schema(mode="validation")
    for record in (made, *made["$defs"].values()):
        for field in record.get("properties", {}).values():
            _mend(field, made["$defs"])
    return {"$schema": DIALECT, **made, "title": "A steerproof experiment"}


def _mend(field: dict[str, Any], records: Mapping[str, Any]) -> None:
    """Write a default as a file would, and a meaning that pydantic leaves to the record's own."""
    default = field.get("default")
    if isinstance(default, dict) and default.keys() == {"kind", "number"}:
        field["default"] = str(Strength(**default))
    if "description" not in field and "$ref" in field:
        field["description"] = records[field["$ref"].rpartition("/")[2]]["description"]
