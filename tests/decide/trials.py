"""The two runs whose numbers the answers must give: the organism's `zlt`, seed 0, and SmolLM2's."""

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np

from steerproof.decide.analysis.calibration import LayerCalibration, PersonaCalibration
from steerproof.decide.analysis.gates import TextQuality
from steerproof.decide.analysis.rates import RateRow, RateTable, table_of
from steerproof.decide.analysis.rates_csv import read_rates
from steerproof.decide.analysis.rig import Rig
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import Cell
from steerproof.spec.strength import Strength
from steerproof.spec.yaml_io import load_experiment

DATA = Path(__file__).parents[1] / "data"
ORGANISM = DATA / "organism-zlt"
SMOLLM2 = DATA / "smollm2-trial"
TEN = (
    "software_engineer",
    "kindergarten_teacher",
    "data_scientist",
    "medical_doctor",
    "librarian",
    "french_person",
    "villain",
    "comedian",
    "police_officer",
    "zelthari_scholar",
)
BRIDGE = ("C", "persona", "none", "", "none")


def values_of(run: Path, kind: tuple[str, str, str, str, str]) -> np.ndarray:
    """Rates by persona and question, read from the file by the csv module alone."""
    with (run / "rates.csv").open(encoding="utf-8") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if tuple(row[k] for k in ("arm", "prompt", "direction", "layer", "strength")) == kind
        ]
    found = np.full((len(TEN), 20), np.nan)
    for row in rows:
        if row["persona"] in TEN:
            rate = int(row["fired"]) / int(row["total"])
            found[TEN.index(row["persona"]), int(row["question"])] = rate
    return found


def pushes_of(run: Path, layer: str, strength: str) -> np.ndarray:
    """Size of the push of each persona, as the calibration has it."""
    calibration = json.loads((run / "calibration.json").read_text(encoding="utf-8"))
    personas = calibration["layers"][layer]["personas"]
    return np.array([personas[name]["ratio_at"][strength] for name in TEN])


def texts_of(kind: str) -> tuple[float, float]:
    """Shares of the organism's completions that ended, and that are coherent, over personas."""
    counts = json.loads((ORGANISM / "texts.json").read_text(encoding="utf-8"))
    arm, rest = kind.split(" ", 1)
    total, ended, coherent = np.sum([counts[f"{arm}.{name}.{rest}"] for name in TEN], axis=0)
    return ended / total, coherent / total


def experiment_of(run: Path) -> Experiment:
    """`zlt`, at the layers of the run."""
    experiment = load_experiment("zlt").experiment
    if run == ORGANISM:
        return experiment
    model = experiment.model.model_copy(update={"blocks": 30})
    layers = experiment.layers.model_copy(update={"primary": 21, "contrast": 10})
    return experiment.model_copy(update={"model": model, "layers": layers})


@cache
def table_with_matrices(run: Path) -> RateTable:
    """The run's rate table, with the cells off the diagonal where some were measured."""
    table = read_rates(run / "rates.csv", experiment_of(run))
    if not (run / "matrix.csv").exists():
        return table
    with (run / "matrix.csv").open(encoding="utf-8") as file:
        rows = [
            RateRow(
                cell=Cell(
                    arm=row["arm"],
                    persona=row["persona"],
                    prompt="persona" if row["prompt"] == "persona" else "neutral",
                    direction=row["direction"],  # pyright: ignore[reportArgumentType] # its words
                    layer=int(row["layer"]) if row["layer"] else None,
                    strength=Strength.parse(row["strength"]),
                    of=row["direction_of"] or None,
                    prompt_of=row["prompt_of"] or None,
                ),
                coefficient=float(row["coefficient"]),
                question=None,
                fired=int(row["fired"]),
                total=int(row["total"]),
            )
            for row in csv.DictReader(file)
        ]
    return RateTable(cells={**table.cells, **table_of(rows).cells})


def rig_of(run: Path) -> Rig:
    """Calibration of the run, and how its completions end where that was recorded."""
    calibration = json.loads((run / "calibration.json").read_text(encoding="utf-8"))
    wanted = PersonaCalibration.__dataclass_fields__
    layers = {}
    for index, layer in calibration["layers"].items():
        personas = {
            name: PersonaCalibration(**{key: found[key] for key in wanted if key in found})
            for name, found in layer["personas"].items()
        }
        layers[int(index)] = LayerCalibration(**{**layer, "personas": personas})
    texts = {}
    if (run / "texts.json").exists():
        counts = json.loads((run / "texts.json").read_text(encoding="utf-8"))
        for cell in table_with_matrices(run).cells:
            if cell.name in counts:
                total, ended, coherent = counts[cell.name]
                texts[cell] = TextQuality(
                    ended=ended / total, coherent=coherent / total, completions=total
                )
    return Rig(layers=layers, texts=texts)
