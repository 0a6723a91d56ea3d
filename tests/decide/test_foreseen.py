"""Gates before they can be measured, and the power of a run with its own rates."""

import pytest

from steerproof.decide.analysis import ranking
from steerproof.decide.analysis.rates import RateTable
from steerproof.decide.review.evidence import Evidence
from steerproof.decide.review.foreseen import foreseen_gates, rates_so_far
from steerproof.decide.review.objections import objections, simulated_power
from steerproof.spec.experiment import Experiment
from tests.decide.trials import ORGANISM, SMOLLM2, experiment_of, rig_of, table_with_matrices


def known(run) -> tuple[Experiment, Evidence]:
    table = table_with_matrices(run)
    plain = RateTable(cells={c: n for c, n in table.cells.items() if n.questions})
    return experiment_of(run), Evidence(calibration=rig_of(run).layers, table=plain)


def test_from_the_directions_alone_dose_and_cliff_are_foreseen():
    experiment, whole = known(ORGANISM)
    gates = {
        gate.name: gate
        for gate in foreseen_gates(experiment, Evidence(calibration=whole.calibration))
    }
    assert gates["equal_dose"].passed is False
    assert gates["coherent"].passed is None
    assert "foreseen to fail" in gates["coherent"].finding
    assert gates["installed"].passed is None
    assert gates["attainable"].passed is None
    assert gates["neutral"].passed is False


def test_of_nothing_nothing_is_foreseen():
    experiment = experiment_of(ORGANISM)
    assert {gate.passed for gate in foreseen_gates(experiment, Evidence())} == {None}


@pytest.mark.parametrize(
    ("run", "codes"),
    [
        (ORGANISM, {"unattainable", "unequal_dose"}),
        (SMOLLM2, {"not_installed", "unattainable", "dose_ranked"}),
    ],
    ids=["organism", "smollm2"],
)
def test_what_a_finished_run_is_objected_to_for(run, codes):
    experiment, evidence = known(run)
    found = {o.code: o for o in objections(experiment, evidence=evidence, with_power=False)}
    gates = {"not_installed", "unattainable", "dose_ranked", "unequal_dose", "flat_bridge"}
    assert set(found) & gates == codes
    assert all(found[code].severity == "serious" for code in codes - {"unequal_dose"})


def test_what_is_objected_to_asks_for_no_inversion(monkeypatch):
    """Gates alone decide it; the noise of a ranking takes a second to invert."""
    monkeypatch.setattr(ranking, "invert", None)
    experiment, evidence = known(SMOLLM2)
    assert objections(experiment, evidence=evidence, with_power=False)
    assert rates_so_far(experiment, evidence) is not None


def test_a_run_without_a_ranking_is_simulated_without_one():
    experiment, evidence = known(ORGANISM)
    model = rates_so_far(experiment, evidence)
    assert model is not None
    assert model.bridge.spread == pytest.approx(0.0, abs=1e-9)
    assert model.bridge.median == pytest.approx(0.98, abs=0.01)
    power = simulated_power(experiment, evidence)
    assert max(point.verdicts["SUPPORTED"] for point in power.points) < 0.2


def test_a_run_with_less_spread_has_less_power_than_the_published_rates():
    experiment, evidence = known(SMOLLM2)
    model = rates_so_far(experiment, evidence)
    assert model is not None
    assert 0.1 < model.bridge.spread < 0.3
    own, usual = simulated_power(experiment, evidence), simulated_power(experiment)
    at = [found.points[2].verdicts["SUPPORTED"] for found in (own, usual)]
    assert at[0] < at[1] - 0.1
