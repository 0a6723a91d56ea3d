"""What the page says of margins and confounds in recorded runs, recomputed from their files."""

import json
import re
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from steerproof.decide.analysis.calibration import LayerCalibration, PersonaCalibration
from steerproof.decide.analysis.case import Case, case_of
from steerproof.decide.analysis.confounds import LENGTH, SIZE, confounds
from steerproof.decide.analysis.graded import graded_rankings
from steerproof.decide.analysis.rates import of_seed
from steerproof.decide.analysis.rates_csv import read_rates
from steerproof.decide.analysis.rig import Rig
from steerproof.decide.analysis.slots import margins
from steerproof.run.artefacts.slots import rows_of
from steerproof.spec.grid import cells
from steerproof.spec.strength import Strength
from steerproof.spec.yaml_io import load_experiment

DOCS = Path(__file__).parents[2] / "docs"
C2, RATIO = Strength.parse("c=+2"), Strength.parse("ratio=+0.2")


def recorded(name: str) -> tuple[Case, Rig]:
    """The first training seed of a recorded run, from its committed files."""
    place = DOCS / "results" / name
    said = place / "experiment.yaml"
    experiment = load_experiment(str(said) if said.exists() else name).experiment
    table = of_seed(read_rates(place / "rates.csv", experiment), experiment, experiment.seed)
    rows = rows_of(parquet.read_table(place / "slots.parquet"))
    count = len(experiment.questions.evaluation)
    read = {text: margins(rows, cells(experiment), count, text) for text in ("common", "own")}
    layers = {}
    for index, layer in json.loads((place / "calibration.json").read_bytes())["layers"].items():
        known = PersonaCalibration.__dataclass_fields__
        personas = {
            persona: PersonaCalibration(**{key: found[key] for key in known if key in found})
            for persona, found in layer["personas"].items()
        }
        plain = {key: value for key, value in layer.items() if key not in ("controls", "personas")}
        layers[int(index)] = LayerCalibration(**plain, personas=personas)
    rig = Rig(layers=layers, margins=read["common"], own_margins=read["own"])
    return case_of(table, experiment), rig.of_seed(experiment, experiment.seed)


@pytest.fixture(scope="module")
def smollm2() -> tuple[Case, Rig]:
    return recorded("zlt-smollm2")


def shown(run: str) -> list[list[float]]:
    """The page's rows of a run, their numbers."""
    page = (DOCS / "statistics.md").read_text("utf-8")
    block = page.partition("<!-- graded:begin -->")[2].partition("<!-- graded:end -->")[0]
    rows, name = [], ""
    for line in block.splitlines():
        parts = [part.strip() for part in line.split("|")[1:-1]]
        if len(parts) == 9 and not parts[1].startswith(("compared", "--")):
            name = parts[0] or name
            if name == run:
                rows.append([float(n) for n in re.findall(r"[-+]?\d\.\d+", " ".join(parts[3:]))])
    return rows


@pytest.mark.parametrize(
    ("name", "run", "compared"),
    [
        ("zlt-smollm2", "SmolLM2", [("own", C2), ("own", RATIO), ("common", RATIO)]),
        ("zlt", "organism", [("own", RATIO), ("common", RATIO)]),
    ],
)
def test_the_ranking_in_margins_is_what_the_page_says(name, run, compared, request):
    case, rig = request.getfixturevalue("smollm2") if run == "SmolLM2" else recorded(name)
    found = graded_rankings(case, rig, "A", (C2, RATIO))
    judged = [one for one in found if one.reason is None]
    assert [(one.text, one.strength) for one in judged] == [(t, str(s)) for t, s in compared]
    assert all("cut by length" in one.reason for one in found if one.reason is not None)
    numbers = [
        [
            one.alpha_bridge,
            one.alpha_steered,
            one.attainable,
            one.rho,
            *one.interval,
            one.p_threshold,
        ]
        for one in judged
    ]
    for row, told in zip(numbers, shown(run), strict=True):
        assert told == pytest.approx(row, abs=0.0051)


def test_the_real_models_confounds_are_what_the_page_says(smollm2):
    case, rig = smollm2
    by = {(one.names, one.strength): one for one in confounds(case, rig, "A", (C2, RATIO))}
    page = " ".join((DOCS / "statistics.md").read_text("utf-8").split())
    norm, length = by[(SIZE,), "c=+2"], by[(LENGTH,), "c=+2"]
    mild = by[(SIZE,), "ratio=+0.2"]
    for said in (
        f"steered rates follow the norm ({norm.with_steered:.2f})",
        f"the bridge does too ({norm.with_bridge:.2f})",
        f"the ranking's {norm.rho:.2f} becomes {norm.partial:.2f} with the norm",
        f"and {length.partial:+.2f} with the prompt's length held fixed",
        f"do not follow the norm ({mild.with_steered:.2f}), and {mild.rho:.2f} becomes "
        f"{mild.partial:.2f}",
        f"reach {norm.needed:.2f} in size",
        f"{by[(LENGTH, SIZE), 'c=+2'].needed:.2f} with two",
    ):
        assert said in page, said
