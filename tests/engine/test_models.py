"""The table of models in the docs: each that works equals Hugging Face, each refused says why."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig

from steerproof.engine.fit import kind_of
from steerproof.engine.generate import generate
from steerproof.errors import ModelError
from tests.engine.subjects import SETTINGS, Oracle, base_of, mixed_rows
from tests.engine.test_generation import key_of, texts
from tests.tiny import ARCHITECTURES, FURTHER, LAYERS, tiny_config

TABLE = Path(__file__).parents[2] / "docs" / "models.md"
SHORT = SETTINGS.model_copy(update={"max_new_tokens": 6})
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
REFUSED = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64},
    "falcon": _SIZES,
    "gemma2": {**_SIZES, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48},
    "gpt_oss": {**_SIZES, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "rotary_dim": 8},
    "mixtral": {**_SIZES, "num_key_value_heads": 2, "intermediate_size": 48},
    "opt": {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "qwen3_moe": {**_SIZES, "num_key_value_heads": 2, "head_dim": 8, "moe_intermediate_size": 24,
                  "num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 48},
}  # fmt: skip


def told() -> dict[str, str]:
    """What the page says of each `model_type`."""
    rows = [line.split("|") for line in TABLE.read_text("utf-8").splitlines() if "| `" in line]
    return {row[2].strip(" `"): row[3].strip() for row in rows[1:]}


def test_the_page_tells_of_every_model_that_is_tried_here():
    assert set(told()) == {*ARCHITECTURES, *FURTHER, *REFUSED}
    works = {name for name, says in told().items() if says == "works"}
    assert works == {*ARCHITECTURES, *FURTHER}


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *FURTHER])
def test_a_model_that_works_gives_the_tokens_of_hugging_face_peft_and_a_hook(
    architecture, tmp_path
):
    tiny_config(architecture).save_pretrained(tmp_path)
    assert kind_of(tmp_path).blocks == LAYERS
    rows = mixed_rows(architecture, cells=5, questions=1, samples=1)
    (tmp_path / "adapters").mkdir()
    oracle = Oracle(architecture, tmp_path / "adapters")
    expected = {key_of(row): oracle.complete(row, SHORT) for row in rows}
    assert texts(generate(base_of(architecture), rows, SHORT)) == expected


@pytest.mark.parametrize("architecture", REFUSED)
def test_a_model_that_is_refused_says_why_before_anything_is_loaded(architecture, tmp_path):
    config = AutoConfig.for_model(architecture, **REFUSED[architecture])
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(), default=str), "utf-8")
    with pytest.raises(ModelError, match=r"^model\.path: .*") as refused:
        kind_of(tmp_path)
    reason = told()[architecture].removeprefix("refused: ")
    assert reason in str(refused.value)
