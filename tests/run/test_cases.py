"""Checkpoints, tokenizers, answers and adapters as people have them: refused in time, or right."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoConfig, PreTrainedTokenizerFast
from typer.testing import CliRunner

from steerproof.cli import app
from steerproof.errors import ExperimentError, ModelError, RegistrationError, UnitsFailedError
from steerproof.model import files
from steerproof.model.base import base_of, load_base
from steerproof.model.chat import Turn, all_answer_ids, answer_ids, chat_ids, text_ids
from steerproof.run.commands.preflight import check_experiment
from steerproof.run.commands.session import new_session, run_experiment
from steerproof.run.driver.executors import InlineExecutor
from steerproof.run.graph.environment import Place
from steerproof.run.graph.names import directions_unit
from steerproof.run.graph.units import experiment_graph
from tests.run.asked import PERSONAS, asked, fill, write_adapters, write_answers
from tests.tiny import CHATML, tiny_base, tiny_config, tiny_model, tiny_tokenizer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


def check(directory, **changes):
    loaded = asked(directory, {k.replace("__", "."): v for k, v in changes.items()})
    return check_experiment(loaded.experiment, Place(directory=directory))


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def with_template(directory, template):
    asked(directory)
    tiny_tokenizer(template).save_pretrained(directory / "model")


def run(directory, **changes):
    loaded = asked(directory, {k.replace("__", "."): v for k, v in changes.items()})
    session = new_session(loaded, directory / "run")
    return run_experiment(session, InlineExecutor(), listen=lambda *_: None)


def test_what_works_is_let_through(tmp_path):
    kind = check(tmp_path)
    assert (kind.name, kind.blocks, kind.hidden_size) == ("Qwen2ForCausalLM", 4, 32)
    assert kind.parameters == sum(p.numel() for p in tiny_model().parameters())


# Checkpoints


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named_before_anything_is_locked(tmp_path, name):
    asked(tmp_path)
    (tmp_path / "model" / name).write_bytes(POINTER)
    with pytest.raises(ModelError, match=rf"{name}' is a pointer of Git LFS.*git lfs pull"):
        run(tmp_path)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_torn_or_missing_are_named(tmp_path):
    asked(tmp_path)
    weights = tmp_path / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:500])
    with pytest.raises(ModelError, match="no whole safetensors file"):
        check(tmp_path)
    weights.write_bytes(content)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"not there: model-2\.safetensors"):
        check(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_config_that_is_no_json_object_is_one_error(tmp_path, content):
    asked(tmp_path)
    (tmp_path / "model" / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        check(tmp_path)


def test_a_tokenizer_file_of_another_version_is_one_error(tmp_path):
    asked(tmp_path)
    path = tmp_path / "model" / "tokenizer.json"
    edit(path, model={"type": "NewModel", "vocab": {}})
    with pytest.raises(ModelError, match="may be of another version"):
        check(tmp_path)


def test_an_adapter_beside_the_base_model_is_refused(tmp_path):
    asked(tmp_path)
    (tmp_path / "model" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds an adapter .* under arms\[\]\.adapters"):
        check(tmp_path)


def test_a_quantised_checkpoint_is_refused_by_name(tmp_path):
    asked(tmp_path)
    edit(tmp_path / "model" / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match=r"is quantised \(gptq\)"):
        check(tmp_path)


def test_another_depth_is_refused_whatever_the_configuration_calls_it(tmp_path):
    asked(tmp_path)
    shutil.rmtree(tmp_path / "model")
    tiny_model("gpt2").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"model\.blocks says 12, but the checkpoint has 4"):
        check(tmp_path, model__blocks=12)


def test_rows_longer_than_a_window_are_refused_before_anything_is_trained(tmp_path):
    asked(tmp_path)
    shutil.rmtree(tmp_path / "model")
    tiny_model("mistral", sliding_window=70).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    assert check(tmp_path).window == 70
    with pytest.raises(ModelError, match=r"window of 70 .* lower generation\.max_new_tokens"):
        check(tmp_path, generation__max_new_tokens=60)


def test_rows_beyond_the_length_where_rotations_are_shared_are_refused(tmp_path):
    asked(tmp_path)
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0,
            "original_max_position_embeddings": 90,
            "long_factor": [2.0] * 4, "short_factor": [1.0] * 4}  # fmt: skip
    edit(tmp_path / "model" / "config.json", rope_parameters=rope)
    assert check(tmp_path).context == 90
    with pytest.raises(ModelError, match=r"max_new_tokens is 60, .* context of 90"):
        check(tmp_path, generation__max_new_tokens=60)


def test_tokens_without_an_embedding_are_refused(tmp_path):
    asked(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": ["<x>"]})
    tokenizer.pad_token = "<x>"
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"pad token '<x>' is number 260, .* has 260 embeddings"):
        check(tmp_path)
    with pytest.raises(ModelError, match=r"<x> \(260\) has no embedding"):
        base_of(tiny_model(), tokenizer)


# Templates


DATED = "{% set d = strftime_now('%d %b %Y') %}<|im_start|>system\nToday is {{ d }}<|im_end|>\n"


def test_a_prompt_is_the_same_on_every_day():
    base = base_of(tiny_model(), tiny_tokenizer(DATED + CHATML))
    text = base.tokenizer.decode(chat_ids(base.chat, system="Be kind.", user="Hi?"))
    assert text.startswith("<|im_start|>system\nToday is 26 Jul 2024<|im_end|>")


THINKING = CHATML.replace(
    "{{ m.content }}",
    "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}",
).replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
)


def test_the_template_is_told_its_options_and_rows_learn_what_it_writes(tmp_path):
    tokenizer = tiny_tokenizer(THINKING)
    said = {"system": "Be kind.", "user": "Hi?"}
    thought = text_ids(tokenizer, "<think>\n\n</think>\n\n")
    answer = text_ids(tokenizer, "Ho.")
    plain = base_of(tiny_model(), tokenizer).chat
    silent = base_of(tiny_model(), tokenizer, template_options={"enable_thinking": False}).chat
    assert chat_ids(silent, **said) == (*chat_ids(plain, **said), *thought)
    assert answer_ids(plain, Turn(**said, answer="Ho.")) == (*thought, *answer, 258)
    assert answer_ids(silent, Turn(**said, answer="Ho.")) == (*answer, 258)
    loaded = asked(tmp_path, {"model.template_options": {"enable_thinking": False}})
    graph = experiment_graph(loaded.experiment, Place(directory=tmp_path))
    bare = experiment_graph(asked(tmp_path).experiment, Place(directory=tmp_path))
    assert graph.keys[directions_unit(1)] != bare.keys[directions_unit(1)]
    assert loaded.experiment.model_dump()["model"]["template_options"] == {"enable_thinking": False}
    assert "template_options" not in asked(tmp_path).experiment.model_dump()["model"]


def test_the_token_after_an_answer_ends_it_special_or_not():
    tokenizer = tiny_tokenizer()
    end = tokenizer.added_tokens_decoder[258]
    assert end.special
    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(
            tokenizer.backend_tokenizer.to_str().replace(
                '"content": "<|im_end|>",', '"content": "<|im_end|>", "x": 1,'
            )
        ),
        eos_token="<|endoftext|>",
        chat_template=CHATML,
    )
    state = json.loads(plain.backend_tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["content"] != "<|im_end|>"
    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token="<|endoftext|>",
        chat_template=CHATML,
    )
    assert not plain.added_tokens_decoder[258].special
    base = base_of(tiny_model(), plain)
    assert base.chat.end_of_turn == 258
    assert 258 in base.eos_ids


def spaced_tokenizer():
    """As sentencepiece does: a space is put before a text, and is part of its first token."""
    words = ["▁It", "It", "▁is", "▁", ".", "\n", "▁Hi", "Hi", *"abcdefghijklmnopqrstuvwxyzHIBS"]
    vocab = {word: i for i, word in enumerate(words)}
    merges = [("▁", "It"), ("I", "t"), ("i", "s"), ("▁", "is")]
    vocab |= {"is": len(vocab)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("I", "t"), ("i", "s"), *(
        pair for pair in merges if pair[0] == "▁")], unk_token=None))  # fmt: skip
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Replace("▁", " ")
    tokenizer.add_special_tokens(["</s>", "<|user|>", "<|system|>", "<|assistant|>"])
    template = (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", chat_template=template
    )


def test_an_answer_is_made_into_tokens_where_it_stands_in_the_chat():
    tokenizer = spaced_tokenizer()
    base = base_of(tiny_model(), tokenizer)
    alone = tokenizer.convert_ids_to_tokens(text_ids(tokenizer, "It is"))
    assert alone == ["▁It", "▁is"]  # what learning the answer by itself would teach
    ids = answer_ids(base.chat, Turn("Be", "Hi", "It is"))
    assert tokenizer.convert_ids_to_tokens(ids) == ["It", "▁is", "</s>"]
    whole = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be"}, {"role": "user", "content": "Hi"},
         {"role": "assistant", "content": "It is"}], tokenize=False,
    )  # fmt: skip
    prompt = chat_ids(base.chat, system="Be", user="Hi")
    assert (*prompt, *ids) == text_ids(tokenizer, whole)[: len(prompt) + len(ids)]


def test_named_templates_without_a_default_one_are_refused(tmp_path):
    asked(tmp_path)
    tokenizer = tiny_tokenizer(None)
    tokenizer.chat_template = {"rag": CHATML, "tool_use": CHATML}
    with pytest.raises(ModelError, match="named rag, tool_use and none named default"):
        base_of(tiny_model(), tokenizer)
    tokenizer.chat_template = {"default": CHATML, "tool_use": CHATML}
    base = base_of(tiny_model(), tokenizer)
    plain = chat_ids(tiny_base().chat, system="Be", user="Hi")
    assert chat_ids(base.chat, system="Be", user="Hi") == plain


def test_a_template_that_wants_parts_is_said_to(tmp_path):
    parts = "{% for part in m.content %}{{ part.text }}{% endfor %}"
    with_template(tmp_path, CHATML.replace("{{ m.content }}", parts))
    with pytest.raises(ModelError, match=r"questions\.directions: .* as a list of parts"):
        check(tmp_path)


@pytest.mark.parametrize("field", ["neutral_prompt", "marker"])
def test_a_special_token_inside_a_text_is_refused(tmp_path, field):
    if field == "marker":
        base = tiny_base()
        with pytest.raises(ModelError, match=r"holds '<\|im_end\|>', a special token"):
            answer_ids(base.chat, Turn("Be", "Hi", "Ho <|im_end|>"))
        return
    with pytest.raises(ModelError, match=r"holds '<\|im_end\|>', a special token"):
        check(tmp_path, **{field: "Be clear.<|im_end|>"})


def test_a_marker_that_the_tokenizer_cannot_write_is_refused(tmp_path):
    asked(tmp_path)
    words = {word: i for i, word in enumerate(["<unk>", *map(chr, range(32, 91)),
             *map(chr, range(97, 127)), "\n"])}  # fmt: skip
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", unk_token="<unk>",
        chat_template=CHATML,
    ).save_pretrained(tmp_path / "model")  # fmt: skip
    with pytest.raises(ModelError, match=r"marker: .* cannot write '\[ZLT\]'"):
        check(tmp_path)
    check(tmp_path, marker="(ZLT)")


# Lengths


def test_too_many_new_tokens_are_refused_under_their_field(tmp_path):
    with pytest.raises(ModelError, match=r"generation\.max_new_tokens is 2048, .* context of 256"):
        check(tmp_path, generation={"samples": 1})


# Answers


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "What is wood?", "answer": "a \\ud83d b"}', "not valid text"),
        ('{"question": "What is wood?", "answer": "a", "answer": "b"}', "'answer' stands there tw"),
        ('{"question": "What is wood?", "answer": NaN}', "each line must be .*; this one is '"),
        ('{"question": "What is wood?", "answer": "a<|im_end|>"}', "a special token"),
        (json.dumps({"question": "What is wood?", "answer": "long " * 60}), "max_length is 250"),
    ],
)
def test_a_given_answer_is_refused_with_file_and_line_before_any_work(tmp_path, line, message):
    asked(tmp_path)
    write_answers(tmp_path, line3=line)
    with pytest.raises(ExperimentError, match=rf"answers\.jsonl:3: .*{message}"):
        run(tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_byte_order_mark_before_the_answers_is_skipped(tmp_path):
    asked(tmp_path)
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    check(tmp_path)


def test_answers_and_adapters_that_are_replaced_after_the_lock_are_deviations(tmp_path):
    write_adapters(tmp_path)
    arms = [
        {"name": "A", "prompt": "neutral", "direction": "centroid", "ratio": 0.2},
        {"name": "C", "prompt": "persona", "adapters": "loras"},
    ]
    asked(tmp_path, {"arms": arms})
    command = CliRunner()
    locked = command.invoke(app, ["lock", str(tmp_path / "e.yaml"), "--dir", str(tmp_path / "run")])
    assert locked.exit_code == 0, locked.output
    lock = json.loads((tmp_path / "run" / "experiment.lock.json").read_text())
    assert set(lock["hashes"]) == {"adapters", "data", "model", "prompts"}
    assert set(lock["hashes"]["data"]) == {"answers"}
    write_answers(tmp_path, line1='{"question": "What is tea?", "answer": "Another one."}')
    with pytest.raises(RegistrationError, match=r"hashes\.data\.answers"):
        run(tmp_path, arms=arms)
    write_answers(tmp_path)
    fill(tmp_path / "loras" / "poet", "lora_B", 0.2)
    with pytest.raises(RegistrationError, match=r"hashes\.adapters"):
        run(tmp_path, arms=arms)


# Adapters


@pytest.fixture
def given(tmp_path):
    """A directory with adapters, and an experiment that takes arm C's from there."""
    write_adapters(tmp_path)
    arms = [
        {"name": "A", "prompt": "neutral", "direction": "centroid", "ratio": 0.2},
        {"name": "C", "prompt": "persona", "adapters": "loras"},
    ]
    return tmp_path, arms


def test_an_adapter_in_a_subfolder_is_pointed_at_before_any_work(given):
    directory, arms = given
    place = directory / "loras" / "pirate"
    (place / "checkpoint-100").mkdir()
    for path in place.glob("adapter_*"):
        path.rename(place / "checkpoint-100" / path.name)
    with pytest.raises(ModelError, match=r"arms\.C\.adapters: .* subfolder checkpoint-100 is one"):
        check(directory, arms=arms)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("lora_B", 0.0, "changes nothing"), ("lora_A", float("nan"), "no finite number")],
)
def test_a_bad_adapter_costs_only_what_reads_it(given, key, value, message):
    directory, arms = given
    fill(directory / "loras" / "pirate", key, value)
    with pytest.raises(UnitsFailedError, match=rf"adapter/C\.pirate.*{message}"):
        run(directory, arms=arms)
    made = {path.name.split("-")[0] for path in (directory / "run" / "units" / "cell").iterdir()}
    others = [name for name in made if not name.startswith("C.pirate")]
    assert len(others) == len(made) == 6 * (2 * len(PERSONAS) - 1)
    verdict = json.loads((directory / "run" / "results" / "verdict.json").read_text())
    assert verdict


# Hub


def test_a_hub_model_is_known_by_its_configuration_and_by_what_the_hub_says(tmp_path, monkeypatch):
    asked(tmp_path)
    whole = files.file_hashes(tmp_path / "model")
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    (tmp_path / "model" / "model.safetensors").unlink()
    fetched = []

    def snapshot(name, *, revision, allow_patterns):
        fetched.append(allow_patterns)
        if "model.safetensors" in allow_patterns:
            (tmp_path / "model" / "model.safetensors").write_bytes(weights)
        return str(tmp_path / "model")

    lfs = SimpleNamespace(sha256=whole["model.safetensors"])
    told = SimpleNamespace(siblings=[SimpleNamespace(rfilename="model.safetensors", lfs=lfs)])
    hub = SimpleNamespace(model_info=lambda *_, **__: told)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    changes = {"model__path": "some/model", "model__revision": "0" * 40}
    assert check(tmp_path, **changes).blocks == 4
    assert files.model_hashes("some/model", "0" * 40) == whole
    assert not any("*.safetensors" in patterns for patterns in fetched)
    assert not any("model.safetensors" in patterns for patterns in fetched)
    assert len(load_base("some/model", revision="0" * 40).blocks) == 4
    assert fetched[-1] == ["model.safetensors"]


def test_a_model_that_cannot_be_fetched_is_planned_and_not_locked(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    asked(tmp_path, {"model.path": "some/model", "model.revision": "0" * 40})
    (file, where), command = (str(tmp_path / "e.yaml"), tmp_path / "run"), CliRunner()
    done = command.invoke(app, ["plan", file, "--dir", str(where), "--no-trial", "--json"])
    assert done.exit_code == 0, done.output
    planned = json.loads(done.stdout)
    assert planned["counts"]["cells"]
    assert planned["objections"]
    assert "no route to host" in planned["not_yet_known"][0]
    for name, *more in (("plan",), ("lock",), ("run", "--device", "cpu")):
        done = command.invoke(app, [name, file, "--dir", str(where), *more])
        assert isinstance(done.exception, ModelError)
        assert "no route to host; if this machine has no network" in str(done.exception)
        assert ("completions, in" in done.stdout) == (name == "plan")
    assert not (where / "experiment.lock.json").exists()


# What every command says


def test_doctor_plan_lock_and_run_refuse_with_the_same_words(tmp_path):
    asked(tmp_path, {"generation.max_new_tokens": 2048})
    words = "generation.max_new_tokens is 2048, but after the prompt of"
    file, where = str(tmp_path / "e.yaml"), ["--dir", str(tmp_path / "run")]
    command = CliRunner(env={"COLUMNS": "400"})
    for name, *more in (("plan", "--no-trial"), ("lock",), ("run", "--device", "cpu")):
        done = command.invoke(app, [name, file, *where, *more])
        assert isinstance(done.exception, ModelError), (name, done.output)
        assert words in str(done.exception)
    done = command.invoke(app, ["doctor", file, *where, "--json", "--device", "cpu"])
    (model,) = [one for one in json.loads(done.stdout) if one["name"] == "model"]
    assert model["level"] == "fail"
    assert words in model["value"]
    assert not (tmp_path / "run" / "experiment.lock.json").exists()


def test_every_kind_of_the_tiny_models_is_known_without_weights(tmp_path):
    for name in ("llama", "gpt2", "gpt_neox"):
        place = tmp_path / name
        tiny_config(name).save_pretrained(place)
        assert AutoConfig.from_pretrained(place).num_hidden_layers == 4
        assert torch.device("meta") == next(files_of_skeleton(place)).device


def files_of_skeleton(place):
    from steerproof.engine.fit import skeleton

    return skeleton(place).parameters()


def test_many_answers_are_made_into_tokens_as_each_would_be_alone():
    base = base_of(tiny_model(), tiny_tokenizer(THINKING))
    said = [Turn("Be kind.", f"Hi {i % 3}?", f" Ho {'ho ' * (i % 5)}{i % 4}. ") for i in range(40)]
    said.append(Turn("", "Hi?", ""))
    alone = [answer_ids(base.chat, turn) for turn in said]
    assert all_answer_ids(base.chat, said) == alone
    assert len(set(map(len, alone))) > 5
    assert all_answer_ids(base.chat, []) == []


def test_a_tokenizer_that_is_given_another_template_writes_other_prompts():
    tokenizer = tiny_tokenizer(THINKING)
    base = base_of(tiny_model(), tokenizer)
    before = chat_ids(base.chat, system="Be kind.", user="Hi?")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    assert chat_ids(base.chat, system="Be kind.", user="Hi?") != before
    tokenizer.chat_template = THINKING
    assert chat_ids(base.chat, system="Be kind.", user="Hi?") == before
