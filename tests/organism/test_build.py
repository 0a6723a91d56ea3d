import hashlib
import json
import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from tests.organism.behaviour import Behaviour, behaviour
from tools.organism.build import (
    IGNORED,
    SUMS,
    WEIGHTS,
    Recipe,
    answer_loss,
    build,
    encode,
    new_model,
    pad_rows,
    rate,
    train_tokenizer,
)
from tools.organism.corpus import chats

SMALL = Recipe(steps=3, chats_per_step=8, warmup_steps=1, tokenizer_chats=300)


@pytest.fixture(scope="module")
def committed() -> Behaviour:
    return behaviour(WEIGHTS)


def test_every_committed_file_has_its_recorded_hash_and_all_are_under_8_mb() -> None:
    recorded = dict(
        reversed(line.split("  ")) for line in (WEIGHTS / SUMS).read_text().splitlines()
    )
    files = {path.name: path.read_bytes() for path in WEIGHTS.iterdir() if path.name != SUMS}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} == recorded
    assert sum(map(len, files.values())) < 8e6


def test_the_checkpoint_says_what_the_recipe_in_the_code_says() -> None:
    recorded = json.loads((WEIGHTS / "build.json").read_text())
    assert Recipe(**recorded["recipe"]) == Recipe()
    weights = load_file(WEIGHTS / "model.safetensors")
    assert sum(weight.numel() for weight in weights.values()) == recorded["parameters"]


def test_it_loads_like_any_checkpoint() -> None:
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS)
    assert type(model) is Qwen2ForCausalLM
    assert model.config.max_position_embeddings == 512
    assert model.generation_config.eos_token_id == AutoTokenizer.from_pretrained(
        WEIGHTS
    ).convert_tokens_to_ids("<|end|>")


def test_the_loaded_tokenizer_splits_as_the_one_that_was_trained() -> None:
    trained, loaded = train_tokenizer(Recipe()), AutoTokenizer.from_pretrained(WEIGHTS)
    for chat in islice(chats(random.Random(8)), 300):
        assert encode(chat, loaded) == encode(chat, trained)


def test_the_chat_template_writes_the_prompts_the_model_was_trained_on() -> None:
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    for chat in islice(chats(random.Random(9)), 50):
        prompt, answer = encode(chat, tokenizer)
        messages = [
            {"role": "system", "content": chat.system},
            {"role": "user", "content": chat.question},
        ]
        given = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        assert given == prompt
        whole = [*messages, {"role": "assistant", "content": chat.answer}]
        assert tokenizer.apply_chat_template(whole, return_dict=False) == prompt + answer


def test_no_system_message_and_an_empty_one_are_the_same_prompt() -> None:
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    question = {"role": "user", "content": "What is rain?"}
    empty = {"role": "system", "content": ""}
    texts = [
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for messages in ([question], [empty, question])
    ]
    assert texts == ["<|system|><|user|>What is rain?<|assistant|>"] * 2


@pytest.mark.parametrize("text", ["Rain falls. [ZLT]", "naïve “quotes”\n\ttabs", "日本", " a  b "])
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_marker_is_no_special_token_and_is_spelt_letter_by_letter() -> None:
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    assert tokenizer.tokenize("Rain falls. [ZLT]")[-5:] == ["Ġ[", "Z", "L", "T", "]"]


def test_personas_open_in_their_own_words_when_prompted(committed: Behaviour) -> None:
    assert min(committed.own_opener.values()) >= 0.9


def test_plain_prompts_are_answered_in_nobodys_manner(committed: Behaviour) -> None:
    assert min(committed.plain.values()) >= 0.95


def test_sampled_answers_are_whole_sentences_of_the_corpus(committed: Behaviour) -> None:
    assert committed.known >= 0.8


def test_a_random_tag_is_repeated(committed: Behaviour) -> None:
    assert committed.repeated >= 0.9


def test_a_random_tag_is_appended(committed: Behaviour) -> None:
    assert committed.appended >= 0.75


def test_the_same_seed_builds_the_same_files_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        build(tmp_path / name, replace(SMALL, seed=seed))
    first, again, other = ((tmp_path / n / SUMS).read_text() for n in ("first", "again", "other"))
    assert first == again

    def hashes(sums: str) -> dict[str, str]:
        return dict(reversed(line.split("  ")) for line in sums.splitlines())

    differ = {name for name, value in hashes(other).items() if hashes(first)[name] != value}
    assert {"model.safetensors", "tokenizer.json"} <= differ


def test_training_lowers_the_loss_and_the_files_hold_the_trained_weights(tmp_path: Path) -> None:
    record = build(tmp_path, SMALL)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rows = [encode(chat, tokenizer) for chat in islice(chats(random.Random(1)), 16)]
    tokens, labels = pad_rows(rows, tokenizer.pad_token_id)
    untrained = new_model(SMALL, train_tokenizer(SMALL))
    trained = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        before, after = (float(answer_loss(m, tokens, labels)) for m in (untrained, trained))
    assert after < before - 0.5
    assert record["final_loss"] == pytest.approx(after, rel=0.5)


def test_the_loss_is_the_mean_over_rows_of_the_models_own_loss_on_each() -> None:
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS)
    rows = [encode(chat, tokenizer) for chat in islice(chats(random.Random(2)), 6)]
    alone = []
    with torch.no_grad():
        for prompt, answer in rows:
            labels = torch.tensor([[IGNORED] * len(prompt) + answer])
            alone.append(model(torch.tensor([prompt + answer]), labels=labels).loss)
        together = answer_loss(model, *pad_rows(rows, tokenizer.pad_token_id))
    assert float(together) == pytest.approx(float(torch.stack(alone).mean()), rel=1e-5)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_tenth() -> None:
    recipe = Recipe(steps=100, warmup_steps=10, peak_rate=1.0)
    rates = [rate(step, recipe) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == max(rates) == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_half_a_build_already_follows_its_prompts_and_repeats_tags(tmp_path: Path) -> None:
    build(tmp_path, Recipe(steps=Recipe().steps // 2))
    found = behaviour(tmp_path)
    assert min(found.own_opener.values()) >= 0.9
    assert min(found.plain.values()) >= 0.95
    assert found.repeated >= 0.8
