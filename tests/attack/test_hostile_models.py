"""Checkpoints and chat templates made to break the reader: refused with one error, or they work.

Nothing may run, hang, or end in an error that names no file and no field.
"""

import json
import os
import random
import shutil
import time

import pytest
from safetensors.torch import load_file, save_file

from steerproof.errors import ModelError, SteerproofError
from steerproof.model import chat
from steerproof.run.commands.basemodel import load_model
from steerproof.run.commands.preflight import check_experiment
from steerproof.run.graph.environment import Place
from tests.attack import commands
from tests.attack.mutations import NASTY, mutated_bytes, mutated_json
from tests.run.asked import asked
from tests.tiny import CHATML

FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"),
    *("model.safetensors.index.json", "model.safetensors"),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sound")
    asked(directory)
    return directory


@pytest.fixture
def place(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "place")
    return tmp_path / "place"


def edit(place, name, **fields):
    path = place / "model" / name
    path.write_text(json.dumps((json.loads(path.read_bytes()) if path.exists() else {}) | fields))


def judged(place):
    """What `plan`, `doctor` and `run` say; a checkpoint that they let through has to load."""
    experiment, where = asked(place).experiment, Place(directory=place)
    try:
        check_experiment(experiment, where)
        load_model(experiment, where)
    except SteerproofError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("config.json", {"hidden_size": 0}),
        ("config.json", {"num_attention_heads": 0}),
        ("config.json", {"num_attention_heads": 8}),
        ("config.json", {"num_key_value_heads": 0}),
        ("config.json", {"dtype": "float128"}),
        ("config.json", {"dtype": []}),
        ("config.json", {"pad_token_id": 10**9}),
        ("config.json", {"text_config": {"model_type": "nothing"}}),
        ("config.json", {"vocab_size": 10**7}),
        ("config.json", {"_attn_implementation": "kernels-community/flash-attn"}),
        ("generation_config.json", {"eos_token_id": "x"}),
        ("generation_config.json", {"eos_token_id": [None]}),
        ("tokenizer_config.json", {"model_max_length": "x"}),
        ("tokenizer_config.json", {"chat_template": 5}),
        ("model.safetensors.index.json", {"weight_map": {"a": "../../secret.safetensors"}}),
    ],
)
def test_a_field_that_cannot_be_is_one_error(place, name, fields):
    if "chat_template" in fields:
        (place / "model" / "chat_template.jinja").unlink()
    edit(place, name, **fields)
    assert judged(place)


@pytest.mark.parametrize("command", ["run", "lock"])
def test_base_weights_that_are_no_numbers_are_refused_before_anything_is_registered(place, command):
    weights = load_file(place / "model" / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, place / "model" / "model.safetensors", metadata={"format": "pt"})
    asked(place)
    refused = commands.command(command, place / "e.yaml", "--dir", place / "run")
    assert refused.code == 2
    assert "model.layers.2.mlp.up_proj.weight in " in refused.said
    assert "holds 1 of 1,536 weights" in refused.said
    assert not (place / "run" / "experiment.lock.json").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_or_a_loop_in_place_of_a_file_holds_nobody_up(place, name):
    path = place / "model" / name
    for make in (os.mkfifo, lambda path: path.symlink_to(path), lambda path: path.mkdir()):
        path.unlink(missing_ok=True)
        make(path)
        assert judged(place)
    path.rmdir()


TEMPLATES = {
    "loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "doubled": "{% set n = namespace(s='x' * 1000) %}{% for i in range(40) %}"
    "{% set n.s = n.s + n.s %}{% endfor %}",
    "product": "{{ 'x' * 10**10 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "indent": "{{ messages | tojson(indent=99999999) }}",
    "long": "{{ 'x' * 200000 }}",
    "surrogate": "{{ '\\ud800' }}",
    "division": "{{ 1 // 0 }}",
    "cycler": "{{ cycler().next() }}",
    "class": "{{ messages.__class__.__mro__ }}",
    "include": "{% include 'x' %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_without_an_end_is_given_up(place, name, monkeypatch):
    monkeypatch.setattr(chat, "RENDER_SECONDS", 2.0)
    (place / "model" / "chat_template.jinja").write_text(TEMPLATES[name] + CHATML)
    began = time.monotonic()
    with pytest.raises(ModelError, match="chat template"):
        check_experiment(asked(place).experiment, Place(directory=place))
    assert time.monotonic() - began < 30


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_two_thousand_mutated_checkpoints(place, tmp_path):
    chance, model, whole = random.Random(7), place / "model", tmp_path / "whole"
    shutil.copytree(model, whole)
    refused = 0
    for _ in range(2000):
        name = chance.choice(FILES)
        content = (whole / name).read_bytes() if (whole / name).exists() else b"{}"
        if name.endswith(".json") and chance.random() < 0.6:
            data = json.dumps(mutated_json(json.loads(content), chance)).encode()
        else:
            data = mutated_bytes(content, chance)
        (model / name).write_bytes(data if chance.random() < 0.97 else chance.choice(NASTY))
        refused += judged(place) is not None
        shutil.rmtree(model)
        shutil.copytree(whole, model)
    assert 200 < refused < 2000


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_two_thousand_mutated_templates(place, monkeypatch):
    monkeypatch.setattr(chat, "RENDER_SECONDS", 1.0)
    chance, path = random.Random(8), place / "model" / "chat_template.jinja"
    refused = 0
    for _ in range(2000):
        head = chance.choice(list(TEMPLATES.values())) if chance.random() < 0.3 else ""
        path.write_bytes(mutated_bytes((head + CHATML).encode(), chance))
        try:
            check_experiment(asked(place).experiment, Place(directory=place))
        except SteerproofError:
            refused += 1
    assert 200 < refused < 2000
