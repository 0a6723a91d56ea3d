import gc
import json

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config
from typer.testing import CliRunner

from steerproof.cli import app
from steerproof.errors import SteerproofError
from steerproof_bench.memory import peak_memory
from steerproof_bench.models import SIZES, bench_base, bench_experiment, random_base
from steerproof_bench.options import Options, bench_generation

SMALL = ["--cells", "2", "--adapters", "2", "--rows", "5", "--tokens", "4", "--repeats", "1"]


def test_the_command_compares_generation_on_the_organism():
    done = CliRunner().invoke(app, ["bench", "generation", *SMALL, "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["work"].startswith("2 cells of 2 adapters, 10 rows of at most 4 new tokens")
    assert len(found["peers"]) == 2
    assert list(found)[-1] == "ratio"


def test_the_command_prints_the_ratio_last():
    done = CliRunner().invoke(app, ["bench", "generation", *SMALL, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().splitlines()[-1].startswith("ratio: ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"random_config": "qwen2.5-70b"},
            "no size 'qwen2.5-70b'; there is: smollm2-135m, qwen2.5-7b, qwen2.5-32b, llama-70b",
        ),
        ({"random_config": "qwen2.5-7b", "model": "organism"}, "not both"),
        ({"model": "/nowhere"}, "no such model directory"),
        ({"repeats": -1}, "--repeats must be at least 0, not -1"),
        ({"peer_cells": 0}, "--peer-cells must be at least 1, not 0"),
        ({"tokens": 1}, "--tokens must be at least 2, not 1"),
    ],
)
def test_an_option_that_cannot_be_is_an_error(options, says):
    with pytest.raises(SteerproofError, match=says):
        bench_generation(Options(**options))


def test_only_a_random_model_can_be_told_how_long_its_answers_are():
    with pytest.raises(SteerproofError, match="only for --random-config"):
        bench_base(None, None, "cpu", 300)


def test_an_unknown_benchmark_is_an_error():
    done = CliRunner().invoke(app, ["bench", "speed"])
    assert done.exit_code == 2
    assert "No such command 'speed'" in done.output


def test_the_help_names_every_benchmark():
    done = CliRunner().invoke(app, ["bench", "--help"])
    assert done.exit_code == 0
    assert all(name in done.output for name in ("generation", "training", "statistics"))


def test_outside_a_checkout_the_command_says_how_to_get_the_benchmarks(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "steerproof.cli.before.__file__", str(tmp_path / "a" / "b" / "c" / "before.py")
    )
    done = CliRunner().invoke(app, ["bench", "statistics"])
    assert isinstance(done.exception, SteerproofError)
    assert done.exception.exit_code == 2
    assert "get the source tree" in str(done.exception)


def test_a_random_model_of_a_size_has_that_size_and_the_same_weights_each_time():
    assert Qwen2Config(**SIZES["qwen2.5-7b"]).num_hidden_layers == 28
    assert bench_experiment(None, "qwen2.5-7b").model.blocks == 28
    assert bench_experiment(None, "smollm2-135m").model.blocks == 30
    assert LlamaConfig(**SIZES["smollm2-135m"]).num_hidden_layers == 30
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = Qwen2Config(**{**SIZES["qwen2.5-7b"], **small, "vocab_size": 2048})
    first, second = (random_base(config, dtype="bfloat16", device="cpu") for _ in range(2))
    assert len(first.blocks) == 2
    assert first.dtype == torch.bfloat16
    for (name, a), (_, b) in zip(
        first.model.named_parameters(), second.model.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name
    assert first.model(torch.tensor([[1, 2]])).logits.isfinite().all()


def test_a_random_model_ends_its_answers_after_about_as_many_tokens_as_asked():
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = Qwen2Config(**{**SIZES["qwen2.5-7b"], **small, "vocab_size": 30_000})
    base = random_base(config, dtype="float32", device="cpu", mean_tokens=300)
    shares = base.model(torch.arange(40)[None]).logits[0].softmax(dim=1)
    # The sum over the vocabulary is of a heavy tail: half to twice as long is as asked.
    assert 150 < 1 / float(shares[:, base.chat.end_of_turn].mean()) < 600
    entropy = -float((shares * shares.log()).sum(dim=1).mean())
    assert 2.0 < entropy < 6.0


def test_the_organism_is_the_usual_model():
    assert bench_base(None, None, "cpu").hidden_size == 128


def test_the_peak_of_memory_is_seen_while_it_lasts():
    gc.collect()  # What other tests left must not be freed in between.
    with peak_memory(torch.device("cpu")) as before:
        pass
    with peak_memory(torch.device("cpu")) as during:
        held = torch.ones(200 * 2**20, dtype=torch.uint8)
        assert int(held[0]) == 1
    assert during.bytes - before.bytes > 150 * 2**20


def test_any_model_is_given_an_experiment_at_the_same_share_of_its_depth():
    assert bench_experiment("organism", None, 8).name == "zlt"
    fitted = bench_experiment("somewhere/a-model", None, 60)
    own = bench_experiment("smollm2", None, 30)
    assert fitted.name == own.name == "zlt-smollm2"
    assert fitted.layers.primary == 2 * own.layers.primary
    assert fitted.layers.contrast == 2 * own.layers.contrast
