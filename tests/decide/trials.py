"""The two runs whose numbers the answers must give: the organism's `zlt`, seed 0, and SmolLM2's."""

import csv
import json
from pathlib import Path

import numpy as np

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
