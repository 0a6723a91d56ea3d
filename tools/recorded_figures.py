"""Draws the matrix of a recorded run anew from its committed rates and cosines.

python tools/recorded_figures.py docs/results/zlt docs/results/zlt/experiment.yaml
python tools/recorded_figures.py docs/results/zlt-smollm2 zlt-smollm2
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from steerproof.decide.analysis.answers import conclude
from steerproof.decide.analysis.rates_csv import read_rates
from steerproof.decide.report.figures.answered import matrix_values
from steerproof.decide.report.figures.matrix import matrix
from steerproof.spec.yaml_io import load_experiment


def redraw(results: Path, experiment: str) -> str:
    """The matrix of the answer on the direction as SVG.

    Args:
        results: A folder with `rates.csv` and `calibration.json`.
        experiment: Its file, or a shipped name.
    """
    asked = load_experiment(experiment).experiment
    _, answers = conclude(read_rates(results / "rates.csv", asked), asked)
    told = json.loads((results / "calibration.json").read_text("utf-8"))["layers"]
    layers = {
        int(layer): SimpleNamespace(cosines=one["cosines"], controls={})
        for layer, one in told.items()
    }
    tested = answers.direction.tested
    if tested is None:
        raise SystemExit(f"{results} has no matrix")
    inputs = cast(Any, SimpleNamespace(experiment=asked, calibration=layers))
    return matrix(matrix_values(inputs, tested)).svg


def main(results: Path, experiment: str) -> None:
    """Write `figures/matrix.svg` of a recorded run."""
    place = results / "figures" / "matrix.svg"
    place.write_text(redraw(results, experiment), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
