"""Calibration: how hard a coefficient pushes, and whether the directions can be trusted.

`h_bar` is the mean over questions of the residual norm at the last prompt token under the neutral
prompt, and `c(ratio) = ratio * h_bar / ||v||`. A coefficient that is mild for one persona can be
past the point where another's text falls apart, so everything here is per persona.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from steerproof.decide.analysis.calibration import (
    ControlCosines,
    LayerCalibration,
    PersonaCalibration,
)
from steerproof.errors import SteeringError
from steerproof.spec.seeds import derived_seed
from steerproof.study.directions import Directions, Residuals, centred

Named = dict[str, dict[str, float | None]]
"""Cosines by the names of two personas; None where one has no direction."""
SPLITS = 20
"""Random halves of the questions that the split-half reliability is averaged over."""


def calibrate(
    residuals: Residuals,
    directions: Directions,
    *,
    headline: tuple[str, ...],
    reference: str,
    seed: int,
    imported: Mapping[str, str] | None = None,
) -> LayerCalibration:
    """Measure a layer's baseline norm, its directions and their reliability.

    Args:
        residuals: What the directions were taken from.
        directions: Of the layer.
        headline: The personas whose mean is subtracted.
        reference: Persona to whose direction the others' angles are given.
        seed: Of the halves of the questions.
        imported: Personas whose direction was brought, and what is known of it, in words: how
            reliable it is, nobody here can tell.

    Raises:
        SteeringError: The baseline norm is not finite and positive (a gate).
    """
    h_bar = _baseline(residuals)
    names, unit = directions.personas, _unit(directions.centroid)
    cosine = unit @ unit.T
    neutral = unit @ _unit(directions.neutral[None])[0]
    halves = _split_half(residuals, headline, seed)
    halves[directions.centroid.norm(dim=1) == 0] = torch.nan
    halves[[names.index(name) for name in imported or {}]] = torch.nan
    angles = (halves, neutral, cosine[:, names.index(reference)])
    personas = _personas(directions, angles, imported or {})
    return LayerCalibration(
        layer=residuals.layer,
        module=residuals.module,
        hidden_states_index=residuals.layer + 1,
        questions=len(residuals.neutral),
        h_bar=h_bar,
        personas=personas,
        neutral_cosine_max=max(
            (abs(c) for name in headline if (c := personas[name].neutral_cosine) is not None),
            default=None,
        ),
        cosines=_named(cosine, names),
        controls={
            kind: _control_cosines(table, unit, names)
            for kind, table in directions.tables.items()
            if kind != "centroid"
        },
    )


def _baseline(residuals: Residuals) -> float:
    """`h_bar`.

    Raises:
        SteeringError: It is not finite and positive.
    """
    h_bar = float(residuals.neutral.double().norm(dim=-1).mean())
    if not 0.0 < h_bar < float("inf"):
        raise SteeringError(
            f"layer {residuals.layer}: baseline residual norm is {h_bar}, must be finite and "
            "positive; load the model in float32 or choose another layer"
        )
    return h_bar


def _personas(
    directions: Directions, angles: Sequence[Tensor], imported: Mapping[str, str]
) -> dict[str, PersonaCalibration]:
    """Each persona's direction in numbers.

    Args:
        directions: Of the layer.
        angles: Split-half reliability, cosine with the neutral vector, and with the reference's
            direction, each `[persona]`.
        imported: What is known of directions that were brought.
    """
    norms = directions.centroid.double().norm(dim=1).tolist()
    return {
        name: PersonaCalibration(
            norm=norm,
            split_half=_defined(half),
            neutral_cosine=_defined(neutral),
            reference_cosine=_defined(own),
            imported=imported.get(name),
        )
        for name, norm, half, neutral, own in zip(directions.personas, norms, *angles, strict=True)
    }


def _control_cosines(
    table: Float[Tensor, "persona hidden"],
    centroids: Float[Tensor, "persona hidden"],
    names: Sequence[str],
) -> ControlCosines:
    """Cosines of one kind of random directions; the centroids are unit vectors."""
    unit = _unit(table)
    return ControlCosines(
        centroids=_named(unit @ centroids.T, names), each_other=_named(unit @ unit.T, names)
    )


def _named(table: Float[Tensor, "row column"], names: Sequence[str]) -> Named:
    """A square table by the names of its rows and columns."""
    rows = (dict(zip(names, map(_defined, row), strict=True)) for row in table)
    return dict(zip(names, rows, strict=True))


def _unit(vectors: Float[Tensor, "row hidden"]) -> Float[Tensor, "row hidden"]:
    """Rows at length 1, float64; NaN for a row of zeros, which has no angle to anything."""
    exact = vectors.double()
    unit = normalize(exact, dim=1)
    unit[exact.norm(dim=1) == 0] = torch.nan
    return unit


def _defined(value: Tensor) -> float | None:
    """A number; None for NaN."""
    return None if bool(value.isnan()) else float(value)


def _split_half(
    residuals: Residuals, headline: tuple[str, ...], seed: int
) -> Float[Tensor, " persona"]:
    """Mean over random splits of the cosine between the two halves' centroids."""
    count = residuals.by_persona.shape[1]
    rows = [residuals.personas.index(name) for name in headline]
    generator = torch.Generator().manual_seed(derived_seed(seed, "split-half", residuals.layer))
    total = torch.zeros(len(residuals.personas), dtype=torch.float64)
    for _ in range(SPLITS):
        order = torch.randperm(count, generator=generator)
        first, second = (
            centred(residuals.by_persona[:, half].double().mean(1), rows)[0]
            for half in (order[: count // 2], order[count // 2 :])
        )
        total += torch.nn.functional.cosine_similarity(first, second, dim=1)
    return total / SPLITS
