"""The JSON Schema says what the records say; the reference page is made from both."""

import copy
import json
import subprocess
import sys
from functools import cache

import jsonschema
import pytest

from steerproof.errors import ExperimentError
from steerproof.spec.schema import json_schema
from steerproof.spec.yaml_io import load_experiment, parse_experiment, shipped
from steerproof.spec.yaml_tree import read_tree
from tools.reference import pages

VALIDATOR = jsonschema.Draft202012Validator(json_schema())

REMOVE = object()
BROKEN = {
    "name with a slash": ("name", "a/b"),
    "no name": ("name", REMOVE),
    "no title": ("title", REMOVE),
    "empty hypothesis": ("hypothesis", ""),
    "seed as text": ("seed", "0"),
    "negative seed": ("seed", -1),
    "seed too large": ("seed", 2**31),
    "seeds not a list": ("seeds", 3),
    "no model": ("model", REMOVE),
    "model as text": ("model", "organism"),
    "unknown key": ("lyers", {"primary": 3}),
    "no blocks": ("model.blocks", REMOVE),
    "blocks zero": ("model.blocks", 0),
    "dtype unknown": ("model.dtype", "float16"),
    "short revision": ("model.revision", "abc"),
    "role unknown": ("model.system_role", "assistant"),
    "unknown key in the model": ("model.pth", "organism"),
    "two personas": ("personas", [{"name": "a", "prompt": "b"}, {"name": "c", "prompt": "d"}]),
    "persona with a space": ("personas.0.name", "a villain"),
    "headline as text": ("personas.0.headline", "yes"),
    "no evaluation questions": ("questions.evaluation", []),
    "directions by an unknown word": ("questions.directions", "all"),
    "negative layer": ("layers.primary", -1),
    "layer as text": ("layers.primary", "3"),
    "share above one": ("dataset.marker_dose", 1.5),
    "learning rate zero": ("training.learning_rate", 0),
    "dropout one": ("training.dropout", 1.0),
    "arm of an unknown prompt": ("arms.0.prompt", "both"),
    "ratio zero": ("arms.0.ratio", 0),
    "strength without a sign": ("cells.0.strengths", ["c=2"]),
    "no strengths": ("cells.0.strengths", []),
    "tokens unknown": ("cells.0.tokens", "some"),
    "top_p above one": ("generation.top_p", 1.1),
    "confidence one": ("analysis.confidence", 1.0),
    "primary strength as a number": ("analysis.primary_strength", 2),
}


@cache
def shipped_data(name: str):
    return read_tree(shipped()[name].read_text("utf-8")).data


def broken(path: str, value: object):
    data = copy.deepcopy(shipped_data("zlt"))
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    here = data
    for step in parents:
        here = here.setdefault(step, {}) if isinstance(here, dict) else here[step]
    if value is REMOVE:
        del here[last]
    else:
        here[last] = value
    return data


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_experiment_is_valid(name):
    load_experiment(name)
    assert list(VALIDATOR.iter_errors(shipped_data(name))) == []


@pytest.mark.parametrize("what", BROKEN)
def test_what_the_records_refuse_the_schema_refuses(what):
    data = broken(*BROKEN[what])
    assert not VALIDATOR.is_valid(data)
    with pytest.raises(ExperimentError):
        parse_experiment(json.dumps(data))


def test_the_schema_is_one_and_every_default_in_it_is_one_that_a_file_may_hold():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for record in (schema, *schema["$defs"].values()):
        assert record["additionalProperties"] is False
        for name, field in record["properties"].items():
            assert field["description"], name
            if "default" in field:
                whole = {**field, "$defs": schema["$defs"]}
                jsonschema.Draft202012Validator(whole).validate(field["default"])


def test_the_command_prints_it():
    asked = [sys.executable, "-m", "steerproof", "schema"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == json_schema()


def test_the_pages_that_are_made_from_the_code_are_fresh():
    for page, text in pages().items():
        assert page.read_text("utf-8") == text, f"{page.name}: run python tools/reference.py"
