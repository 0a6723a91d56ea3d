"""The study behind the answers: `python -m tools.answers_study docs [--simulations N]`.

It simulates rigs whose truth is known and records how often gates and inversion are right
(`docs/data/answers.json`), how often the kills fire without an effect, and size and power of the
matrix test; then it rewrites the marked tables of `docs/statistics.md`. A few minutes on one core.
"""

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from steerproof.decide.analysis.matrix import selectivity
from steerproof.decide.analysis.resampling import stream
from steerproof.decide.review.power import Trial
from steerproof.decide.review.simulation import Margin, RateModel
from tools.gated import (
    GatedPoint,
    GatedTrial,
    KillRates,
    gated_point,
    kill_rates,
)

RIGS: Mapping[str, tuple[RateModel, tuple[float, ...]]] = {
    "published-like (sd 0.6, 0.9)": (RateModel(), (1.0, 0.8, 0.6, 0.0)),
    "good rig (sd 1.2)": (
        RateModel(bridge=Margin(median=0.42, spread=1.2), steered=Margin(median=0.30, spread=1.2)),
        (1.0, 0.6, 0.0),
    ),
    "flat, as SmolLM2's": (
        RateModel(bridge=Margin(median=0.52, spread=0.2), steered=Margin(median=0.86, spread=0.7)),
        (1.0, 0.6, 0.0),
    ),
    "at the ceiling, as the organism's": (
        RateModel(
            bridge=Margin(median=0.985, spread=0.45), steered=Margin(median=0.22, spread=1.5)
        ),
        (1.0, 0.6, 0.0),
    ),
    "constant bridge": (RateModel(bridge=Margin(median=0.42, spread=0.0)), (1.0, 0.0)),
}
"""Simulated rigs and the true correlations among the personas of each experiment."""
RATES = (0.3, 0.6, 0.9, 0.98)
"""Median prompted rates at which the kills are tried without an effect."""
EFFECTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Logits by which an own direction exceeds the others."""
INTERACTIONS = (0.5, 1.0, 2.0)
"""Standard deviations of the adapters' own likings, in logits."""


def main() -> None:
    """Run the study and write its data and tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("docs", type=Path)
    parser.add_argument("--simulations", type=int, default=600)
    given = parser.parse_args()
    points = {
        rig: [gated_point(_trial(model, given.simulations), rho) for rho in rhos]
        for rig, (model, rhos) in RIGS.items()
    }
    fired = {rate: _kills(rate, 0.0, 4 * given.simulations) for rate in RATES}
    raised = {gain: _kills(0.6, gain, given.simulations) for gain in (-0.5, 0.5)}
    matrix = {
        spread: {effect: matrix_power(effect, spread, given.simulations) for effect in EFFECTS}
        for spread in INTERACTIONS
    }
    found = {
        "simulations": given.simulations,
        "rigs": {rig: [asdict(point) for point in values] for rig, values in points.items()},
        "kills_without_effect": {f"{rate:g}": asdict(value) for rate, value in fired.items()},
        "kills_by_gain": {f"{gain:+g}": asdict(value) for gain, value in raised.items()},
        "matrix": {f"{s:g}": {f"{e:g}": v for e, v in row.items()} for s, row in matrix.items()},
    }
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    (given.docs / "data" / "answers.json").write_text(text, encoding="utf-8")
    page = given.docs / "statistics.md"
    tables = {
        "gated": gated_table(points),
        "kills": kill_table(fired),
        "matrix-power": power_table(matrix),
    }
    page.write_text(with_tables(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


def _trial(model: RateModel, simulations: int) -> GatedTrial:
    return GatedTrial(trial=Trial(model=model, simulations=simulations, iterations=1000, covered=0))


def _kills(rate: float, gain: float, simulations: int) -> KillRates:
    model = RateModel(prompted=Margin(median=rate, spread=0.6), prompt_gain=gain)
    return kill_rates(Trial(model=model), simulations)


def matrix_power(effect: float, interaction: float, simulations: int) -> dict[str, float]:
    """Share of simulated matrices with p <= 0.05, and how often the interval holds the mean S.

    Ten adapters, ten directions, two trained negatives each, twenty questions once: base rate
    logit -1.5, standard deviations 0.9 (adapter), 0.6 (direction), 0.8 (question), 0.6 (cell and
    question).
    """
    rng = stream(0, "matrix-power", f"{effect:g}", f"{interaction:g}")
    people = np.arange(10)
    negatives = np.zeros((10, 10), dtype=bool)
    for i in people:
        negatives[i, rng.choice(people[people != i], 2, replace=False)] = True
    logits = -1.5 + 0.9 * rng.standard_normal((10, 1, simulations))
    logits = logits + 0.6 * rng.standard_normal((1, 10, simulations))
    logits = logits + interaction * rng.standard_normal((10, 10, simulations))
    logits[people, people] += effect
    noise = 0.8 * rng.standard_normal((1, 1, 20, simulations))
    noise = noise + 0.6 * rng.standard_normal((10, 10, 20, simulations))
    rates = rng.binomial(1, expit(logits[:, :, None] + noise)).mean(axis=2)
    found = selectivity(rates, negatives, rng, permutations=1999)
    assert found is not None  # ten adapters have orders enough
    mean = float(found.s.mean.mean())
    return {
        "power": float(np.mean(found.p <= 0.05)),
        "s": mean,
        "covers": float(np.mean((found.s.low <= mean) & (mean <= found.s.high))),
    }


def gated_table(points: Mapping[str, list[GatedPoint]]) -> str:
    """Verdicts of both rules by rig and true correlation."""
    head = ["rig", "true rho", "registered: SUPPORTED / REFUTED / INCONCLUSIVE"]
    head += ["with gates: SUPPORTED / REFUTED / INCONCLUSIVE / CANNOT ANSWER", "inversion covers"]
    rows = [head, ["---", "---:", "---", "---", "---:"]]
    for rig, values in points.items():
        for i, point in enumerate(values):
            old = " / ".join(f"{share:.2f}" for share in point.registered.values())
            new = " / ".join(f"{share:.2f}" for share in point.gated.values())
            cover = f"{point.inversion_covers_all:.2f}"
            rows.append([rig if i == 0 else "", f"{point.rho:g}", old, new, cover])
    return _table(rows)


def kill_table(fired: Mapping[float, KillRates]) -> str:
    """False firing of both versions without any effect."""
    rows = [["rate when prompted", "sign_inverted", "version 2"], ["---:"] * 3]
    rows += [
        [f"{rate:g}", f"{found.sign_inverted:.2f}", f"{found.sign_inverted_v2:.3f}"]
        for rate, found in fired.items()
    ]
    return _table(rows)


def power_table(matrix: Mapping[float, Mapping[float, Mapping[str, float]]]) -> str:
    """Power of the matrix test by effect and interaction."""
    effects = list(next(iter(matrix.values())))
    rows: list[list[str]] = [["interaction sd", *(f"d = {e:g}" for e in effects)]]
    rows.append(["---:"] * len(rows[0]))
    for spread, row in matrix.items():
        cells = [f"{value['power']:.2f} (S {value['s']:.2f})" for value in row.values()]
        rows.append([f"{spread:g}", *cells])
    return _table(rows)


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """The page with its marked parts replaced."""
    for name, table in tables.items():
        part = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        page = part.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", page)
    return page


def _table(rows: list[list[Any]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
