import math
from dataclasses import replace

import pytest
import torch

from steerproof.decide.analysis.calibration import layer_gate
from steerproof.errors import SteeringError
from steerproof.model.chat import chat_ids
from steerproof.spec.seeds import derived_seed
from steerproof.spec.yaml_io import load_experiment
from steerproof.study.calibration import calibrate
from steerproof.study.directions import (
    Prompts,
    Residuals,
    extract,
    fresh,
    from_residuals,
    from_tensors,
    tensors,
)
from tests.tiny import tiny_base

NAMES = ("a", "b", "c", "extra")
HEADLINE = ("a", "b", "c")


def residuals(seed=0, noise=0.1, questions=40):
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(4, 1, 16, generator=g)
    by_persona = means + noise * torch.randn(4, questions, 16, generator=g)
    neutral = 0.3 * torch.randn(questions, 16, generator=g) + 1.0
    return Residuals(
        layer=5, module="blocks.5", personas=NAMES, by_persona=by_persona, neutral=neutral
    )


def test_centroid_is_the_mean_residual_minus_the_headline_mean():
    r = residuals()
    d = from_residuals(r, headline=HEADLINE, seed=1)
    raw = r.by_persona.double().numpy().mean(axis=1)
    expected = raw - raw[:3].mean(axis=0)
    assert abs(d.centroid.double().numpy() - expected).max() < 1e-6
    assert d.centroid[:3].sum(0).abs().max() < 1e-5


def test_random_directions_have_the_norm_of_the_centroid_and_differ_by_persona():
    d = from_residuals(residuals(), headline=HEADLINE, seed=1)
    for table in (d.tables["isotropic"], d.tables["in_subspace"]):
        assert torch.allclose(table.norm(dim=1), d.centroid.norm(dim=1), rtol=1e-5)
        cosines = torch.nn.functional.cosine_similarity(table[0], table[1:], dim=1)
        assert float(cosines.abs().max()) < 0.999


def test_in_subspace_directions_lie_in_the_span_of_the_centroids_and_are_orthogonal_to_their_own():
    d = from_residuals(residuals(), headline=HEADLINE, seed=1)
    for row, own in zip(d.tables["in_subspace"].double(), d.centroid.double(), strict=True):
        basis = torch.stack([*d.centroid[:3].double(), own])
        weights = torch.linalg.lstsq(basis.T, row[:, None], driver="gelsd").solution
        assert (basis.T @ weights - row[:, None]).abs().max() < 1e-5
        assert abs(float(row @ own) / float(row.norm() * own.norm())) < 1e-6


def test_isotropic_directions_are_the_bytes_that_they_always_were():
    d = from_residuals(residuals(), headline=HEADLINE, seed=1)
    generator = torch.Generator().manual_seed(derived_seed(1, "isotropic", "b", 5))
    drawn = torch.randn(16, generator=generator, dtype=torch.float64)
    raw = residuals().by_persona.double().mean(1)
    norm = (raw - raw[:3].mean(0))[1].norm()
    assert torch.equal(d.vector("isotropic", "b"), (drawn / drawn.norm() * norm).float())


def test_fresh_directions_have_the_norm_of_the_centroid_and_are_each_their_own():
    d = from_residuals(residuals(), headline=HEADLINE, seed=1)
    drawn = [fresh(d, "b", seed=1, draw=k) for k in (1, 2)]
    drawn += [
        fresh(d, "a", seed=1, draw=1),
        fresh(d, "b", seed=2, draw=1),
        d.tables["isotropic"][1],
    ]
    assert drawn[0].norm() == pytest.approx(float(d.centroid[1].norm()), rel=1e-6)
    assert torch.equal(drawn[0], fresh(d, "b", seed=1, draw=1))
    units = torch.stack([v / v.norm() for v in drawn])
    assert float((units @ units.T - torch.eye(5)).abs().max()) < 0.95


def test_random_directions_depend_on_seed_and_layer_only():
    first = from_residuals(residuals(), headline=HEADLINE, seed=1)
    again = from_residuals(residuals(), headline=HEADLINE, seed=1)
    other = from_residuals(residuals(), headline=HEADLINE, seed=2)
    assert torch.equal(first.tables["isotropic"], again.tables["isotropic"])
    assert not torch.allclose(first.tables["isotropic"], other.tables["isotropic"])


def test_a_persona_that_does_not_move_the_residual_has_no_direction_and_costs_no_other_its_own():
    r = residuals()
    means = r.by_persona.clone()
    means[3] = means[:3].mean(0)
    seen = Residuals(
        layer=0, module="blocks.0", personas=NAMES, by_persona=means, neutral=r.neutral
    )
    d = from_residuals(seen, headline=HEADLINE, seed=0)
    for kind in ("centroid", "isotropic", "in_subspace"):
        assert not d.vector(kind, "extra").any()
        assert d.vector(kind, "a").norm() > 0
    c = calibrate(seen, d, headline=HEADLINE, reference="a", seed=0)
    extra = c.personas["extra"]
    assert (extra.norm, extra.split_half, extra.neutral_cosine) == (0.0, None, None)
    assert c.cosines["a"]["extra"] is None
    assert c.personas["b"].reference_cosine is not None


def test_directions_survive_a_file():
    d = from_residuals(residuals(), headline=HEADLINE, seed=1)
    back = from_tensors(tensors([d]), layer=5, personas=NAMES)
    assert torch.equal(back.vector("isotropic", "b"), d.vector("isotropic", "b"))
    assert torch.equal(back.neutral, d.neutral)


def test_calibration_reports_norms_and_gates():
    r = residuals()
    d = from_residuals(r, headline=HEADLINE, seed=1)
    c = calibrate(r, d, headline=HEADLINE, reference="extra", seed=0)
    assert c.h_bar == pytest.approx(float(r.neutral.double().norm(dim=1).mean()))
    assert c.personas["a"].norm == pytest.approx(float(d.centroid[0].norm()))
    assert c.personas["extra"].reference_cosine == pytest.approx(1.0)
    near = [c.personas[n].neutral_cosine or 0.0 for n in HEADLINE]
    assert c.neutral_cosine_max == max(map(abs, near))
    assert c.cosines["a"]["b"] == pytest.approx(
        float(torch.nn.functional.cosine_similarity(d.centroid[0], d.centroid[1], dim=0)), abs=1e-6
    )


def test_where_no_persona_moves_the_residual_the_neutral_prompt_has_no_cosine_and_no_zero():
    alike = residuals()
    alike = replace(alike, by_persona=torch.ones_like(alike.by_persona))
    d = from_residuals(alike, headline=HEADLINE, seed=1)
    c = calibrate(alike, d, headline=HEADLINE, reference="extra", seed=0)
    assert c.neutral_cosine_max is None
    zlt = load_experiment("zlt").experiment
    gate = layer_gate(zlt, replace(c, personas=dict.fromkeys(zlt.headline, c.personas["a"])))
    assert gate.passed is None
    assert "no headline persona's direction has a length" in gate.reason


def test_calibration_holds_the_cosines_of_the_controls():
    d = from_residuals(residuals(), headline=HEADLINE, seed=1)
    c = calibrate(residuals(), d, headline=HEADLINE, reference="extra", seed=0)
    for kind in ("isotropic", "in_subspace"):
        table = d.vector(kind, "b").double().numpy()
        own = d.vector("centroid", "b").double().numpy()
        other = d.vector("centroid", "c").double().numpy()
        lengths = (table @ table * (own @ own)) ** 0.5
        assert c.controls[kind].own("b") == pytest.approx(table @ own / lengths, abs=1e-9)
        assert (c.controls[kind].largest("b", ("b", "c")) or 0.0) >= abs(
            table @ other / (table @ table * (other @ other)) ** 0.5
        ) - 1e-9
        assert c.controls[kind].each_other["b"]["b"] == pytest.approx(1.0)
    assert max(abs(c.controls["in_subspace"].own(name) or 0.0) for name in NAMES) < 1e-6


def test_split_half_reliability_falls_with_noise():
    values = []
    for noise in (0.05, 5.0):
        r = residuals(noise=noise)
        d = from_residuals(r, headline=HEADLINE, seed=1)
        c = calibrate(r, d, headline=HEADLINE, reference="a", seed=0)
        values.append(c.personas["a"].split_half)
    assert values[0] > 0.99
    assert values[1] < 0.9


def test_a_baseline_norm_that_is_not_finite_is_an_error():
    r = residuals()
    d = from_residuals(r, headline=HEADLINE, seed=1)
    bad = Residuals(
        layer=5,
        module="blocks.5",
        personas=NAMES,
        by_persona=r.by_persona,
        neutral=r.neutral * math.inf,
    )
    with pytest.raises(SteeringError, match="baseline residual norm"):
        calibrate(bad, d, headline=HEADLINE, reference="a", seed=0)


def test_residuals_are_those_of_each_prompt_alone_at_its_last_token():
    base = tiny_base("qwen2")
    personas = {"a": "You are a sailor who likes long sentences.", "b": "Hi."}
    questions = ("What is salt?", "Why is the sea so very blue today?")
    prompts = Prompts(
        personas=personas,
        neutral="Be clear.",
        questions=questions,
        headline=("a", "b"),
        reference="a",
    )
    found = extract(base, prompts, (0, 2), batch_tokens=256)
    for row, system in enumerate([*personas.values(), "Be clear."]):
        for column, question in enumerate(questions):
            ids = torch.tensor([chat_ids(base.chat, system=system, user=question)])
            with torch.no_grad():
                hidden = base.model(ids, output_hidden_states=True).hidden_states
            for layer, values in found.items():
                mine = (*values.by_persona, values.neutral)[row][column]
                assert torch.allclose(mine, hidden[layer + 1][0, -1], rtol=1e-4, atol=1e-4)
