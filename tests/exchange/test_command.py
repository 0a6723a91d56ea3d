"""`steerproof directions`, as a user types it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from steerproof.cli import app
from steerproof.errors import SteerproofError
from steerproof.exchange.files import read_directions
from steerproof.exchange.shape import shape_of
from steerproof.model.base import load_base
from steerproof.spec.strength import Strength
from steerproof.spec.yaml_io import load_experiment
from steerproof.study.directions import extract, from_residuals, prompts_of
from tests.exchange import reference


def run(*arguments):
    done = CliRunner().invoke(app, ["directions", *map(str, arguments)])
    if isinstance(done.exception, SteerproofError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def evil(tmp_path):
    path = tmp_path / "evil_response_avg_diff.pt"
    table = torch.randn(7, 128, generator=torch.Generator().manual_seed(1))
    torch.save(table, path)  # noqa: TID251 - as the field writes it
    return path


def test_a_persona_vector_goes_in_and_a_control_vector_comes_out(tmp_path, evil):
    own, out = tmp_path / "evil.safetensors", tmp_path / "evil.gguf"
    told = json.loads(run("import", evil, "--model", "organism", "--out", own, "--json"))
    assert [one["layer"] for one in told] == [0, 1, 2, 3, 4, 5]
    assert told[0]["position"] == "mean of the response"
    assert {"h_bar", "questions", "centred_on"} <= set(told[0]["unknown"])
    run("export", own, "--to", "gguf", "--layer", 3, "--out", out)
    (back,) = read_directions(out, shape_of("organism"))
    assert torch.equal(back.vector, read_directions(own)[3].vector)


def test_what_is_not_known_is_shown_as_unknown(evil):
    shown = " ".join(run("show", evil, "--model", "organism", "--layer", 3).split())
    assert "evil" in shown
    assert "questions: unknown" in shown
    assert "scaled: False" in shown


def test_extracted_directions_are_those_of_a_run_and_push_by_a_ratio(tmp_path):
    out = tmp_path / "zlt.safetensors"
    run("extract", "zlt", "--layer", 3, "--out", out, "--device", "cpu")
    found = {one.name: one for one in read_directions(out)}
    experiment = load_experiment("zlt").experiment
    base = load_base("organism")
    residuals = extract(base, prompts_of(experiment), [3])[3]
    expected = from_residuals(residuals, headline=experiment.headline, seed=0)
    villain = found["villain"]
    assert torch.equal(villain.vector, expected.vector("centroid", "villain"))
    assert set(villain.provenance.unknown()) == {"coefficient", "revision", "source"}
    h_bar = float(residuals.neutral.double().norm(dim=-1).mean())
    push = villain.push(Strength(kind="ratio", number=0.2))
    assert float(push.vector.norm()) == pytest.approx(0.2 * h_bar, rel=1e-6)
    moved = reference.pushed(base, push)
    assert not torch.allclose(moved, reference.plain(base), atol=1e-2)


def test_a_ratio_is_one_coefficient_only_for_one_direction(tmp_path, evil):
    own = tmp_path / "own.safetensors"
    run("extract", "zlt", "--layer", 3, "--out", own, "--device", "cpu")
    out = tmp_path / "v.json"
    with pytest.raises(SteerproofError, match="one name"):
        run("export", own, "--to", "vllm-lens", "--out", out)
    with pytest.raises(SteerproofError, match="another coefficient"):
        run("export", own, "--to", "vllm-lens", "--strength", "ratio=+0.2", "--out", out)
    run(
        "export",
        own,
        "--to",
        "vllm-lens",
        "--name",
        "villain",
        "--strength",
        "ratio=+0.2",
        "--out",
        out,
    )
    direction = next(one for one in read_directions(own) if one.name == "villain")
    told = json.loads(out.read_text())
    norm = 0.2 * direction.provenance.h_bar
    assert told["scale"] * direction.norm == pytest.approx(norm)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "{evil}"), "--model"),
        (("show", "{evil}", "--model", "organism", "--rows", "x"), "block and hidden_states"),
        (("export", "{evil}", "--model", "organism", "--to", "onnx", "--out", "x"), "easysteer"),
        (("export", "{evil}", "--model", "organism", "--strength", "2", "--out", "x"), "c="),
        (("show", "{evil}", "--model", "organism", "--layer", "9"), "blocks 0, 1, 2"),
    ],
)
def test_a_wrong_argument_says_what_is_allowed(evil, arguments, says):
    with pytest.raises(SteerproofError, match=says):
        run(*(str(one).format(evil=evil) for one in arguments))
