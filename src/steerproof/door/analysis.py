"""The verdict of a rate table, without a model."""

from pathlib import Path

from steerproof.decide.analysis.answers import conclude
from steerproof.decide.analysis.rates_csv import read_rates
from steerproof.door.shown import ShownAnalysis, shown
from steerproof.spec.experiment import Experiment
from steerproof.spec.yaml_io import load_experiment


def analyze(
    rates: str | Path, experiment: str | Path | Experiment, *, arm: str | None = None
) -> ShownAnalysis:
    """The registered analysis of a rate table and its three answers; no model is needed.

    Args:
        rates: A `rates.csv`.
        experiment: Its file, a shipped name (`zlt`), or the experiment itself.
        arm: The arm that the verdict is about; None takes the experiment's.

    Raises:
        ExperimentError: The table or the experiment cannot be read, or there is no such arm.
    """
    asked = experiment
    if not isinstance(asked, Experiment):
        asked = load_experiment(asked).experiment
    return shown(*conclude(read_rates(Path(rates), asked), asked, arm=arm))
