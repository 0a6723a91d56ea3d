"""Adapter files: what they must say, and what is refused by name."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from peft import EvaConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from steerproof.engine.lora.peft_files import CONFIG, WEIGHTS, read_peft, write_peft
from steerproof.engine.lora.weights import LoraSpec, LoraWeights, fresh_weights, lora_sites
from steerproof.errors import ModelError
from tests.tiny import ARCHITECTURES, tiny_base, tiny_model

SPEC = LoraSpec(rank=4, alpha=8.0, rslora=True)
BASE = tiny_base()


@pytest.fixture
def directory(tmp_path):
    weights = fresh_weights(lora_sites(BASE), SPEC, 1)
    for name, content in write_peft(BASE, weights, "base").items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def change(directory: Path, **fields) -> None:
    config = json.loads((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(json.dumps({**config, **fields}))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_peft_finds_the_very_same_layers_by_the_written_names(architecture):
    base = tiny_base(architecture)
    weights = fresh_weights(lora_sites(base), SPEC, 1)
    files = write_peft(base, weights, "base")
    config = LoraConfig(**json.loads(files[CONFIG]))
    wrapped = get_peft_model(tiny_model(architecture), config)
    named = {name.replace(".default", "") for name, _ in wrapped.named_parameters()}
    assert {name for name in named if "lora_" in name} == set(weights.tensors)
    assert config.fan_in_fan_out == (architecture == "gpt2")


def test_names_that_would_match_outside_the_blocks_are_written_in_full():
    base = tiny_base()
    some = LoraSpec(rank=4, alpha=8.0, rslora=True, targets=("model.layers.1.mlp.up_proj",))
    fresh = fresh_weights(lora_sites(base), SPEC, 1).tensors
    chosen = {key: value for key, value in fresh.items() if "layers.1.mlp.up_proj" in key}
    files = write_peft(base, LoraWeights(spec=some, tensors=chosen), "base")
    assert json.loads(files[CONFIG])["target_modules"] == ["model.layers.1.mlp.up_proj"]
    whole = write_peft(base, fresh_weights(lora_sites(base), SPEC, 1), "base")
    assert len(json.loads(whole[CONFIG])["target_modules"]) == 7


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"exclude_modules": ["q_proj"]}, "exclude_modules"),
        ({"layers_to_transform": [1]}, "layers_to_transform"),
        ({"lora_bias": True}, "lora_bias"),
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"some_future_option": "on"}, "some_future_option='on'"),
    ],
)
def test_what_a_plain_pool_cannot_do_is_refused_by_name(directory, fields, named):
    change(directory, **fields)
    with pytest.raises(ModelError, match=named):
        read_peft(directory, BASE)


def test_what_only_describes_how_training_began_is_no_reason_to_refuse(directory):
    plain = read_peft(directory, BASE)
    change(directory, init_lora_weights="eva", eva_config=asdict(EvaConfig()))
    read = read_peft(directory, BASE)
    assert read.spec == plain.spec
    assert all(torch.equal(read.tensors[name], plain.tensors[name]) for name in plain.tensors)


@pytest.mark.parametrize(
    "target", ["all-linear", r".*\.(q|k|v|o|gate|up|down)_proj", ["mlp.up_proj", "q_proj"]]
)
def test_targets_are_read_by_pefts_rules(directory, target):
    change(directory, target_modules=target)
    if isinstance(target, str):
        assert read_peft(directory, BASE).spec.targets is None
        return
    with pytest.raises(ModelError, match=r"0 missing keys .* 40 unexpected keys"):
        read_peft(directory, BASE)
    tensors = load_file(directory / WEIGHTS)
    kept = {k: v for k, v in tensors.items() if "up_proj" in k or "q_proj" in k}
    save_file(kept, directory / WEIGHTS)
    assert len(read_peft(directory, BASE).spec.targets or ()) == 8


@pytest.mark.parametrize(
    ("target", "message"),
    [(["no_such_layer"], "matches no linear layer"), (["lm_head"], "not in the blocks")],
)
def test_targets_outside_the_blocks_are_refused(directory, target, message):
    change(directory, target_modules=target)
    with pytest.raises(ModelError, match=message):
        read_peft(directory, BASE)


def test_missing_and_damaged_files_are_errors(directory, tmp_path_factory):
    with pytest.raises(ModelError, match="not an adapter directory"):
        read_peft(tmp_path_factory.mktemp("empty"), BASE)
    content = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(content[:200])
    with pytest.raises(ModelError, match="cannot read"):
        read_peft(directory, BASE)
    (directory / WEIGHTS).rename(directory / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"pickles are not read.*adapter_model\.bin"):
        read_peft(directory, BASE)
    (directory / CONFIG).write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        read_peft(directory, BASE)
    (directory / CONFIG).write_text('{"peft_type": "LORA"}')
    with pytest.raises(ModelError, match=r"lacks \['lora_alpha', 'r', 'target_modules'\]"):
        read_peft(directory, BASE)


def test_a_missing_or_unexpected_tensor_is_an_error(directory):
    tensors = load_file(directory / WEIGHTS)
    key = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != key}, directory / WEIGHTS)
    with pytest.raises(ModelError, match="1 missing keys"):
        read_peft(directory, BASE)
    extra = {**tensors, "base_model.model.lm_head.weight": torch.zeros(2)}
    save_file(extra, directory / WEIGHTS)
    with pytest.raises(ModelError, match="1 unexpected keys"):
        read_peft(directory, BASE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": "4"}, "r is '4'; a whole number"),
        ({"r": None}, "r is None"),
        ({"r": float("nan")}, "r is nan"),
        ({"r": 0}, "r is 0"),
        ({"r": "x" * 70_000}, "r is 'x{59}; a whole number"),
        ({"peft_type": "x" * 70_000}, "peft_type='x{59}; train it with peft_type LORA, bias none"),
        ({"r": 10**400}, "a whole number"),
        ({"lora_alpha": "8"}, "lora_alpha is '8'"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"target_modules": None}, "target_modules is 'None'"),
        ({"target_modules": [5]}, "target_modules"),
        ({"target_modules": "("}, "target_modules '.'"),
        ({"target_modules": r"(.*\w+)*_nowhere"}, "matches no linear layer|nested repeats"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
    ],
)
def test_fields_of_another_kind_are_refused_by_name(directory, fields, message):
    change(directory, **fields)
    with pytest.raises(ModelError, match=message):
        read_peft(directory, BASE)


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"\xff", b"[" * 99_999, b'{"r": 1' + b"0" * 5000]
)
def test_a_configuration_that_is_no_object_is_one_error(directory, content):
    (directory / CONFIG).write_bytes(content)
    with pytest.raises(ModelError, match=CONFIG):
        read_peft(directory, BASE)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t * float("inf"),
        lambda t: t.bool(),
        lambda t: t.to(torch.complex64),
        lambda t: t.to(torch.int8),
        lambda t: t.to(torch.float8_e4m3fn),
    ],
    ids=["infinite", "bool", "complex", "int8", "float8"],
)
def test_weights_that_are_no_numbers_of_a_usual_kind_are_refused(directory, spoil):
    tensors = load_file(directory / WEIGHTS)
    key = sorted(tensors)[0]
    save_file({**tensors, key: spoil(tensors[key])}, directory / WEIGHTS)
    with pytest.raises(ModelError, match="no finite number"):
        read_peft(directory, BASE)
