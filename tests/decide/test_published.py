"""Numbers that others published, recomputed from their data."""

import csv
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from steerproof.decide.statistics import spearman

DATA = Path(__file__).parents[1] / "data" / "issue246_cosine_vs_firing.csv"


@pytest.mark.parametrize(
    ("layer", "published"),
    [
        (20, -0.7394549559641986),
        (15, -0.8098792374845986),
        (10, -0.7112852433560386),
        (25, -0.6760731025958387),
    ],
)
def test_cosine_to_the_assistant_against_firing_over_twelve_personas(layer, published):
    with DATA.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rate = np.array([int(row["fired"]) / int(row["total"]) for row in rows])
    cosine = np.array([float(row[f"cosine_to_assistant_l{layer}"]) for row in rows])
    assert len(rows) == 12
    assert spearman(cosine, rate) == pytest.approx(published, abs=1e-12)
    assert scipy.stats.spearmanr(cosine, rate).statistic == pytest.approx(published, abs=1e-12)
