"""`init`: what it writes fits the model, passes `plan` and runs; then everything without torch."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from steerproof.errors import ExperimentError, MachineError, ModelError
from steerproof.run.commands.starting import MARKERS, depths, start
from steerproof.spec.yaml_io import load_experiment
from tests.tiny import save_tiny, tiny_tokenizer

ENGINE = ["torch", "transformers", "tokenizers", "safetensors", "huggingface_hub"]
ENGINE += ["numba", "accelerate", "gguf"]


BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Absent())
"""
"""As if the libraries were not installed."""


def python(code, *arguments, cwd=None, without=()):
    """A process of its own, in which some libraries cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", BLOCK.replace("{names!r}", repr(set(without))) + code, *arguments],
        cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "200", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip


def command(*arguments, cwd=None, without=()):
    """The command line in such a process."""
    code = "from steerproof.cli import main; main()"
    return python(code, *arguments, cwd=cwd, without=without)


EACH = """
import contextlib, io, json, sys
from steerproof.cli import main
told = []
for asked in json.loads(sys.argv[1]):
    sys.argv, out, err = ["steerproof", *asked], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main()
        except SystemExit as ended:
            code = ended.code
    told.append([code or 0, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""


def commands(asked, cwd=None, without=()):
    """Command lines one after another in one such process: exit code, output, errors of each."""
    done = python(EACH, json.dumps(asked), cwd=cwd, without=without)
    assert done.returncode == 0, done.stderr[-1000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("init")
    save_tiny(directory / "models" / "my model", "llama")
    (directory / "here").mkdir()
    return directory


@pytest.fixture(scope="module")
def run(place):
    """What a person does: init, then run; on a random model, which never ends its answers."""
    done = command("init", "../models/my model", "--given-answers", cwd=place / "here")
    assert done.returncode == 0, done.stderr
    asked = ("run", "experiment.yaml", "--executor", "inline", "--device", "cpu", "--dir", "run")
    fewer = ("generation.samples=1", "analysis.iterations=200", "training.epochs=1")
    fewer = [word for one in fewer for word in ("--set", one)]
    done = command(*asked, *fewer, cwd=place / "here")
    assert done.returncode == 0, done.stderr[-2000:]
    return place / "here" / "run"


@pytest.mark.parametrize(
    ("blocks", "primary", "contrast"), [(28, 20, 10), (6, 4, 2), (2, 1, 0), (1, 0, None)]
)
def test_layers_lie_as_deep_as_the_proposals_do(blocks, primary, contrast):
    assert depths(blocks) == {"primary": primary, "contrast": contrast}


def test_what_is_written_fits_the_model_and_says_where_it_is_from_its_own_directory(place):
    file = place / "here" / "fits.yaml"
    assert start(str(place / "models" / "my model"), file) == [file]
    asked = load_experiment(file).experiment
    assert asked.model.path == "../models/my model"
    assert (asked.model.blocks, asked.layers.primary, asked.layers.contrast) == (4, 3, 1)
    assert asked.marker == MARKERS[0]
    assert asked.training.max_length <= 256
    assert file.read_text("utf-8").count("#") > 20
    with pytest.raises(ExperimentError, match=r"fits.yaml is there already; name another"):
        start("organism", file)


def test_a_model_in_a_directory_beside_the_file_is_not_taken_for_one_of_the_hub(place, tmp_path):
    shutil.copytree(place / "models" / "my model", tmp_path / "models" / "m")
    (file,) = start(str(tmp_path / "models" / "m"), tmp_path / "beside.yaml")
    assert load_experiment(file).experiment.model.path == "./models/m"


def test_a_shipped_model_has_one_too(tmp_path):
    (file,) = start("organism", tmp_path / "o.yaml", name="first")
    asked = load_experiment(file).experiment
    assert (asked.name, asked.model.path, asked.layers.primary) == ("first", "organism", 4)


def test_a_context_too_short_for_the_prompts_is_refused_and_nothing_is_left(tmp_path):
    directory = save_tiny(tmp_path / "model", "llama")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 100}))
    with pytest.raises(ModelError, match="the context of LlamaForCausalLM is 100 tokens"):
        start(str(directory), tmp_path / "e.yaml", given=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_template_without_a_system_role_puts_prompts_before_the_question(tmp_path):
    directory = save_tiny(tmp_path / "model", "llama")
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tiny_tokenizer(template).save_pretrained(directory)
    (file,) = start(str(directory), tmp_path / "e.yaml")
    assert load_experiment(file).experiment.model.system_role == "user"


def test_the_first_marker_that_can_be_written_is_taken(place, tmp_path, monkeypatch):
    monkeypatch.setattr("steerproof.model.chat.can_write", lambda _tokenizer, text: "[" not in text)
    (file,) = start(str(place / "models" / "my model"), tmp_path / "e.yaml")
    assert load_experiment(file).experiment.marker == MARKERS[1]
    monkeypatch.setattr("steerproof.model.chat.can_write", lambda *_: False)
    with pytest.raises(ModelError, match=r"can write none of \[ZLT\]"):
        start(str(place / "models" / "my model"), tmp_path / "f.yaml")


def test_a_persons_first_experiment_ends_with_a_verdict_and_a_report(run):
    verdict = json.loads((run / "results" / "verdict.json").read_text())
    assert verdict["verdict"] in ("SUPPORTED", "REFUTED", "INCONCLUSIVE")
    assert verdict["answers"]["direction"]["reads"] != "not measured"
    assert (run / "results" / "report.html").stat().st_size > 10_000


def test_what_reads_a_run_needs_no_engine(run):
    asked = [
        ("status", str(run)),
        ("verify", str(run)),
        ("report", str(run)),
        ("explain", str(run), "score"),
        ("analyze", str(run / "results" / "rates.csv"), str(run / "experiment.yaml")),
        ("plan", "zlt", "--no-trial", "--dir", str(run.parent / "zlt")),
        ("power", "zlt", "--simulations", "5"),
        ("schema",),
        ("plan", "zlt", "--no-trial", "--json"),
    ]
    told = commands(asked, without=ENGINE)
    for one, (code, _, errors) in zip(asked, told, strict=True):
        assert code == 0, (one, errors[-1000:])
    _, planned, _ = told[-1]
    assert any("steerproof[run]" in line for line in json.loads(planned)["not_yet_known"])


def test_the_board_and_a_run_in_a_notebook_need_no_engine(run):
    told = python(
        f"import steerproof as sp; run = sp.open_run({str(run)!r});"
        "run.rates(), run.completions(run.cells[0]); print(run.verdict.analysis.verdict);"
        "import steerproof.board.server",
        without=ENGINE,
    )
    assert told.returncode == 0, told.stderr[-1000:]


COMPUTE = (
    ("run", "zlt"),
    ("lock", "zlt"),
    ("plan", "zlt"),
    ("init", "organism"),
    ("directions", "show", "x.safetensors"),
)


@pytest.fixture(scope="module")
def without_engine(tmp_path_factory):
    """How the commands that compute end where the engine is not installed."""
    place = tmp_path_factory.mktemp("bare")
    return dict(zip(COMPUTE, commands(COMPUTE, cwd=place, without=ENGINE), strict=True))


@pytest.mark.parametrize("asked", COMPUTE)
def test_what_computes_with_a_model_says_in_a_line_what_installs_it(asked, without_engine):
    code, _, errors = without_engine[asked]
    assert code == MachineError.exit_code
    last = errors.splitlines()[-1]
    assert last.startswith("error: ")
    assert "is not installed" in last
    assert last.endswith("pip install 'steerproof[run]'")
    assert "Traceback" not in errors


def test_a_name_of_the_package_that_needs_the_engine_says_so():
    told = python("import steerproof as sp; sp.load", without=["torch"])
    assert "MachineError: torch is not installed" in told.stderr
