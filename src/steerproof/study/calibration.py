"""Calibration: how hard a coefficient pushes, and whether the directions can be trusted.

`h_bar` is the mean over questions of the residual norm at the last prompt token under the neutral
prompt, and `c(ratio) = ratio * h_bar / ||v||`. A coefficient that is mild for one persona can be
past the point where another's text falls apart, so everything here is per persona.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steerproof.decide.analysis.calibration import LayerCalibration, PersonaCalibration
from steerproof.errors import SteeringError
from steerproof.spec.seeds import derived_seed
from steerproof.study.directions import Directions, Residuals, centred

SPLITS = 20
"""Random halves of the questions that the split-half reliability is averaged over."""


def calibrate(
    residuals: Residuals,
    directions: Directions,
    *,
    headline: tuple[str, ...],
    reference: str,
    seed: int,
) -> LayerCalibration:
    """Measure a layer's baseline norm, its directions and their reliability.

    Raises:
        SteeringError: the baseline norm is not finite and positive (a gate).
    """
    h_bar = float(residuals.neutral.double().norm(dim=-1).mean())
    if not 0.0 < h_bar < float("inf"):
        raise SteeringError(
            f"layer {residuals.layer}: baseline residual norm is {h_bar}, must be finite and "
            "positive; load the model in float32 or choose another layer"
        )
    unit = torch.nn.functional.normalize(directions.centroid.double(), dim=1)
    cosine = unit @ unit.T
    neutral = unit @ torch.nn.functional.normalize(directions.neutral.double(), dim=0)
    halves = _split_half(residuals, headline, seed)
    names = directions.personas
    norms = directions.centroid.double().norm(dim=1).tolist()
    personas = {}
    for i, name in enumerate(names):
        personas[name] = PersonaCalibration(
            norm=norms[i],
            split_half=float(halves[i]),
            neutral_cosine=float(neutral[i]),
            reference_cosine=float(cosine[i, names.index(reference)]),
        )
    return LayerCalibration(
        layer=residuals.layer,
        module=residuals.module,
        hidden_states_index=residuals.layer + 1,
        questions=len(residuals.neutral),
        h_bar=h_bar,
        personas=personas,
        neutral_cosine_max=max(abs(personas[name].neutral_cosine) for name in headline),
        cosines={
            a: {b: float(cosine[i, j]) for j, b in enumerate(names)} for i, a in enumerate(names)
        },
    )


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
