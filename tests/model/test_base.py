"""Loading, finding the blocks, and prompts that are never cut."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from steerproof.errors import ModelError
from steerproof.model.base import base_of, find_blocks, load_base
from steerproof.model.chat import chat_ids
from tests.tiny import (
    ARCHITECTURES,
    CHATML,
    CONTEXT,
    HIDDEN,
    LAYERS,
    save_tiny,
    tiny_base,
    tiny_model,
    tiny_tokenizer,
)

END_OF_TURN, END_OF_TEXT = 258, 256
NO_SYSTEM = CHATML.replace(
    "{% for m in messages %}",
    "{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}",
)
DROPS_SYSTEM = CHATML.replace("in messages %}", "in messages if m.role != 'system' %}")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("checkpoint"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_blocks_are_found_by_structure(architecture):
    base = tiny_base(architecture)
    assert len(base.blocks) == LAYERS
    assert base.model.get_submodule(base.block_path) is base.blocks
    assert base.hidden_size == HIDDEN
    assert base.chat.context == CONTEXT
    with torch.no_grad():
        states = base.model(input_ids=torch.tensor([[5, 6, 7]]), output_hidden_states=True)
    assert states.hidden_states[1].shape == (1, 3, HIDDEN)
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())


def test_a_list_of_the_same_length_inside_a_block_is_not_the_stack():
    model = tiny_model()
    for block in model.model.layers:
        block.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(LAYERS))
    assert find_blocks(model)[0] == "model.layers"


def test_a_model_whose_blocks_cannot_be_told_is_refused():
    model = tiny_model()
    model.towers = nn.ModuleList(nn.Linear(2, 2) for _ in range(LAYERS))
    with pytest.raises(ModelError, match=r"found 2 lists of 4 .*model\.layers \(4\).*towers \(4\)"):
        find_blocks(model)
    model = tiny_model(num_hidden_layers=4)
    model.config.num_hidden_layers = 9
    with pytest.raises(ModelError, match=r"found 0 lists of 9 .*model\.layers \(4\)"):
        find_blocks(model)


def test_a_directory_loads_with_the_hash_of_every_file(checkpoint):
    base = load_base(checkpoint)
    assert base.dtype == torch.float32
    assert base.model.config._attn_implementation == "sdpa"
    for name, digest in base.files.items():
        assert digest == hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(base.files)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(base.model(ids).logits, tiny_model()(ids).logits)


def test_half_precision_is_what_was_asked_for(checkpoint):
    base = load_base(checkpoint, dtype="bfloat16")
    assert base.dtype == torch.bfloat16
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}


def test_answers_end_at_the_templates_end_of_turn_and_at_the_end_of_text():
    base = tiny_base()
    assert base.chat.end_of_turn == END_OF_TURN
    assert base.eos_ids == {END_OF_TURN, END_OF_TEXT}


def test_without_a_special_token_after_the_answer_the_tokenizers_end_is_taken():
    plain = CHATML.replace("<|im_end|>", "")
    base = base_of(tiny_model(), tiny_tokenizer(plain))
    assert base.chat.end_of_turn == END_OF_TEXT


def test_a_prompt_holds_the_system_text_the_question_and_the_start_of_the_answer():
    base = tiny_base()
    text = base.tokenizer.decode(chat_ids(base.chat, system="Be a poet.", user="Why?"))
    assert text == (
        "<|im_start|>system\nBe a poet.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    empty = base.tokenizer.decode(chat_ids(base.chat, system="", user="Why?"))
    assert empty.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nWhy?")


def test_a_template_without_a_system_role_says_what_to_set():
    tokenizer = tiny_tokenizer(NO_SYSTEM)
    base = base_of(tiny_model(), tokenizer)
    with pytest.raises(ModelError, match=r"set model\.system_role: user"):
        chat_ids(base.chat, system="Be a poet.", user="Why?")
    base = base_of(tiny_model(), tokenizer, system_role="user")
    text = base.tokenizer.decode(chat_ids(base.chat, system="Be a poet.", user="Why?"))
    assert text.startswith("<|im_start|>user\nBe a poet.\n\nWhy?<|im_end|>")


@pytest.mark.parametrize("user", ["Why?", "You said: Be a poet. Why?"])
def test_a_template_that_drops_the_system_text_is_an_error(user):
    base = base_of(tiny_model(), tiny_tokenizer(DROPS_SYSTEM))
    with pytest.raises(ModelError, match="drops the system prompt"):
        chat_ids(base.chat, system="Be a poet.", user=user)


def test_a_template_that_drops_the_question_is_an_error():
    base = base_of(tiny_model(), tiny_tokenizer(CHATML.replace("m.content", "m.content[:4]")))
    with pytest.raises(ModelError, match="drops the question"):
        chat_ids(base.chat, system="Be", user="Why is it so?")


def test_a_prompt_that_would_be_cut_is_an_error():
    base = tiny_base()
    length = len(chat_ids(base.chat, system="Be a poet.", user="Why?"))
    assert (
        len(chat_ids(base.chat, system="Be a poet.", user="Why?", reserve=CONTEXT - length))
        == length
    )
    with pytest.raises(ModelError, match=rf"{length} tokens and {CONTEXT - length + 1} more"):
        chat_ids(base.chat, system="Be a poet.", user="Why?", reserve=CONTEXT - length + 1)
    with pytest.raises(ModelError, match="a prompt is never cut"):
        chat_ids(base.chat, system="Be a poet.", user="Why? " * 60)


def test_a_tokenizer_without_a_chat_template_is_refused(checkpoint, tmp_path):
    with pytest.raises(ModelError, match="no chat template"):
        base_of(tiny_model(), tiny_tokenizer(None))
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_base(copy)


def test_a_directory_without_weights_says_what_is_there(checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no weights in .*found.*pytorch_model\.bin"):
        load_base(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 6}, "num_hidden_layers"),
        ({"num_hidden_layers": 6, "layer_types": None}, r"missing_keys.*layers\.4"),
        ({"intermediate_size": 40}, r"mismatched_keys.*mlp\.down_proj"),
        ({"model_type": "no_such_model"}, "no_such_model"),
    ],
)
def test_weights_and_configuration_that_disagree_are_refused(checkpoint, tmp_path, change, message):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=message):
        load_base(copy)


def test_damaged_weights_are_refused(checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="no whole safetensors file"):
        load_base(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_a_weight_that_is_no_number_is_refused_and_named(checkpoint, tmp_path, value):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][2:5] = value
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    if value == 3e38:  # their sum is infinite, they are not
        assert load_base(copy).model.get_parameter("model.norm.weight").max() == value
        return
    with pytest.raises(ModelError, match=r"^model\.norm\.weight in .* holds 3 of 32 weights"):
        load_base(copy)


@pytest.mark.parametrize(
    ("path", "revision", "message"),
    [
        ("/no/such/directory", None, "no such model directory: '/no/such/directory'"),
        ("owner/name", None, "needs model.revision, the 40 hexadecimal digits"),
        ("owner/name", "main", "not 'main'"),
    ],
)
def test_a_path_that_is_no_model_says_why(path, revision, message):
    with pytest.raises(ModelError, match=message):
        load_base(path, revision=revision)


def test_an_unknown_precision_says_which_there_are(checkpoint):
    with pytest.raises(ModelError, match="'float8' is not one of float32, float64"):
        load_base(checkpoint, dtype="float8")
