"""What `run` refuses, `doctor` and `plan` refuse: in the same words, and nothing is registered."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file, save_file
from transformers import BertConfig
from typer.testing import CliRunner

from steerproof.cli import app
from steerproof.errors import SteerproofError
from steerproof.run.commands import session
from tests.run.asked import asked
from tests.tiny import save_tiny, tiny_config

WEIGHTS = "model/model.safetensors"
Spoil = Callable[[Path], object]


class Began(Exception):
    """A run went past everything that could be refused."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sound")
    save_tiny(directory / "model", "llama")
    asked(directory)
    return directory


@pytest.fixture
def place(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sound experiment, which no run goes through with."""

    def begin(*_: object, **__: object) -> None:
        raise Began

    monkeypatch.setattr(session, "execute", begin)
    shutil.copytree(sound, tmp_path / "place")
    return tmp_path / "place"


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the three commands say; None where they have nothing against it."""

    doctor: str | None
    plan: str | None
    run: str | None


def ask(place: Path) -> Said:
    common = (str(place / "e.yaml"), "--dir", str(place / "run"), "--device", "cpu")
    looked = CliRunner().invoke(app, ["doctor", *common, "--json"])
    if looked.stdout:
        (model,) = (one for one in json.loads(looked.stdout) if one["name"] == "model")
        doctor = model["value"] if model["level"] == "fail" else None
    else:
        doctor = refusal(looked.exception)
    plan = CliRunner().invoke(app, ["plan", *common, "--no-trial"]).exception
    run = CliRunner().invoke(app, ["run", *common, "--executor", "inline"]).exception
    return Said(doctor=doctor, plan=refusal(plan), run=refusal(run))


def refusal(error: BaseException | None) -> str | None:
    """The words of a planned error; another one is a failure of the test."""
    if error is None or isinstance(error, Began):
        return None
    if not isinstance(error, SteerproofError):
        raise AssertionError(f"a traceback: {error!r}") from error
    assert 1 <= error.exit_code <= 7
    return str(error)


def config(**fields: Any) -> Spoil:
    """A configuration with other values; `...` takes a key away."""

    def spoil(place: Path) -> None:
        path = place / "model" / "config.json"
        values = json.loads(path.read_bytes()) | fields
        path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))

    return spoil


ODD: Mapping[str, Any] = {
    "zero": 0, "minus": -1, "null": None, "huge": 10**12, "text": "x", "list": [1], "half": 1.5,
    "nan": float("nan"), "true": True, "object": {}, "gone": ...,
}  # fmt: skip
KEYS = ("num_attention_heads", "num_hidden_layers", "vocab_size", "head_dim", "dtype")
FINE = {
    *("head_dim null", "head_dim gone", "dtype null", "dtype gone"),
}
QUICK = ("zero", "null", "text", "nan")
EVERY = {f"{key} {name}": (key, value) for key in KEYS for name, value in ODD.items()}
CONFIGS = {name: odd for name, odd in EVERY.items() if name.endswith(QUICK)}
MORE = {
    f"{key} {name}": (key, value)
    for key in (
        *("hidden_size", "intermediate_size", "num_key_value_heads", "max_position_embeddings"),
        *("hidden_act", "rms_norm_eps", "pad_token_id", "eos_token_id", "rope_parameters"),
        *("model_type", "architectures", "tie_word_embeddings", "attention_bias", "torch_dtype"),
    )
    for name, value in ODD.items()
}


def agreed(place: Path) -> str | None:
    """What all three say."""
    said = ask(place)
    assert said.doctor == said.plan == said.run
    assert (said.run is None) == (place / "run" / "experiment.lock.json").exists()
    return said.run


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in CONFIGS else pytest.mark.nightly) for name in EVERY],
)
def test_an_odd_configuration_is_refused_by_all_three_with_its_key(place: Path, name: str) -> None:
    key, value = EVERY[name]
    config(**{key: value})(place)
    said = agreed(place)
    if name in FINE:
        assert said is None
    elif name.endswith((" gone", " huge")):  # there is a usual value, or a size that does not fit
        assert said is not None
    else:
        assert said is not None
        assert (key in said) or "NaN is no number of JSON" in said


@pytest.mark.nightly
@pytest.mark.parametrize("name", MORE)
def test_any_odd_value_is_judged_alike_by_all_three(place: Path, name: str) -> None:
    key, value = MORE[name]
    config(**{key: value})(place)
    agreed(place)


def emptied(place: Path) -> None:
    shutil.rmtree(place / "model")
    (place / "model").mkdir()


def cut(name: str, keep: int) -> Spoil:
    return lambda place: (place / name).write_bytes((place / name).read_bytes()[:keep])


def put(name: str, content: str) -> Spoil:
    return lambda place: (place / name).write_text(content)


def instead(name: str, make: Callable[[Path], object]) -> Spoil:
    """Something that is no file in a file's place."""
    return lambda place: ((place / name).unlink(), make(place / name))


def rewritten(change: Callable[[str, Any], Iterator[tuple[str, Any]]]) -> Spoil:
    """Other weights."""

    def spoil(place: Path) -> None:
        whole = load_file(place / WEIGHTS)
        made = dict(pair for name, value in whole.items() for pair in change(name, value))
        save_file(made, place / WEIGHTS, metadata={"format": "pt"})

    return spoil


def of_bert(place: Path) -> None:
    BertConfig(
        vocab_size=260, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=48, is_decoder=True, max_position_embeddings=256,
    ).save_pretrained(place / "model")  # fmt: skip


FILES: Mapping[str, tuple[Spoil, str]] = {
    "an empty directory": (emptied, "found an empty directory"),
    "no directory": (lambda place: shutil.rmtree(place / "model"), "no such model directory"),
    "no configuration": (lambda place: (place / "model/config.json").unlink(), "need config.json"),
    "no weights": (lambda place: (place / WEIGHTS).unlink(), "need config.json and *.safetensors"),
    "no tokenizer": (
        lambda place: (place / "model/tokenizer.json").unlink(), "no usable tokenizer",
    ),
    "an empty configuration": (cut("model/config.json", 0), "cannot read"),
    "half a configuration": (cut("model/config.json", 60), "cannot read"),
    "a list for a configuration": (put("model/config.json", "[]"), "holds no JSON object"),
    "a directory for a configuration": (instead("model/config.json", Path.mkdir), "is no file"),
    "a pipe for a configuration": (instead("model/config.json", os.mkfifo), "is no file"),
    "empty weights": (cut(WEIGHTS, 0), "is no whole safetensors file"),
    "a header alone": (cut(WEIGHTS, 60), "is no whole safetensors file"),
    "weights that were cut": (
        lambda place: cut(WEIGHTS, (place / WEIGHTS).stat().st_size - 100)(place),
        "is no whole safetensors file",
    ),
    "weights of another architecture": (of_bert, "they are of another model"),
    "weights of another family": (
        lambda place: tiny_config("gpt_neox").save_pretrained(place / "model"),
        "they are of another model",
    ),
    "a block short": (
        rewritten(lambda n, v: iter([] if "layers.3" in n else [(n, v)])), "lack model.layers.3.",
    ),
    "whole numbers": (rewritten(lambda n, v: iter([(n, v.long())])), "is of type I64"),
    "a weight that is no number": (
        rewritten(lambda n, v: iter([(n, v / (v != v[0]) if n == "model.norm.weight" else v)])),
        "model.norm.weight in ",
    ),
    "half a tokenizer": (cut("model/tokenizer.json", 60), "no usable tokenizer"),
    "an index to nowhere": (
        put("model/model.safetensors.index.json", '{"weight_map": {"a": "b.safetensors"}}'),
        "names weights that are not there",
    ),
    "a directory for answers": (instead("answers.jsonl", Path.mkdir), "dataset.answers: no file"),
    "a pipe for answers": (instead("answers.jsonl", os.mkfifo), "dataset.answers: no file"),
    "no answers": (lambda place: (place / "answers.jsonl").unlink(), "dataset.answers: no file"),
    "empty answers": (put("answers.jsonl", ""), "4 training questions have no answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_odd_files_are_refused_by_all_three_in_the_same_words(place: Path, name: str) -> None:
    spoil, words = FILES[name]
    spoil(place)
    said = agreed(place)
    assert said is not None
    assert words in said


def test_what_is_sound_is_let_through_by_all_three(place: Path) -> None:
    assert agreed(place) is None


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_too_little_memory_or_disk_is_refused_before_the_lock_in_the_words_of_doctor(
    place: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = type("Few", (), {"available": 1 << 20, "free": 1 << 10, "used": 0, "total": 1 << 20})()
    if what == "memory":
        monkeypatch.setattr(psutil, "virtual_memory", lambda: few)
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: few)
    common = (str(place / "e.yaml"), "--dir", str(place / "run"), "--device", "cpu")
    looked = CliRunner().invoke(app, ["doctor", *common, "--json"])
    (check,) = (one for one in json.loads(looked.stdout) if one["name"] == what)
    assert check["level"] == "fail"
    words = f"{what}: {check['value']}; {check['remedy']}"
    planned = CliRunner().invoke(app, ["plan", *common, "--no-trial", "--json"])
    assert json.loads(planned.stdout)["unfit"] == [words]
    run = CliRunner().invoke(app, ["run", *common, "--executor", "inline"]).exception
    assert refusal(run) == words
    assert not (place / "run" / "experiment.lock.json").exists()
    assert not (place / "run" / "lock").exists()
