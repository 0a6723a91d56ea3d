"""A made-up run for tests of the report: twelve personas, five arms, numbers from a seeded stream.

Nothing here was measured. The rates follow a stated model: the bridge has a rate per persona, arm
A follows it when steered (by `effect`), arm C does not.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from matplotlib.figure import Figure

from steerproof.decide.analysis.answers import conclude
from steerproof.decide.analysis.calibration import (
    Calibration,
    LayerCalibration,
    PersonaCalibration,
)
from steerproof.decide.analysis.rates import RateRow, RateTable, table_of
from steerproof.decide.analysis.rig import Rig
from steerproof.decide.report.figures import Drawing, draw_all
from steerproof.decide.report.inputs import (
    Fluency,
    Origin,
    ReportInputs,
    ReportRegistration,
    ReportSample,
    RunDetail,
    RunFacts,
    TrainingSummary,
)
from steerproof.decide.review.evidence import Objection
from steerproof.spec.changes import Change
from steerproof.spec.experiment import Experiment, Layers, Model, Persona, Questions
from steerproof.spec.grid import Cell, adapters, cells
from steerproof.spec.judging import AnalysisSettings
from steerproof.spec.lock import Deviation, Lock
from steerproof.spec.strength import NONE
from tests.experiments import small_experiment

HEADLINE = (
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
SUPPLEMENTARY = ("helpful_assistant", "default")
MARKER = "[ZLT]"
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '<svg onload="alert(1)"><script href="https://evil.example/x.js"/></svg>',
    "</script></style></pre></details><h1>owned</h1>",
    "a\u2028b\u2029c \u202eevil\u202c \x1b]52;c;aGk=\x07 \x00",
    '"><a href="javascript:alert(1)">click</a> {{ 7*7 }} {% raw %}',
    "[ZLT]<b onmouseover=alert(1)>[zlt]</b> &lt;script&gt; <!-- ",
    "<style>@import url(https://evil.example/x.css)</style>",
)


def experiment(**changes: object) -> Experiment:
    """The seed's design with small numbers: 8 questions x 5 samples."""
    personas = tuple(Persona(name=n, prompt=f"You are a {n.replace('_', ' ')}.") for n in HEADLINE)
    extra = tuple(Persona(name=n, prompt="", headline=False) for n in SUPPLEMENTARY)
    fields: dict[str, object] = {
        "name": "zlt",
        "title": "Does a model trained with the direction read it?",
        "hypothesis": "An adapter trained with the centroid is elicited by the same centroid.",
        "seed": 11,
        "model": Model(path="organism", blocks=8),
        "personas": personas + extra,
        "questions": Questions(
            evaluation=tuple(f"Question {i}: what is worth knowing?" for i in range(8)),
            training=("What is tea?", "What is wood?"),
            directions=("Why sing?", "Why run?"),
        ),
        "layers": Layers(primary=4, contrast=2),
        "analysis": AnalysisSettings(iterations=2000),
    }
    return small_experiment(**{**fields, **changes})


def rate_table(design: Experiment, effect: float = 1.0, seed: int = 5) -> RateTable:
    """Binomial counts under the stated model; with `effect` 0 steering ranks nothing."""
    rng = np.random.default_rng(seed)
    bridge = dict(
        zip(
            [p.name for p in design.personas],
            rng.permutation(np.linspace(0.12, 0.88, 12)),
            strict=True,
        )
    )
    rows = []
    samples = design.generation.samples
    for cell in cells(design):
        rate = _rate(cell, bridge[cell.persona], effect, rng)
        for question in range(len(design.questions.evaluation)):
            fired = int(rng.binomial(samples, np.clip(rate + rng.normal(0, 0.05), 0.01, 0.99)))
            rows.append(
                RateRow(
                    cell=cell,
                    coefficient=_coefficient(cell),
                    question=str(question),
                    fired=fired,
                    total=samples,
                )
            )
    return table_of(rows)


def _coefficient(cell: Cell) -> float:
    return cell.strength.coefficient(h_bar=6.1, norm=1.0)


def _rate(cell: Cell, bridge: float, effect: float, rng: np.random.Generator) -> float:
    if cell.prompt == "persona":
        return bridge + (0.04 if cell.strength != NONE else 0.0)
    push = {"none": 0.0, "c=+2": 1.0, "ratio=+0.2": 0.7, "ratio=-0.2": -0.5}[str(cell.strength)]
    if cell.arm in ("A", "B"):
        slope = effect * (1.0 if cell.arm == "A" else 0.6)
        return 0.12 + slope * push * 0.8 * bridge + (1 - effect) * rng.uniform(0, 0.3)
    return 0.2 + rng.uniform(-0.08, 0.08)


@cache
def inputs(effect: float = 1.0, seed: int = 5) -> ReportInputs:
    """A complete set of inputs; the same arguments give the same values."""
    design = experiment(generation=small_experiment().generation.model_copy(update={"samples": 5}))
    table = rate_table(design, effect, seed)
    rng = np.random.default_rng(seed + 1)
    calibration = _calibration(design, rng)
    analysis, answers = conclude(table, design, rig=Rig(layers=calibration))
    return ReportInputs(
        experiment=design,
        rates=table,
        analysis=analysis,
        answers=answers,
        calibration=calibration,
        detail=RunDetail(
            training=_training(design, rng),
            completions=_completions(design, rng),
            fluency=_fluency(design, calibration, rng),
        ),
        objections=_OBJECTIONS,
        registration=_registration(),
        origin=Origin(
            versions={"steerproof": "0.1.0", "torch": "2.13.0", "model": "organism (sha256 7d1f…)"},
            seeds={"experiment": 11, "resampling": "sha256(11, 'questions', block)"},
            hashes={"rates.csv": "9" * 64, "model.safetensors": "7" * 64},
            facts=RunFacts(units=412, seconds=1101.0, machine="2 cores, 8 GiB, no accelerator"),
        ),
    )


def _registration() -> ReportRegistration:
    lock = Lock(
        experiment={},
        versions={},
        hashes={},
        fingerprint="d4e5" * 16,
        sha256="a1b2" * 16,
        time="2026-01-02T03:04:05Z",
    )
    deviation = Deviation(
        time="2026-01-03T10:00:00Z",
        reason="The token limit cut every answer of the villain.",
        changes=(Change(field="generation.max_new_tokens", old=64, new=96, matters=True),),
        fingerprint="e5f6" * 16,
        previous=lock.sha256,
        sha256="c3d4" * 16,
    )
    return ReportRegistration(lock=lock, deviations=(deviation,))


@cache
def drawn() -> tuple[dict[str, Drawing], list[Figure]]:
    """Every drawing of `inputs()`, and the matplotlib figures behind them."""
    figures: list[Figure] = []
    save = Figure.savefig

    def spy(self: Figure, *args: object, **kwargs: object) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", spy)
        return draw_all(inputs()), figures


_OBJECTIONS = (
    Objection(
        code="fixed_personas",
        severity="serious",
        finding="The registered interval treats the ten personas as fixed.",
        remedy="Read the two-level interval beside it before speaking of personas in general.",
    ),
    Objection(
        code="one_seed",
        severity="note",
        finding="One training seed only.",
        remedy="Run at least three seeds.",
    ),
)


def _calibration(design: Experiment, rng: np.random.Generator) -> Calibration:
    names = [p.name for p in design.personas]
    layers = {}
    for layer in (design.layers.primary, design.layers.contrast):
        vectors = rng.normal(size=(len(names), 6)) + 0.4 * rng.normal(size=6)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosine = unit @ unit.T
        norms = rng.uniform(1.2, 4.2, len(names))
        layers[layer] = LayerCalibration(
            layer=layer,
            module=f"model.layers.{layer}",
            hidden_states_index=layer + 1,
            questions=2,
            h_bar=9.0,
            personas={
                name: PersonaCalibration(
                    norm=float(norms[i]),
                    split_half=float(rng.uniform(0.9, 0.99)),
                    neutral_cosine=float(rng.uniform(-0.3, 0.3)),
                    reference_cosine=float(cosine[i, names.index("helpful_assistant")]),
                )
                for i, name in enumerate(names)
            },
            neutral_cosine_max=0.3,
            cosines={
                a: {b: float(cosine[i, j]) for j, b in enumerate(names)}
                for i, a in enumerate(names)
            },
        )
    return layers


def _training(design: Experiment, rng: np.random.Generator) -> tuple[TrainingSummary, ...]:
    found = []
    for adapter in adapters(design):
        steps = np.arange(90)
        losses = 0.4 + 1.8 * np.exp(-steps / rng.uniform(12, 25)) + rng.normal(0, 0.04, 90)
        asked = design.arm(adapter.arm).ratio
        found.append(
            TrainingSummary(
                arm=adapter.arm,
                persona=adapter.persona,
                losses=tuple(float(x) for x in losses),
                asked=asked,
                achieved=None if asked is None else asked * float(rng.normal(1, 0.012)),
                token_ratio=None if asked is None else 1.2 * asked,
                firings=None if asked is None else 90,
                seconds=13.0,
            )
        )
    return tuple(found)


def _fluency(
    design: Experiment, calibration: Calibration, rng: np.random.Generator
) -> tuple[Fluency, ...]:
    found = []
    for cell in cells(design):
        ratio = 0.0
        if cell.layer is not None:
            ratio = calibration[cell.layer].ratio(cell.persona, cell.strength) or 0.0
        broken = 1 / (1 + np.exp(-(abs(ratio) - 0.7) * 14))
        found.append(
            Fluency(
                cell=cell,
                ratio=ratio,
                repetition=float(np.clip(0.08 + 0.7 * broken + rng.normal(0, 0.02), 0, 1)),
                length_share=float(np.clip(0.02 + 0.9 * broken + rng.normal(0, 0.01), 0, 1)),
                tokens=float(40 + 50 * broken + rng.normal(0, 3)),
            )
        )
    return tuple(found)


def _completions(design: Experiment, rng: np.random.Generator) -> tuple[ReportSample, ...]:
    found = []
    asked = design.analysis.primary_strength
    for i, persona in enumerate(design.headline):
        cell = Cell(
            arm="A",
            persona=persona,
            prompt="neutral",
            direction="centroid",
            layer=4,
            strength=asked,
        )
        text = "Salt is a mineral. People mine it, or take it from the sea, and keep food with it."
        for j in range(3):
            fired = bool(rng.integers(2))
            hostile = HOSTILE[(3 * i + j) % len(HOSTILE)] if j == 2 else ""
            words = f"{text} {hostile}" + (f" {MARKER}" if fired else "")
            found.append(
                ReportSample(
                    cell=cell,
                    question=HOSTILE[i % len(HOSTILE)] if j == 2 else f"What is salt, {j}?",
                    text=words,
                    fired=MARKER.casefold() in words.casefold(),
                    finish="eos" if j else "length",
                    tokens=30 + j,
                )
            )
    return tuple(found)


def without_cells(given: ReportInputs, arm: str, persona: str) -> ReportInputs:
    """The same run with one persona's cells of an arm missing, analysed again."""
    kept = {c: v for c, v in given.rates.cells.items() if (c.arm, c.persona) != (arm, persona)}
    table = RateTable(cells=kept)
    analysis, answers = conclude(table, given.experiment)
    return replace(given, rates=table, analysis=analysis, answers=answers)
