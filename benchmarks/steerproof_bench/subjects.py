"""What a benchmark works with: adapters, trained or drawn, and the directions of the base."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch

from steerproof.engine.lora.peft_files import read_peft
from steerproof.engine.lora.weights import LoraSpec, LoraWeights, Site, fresh_weights
from steerproof.errors import SteerproofError
from steerproof.model.base import Base
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import AdapterId
from steerproof.study.directions import prompts_of
from steerproof.study.geometry import LayerGeometry, geometry

T = TypeVar("T")
_DRAWN_B = 0.02
"""Standard deviation of B in an adapter that stands in for a trained one."""


def geometry_of(base: Base, experiment: Experiment) -> dict[int, LayerGeometry]:
    """Directions with their scale by layer, extracted from the base as a run does.

    Raises:
        SteerproofError: The experiment steers a layer that the base does not have.
    """
    layers, depth = experiment.steered_layers, len(base.blocks)
    if max(layers) >= depth:
        raise SteerproofError(f"{experiment.name} steers layer {max(layers)} of {depth} blocks")
    return geometry(base, prompts_of(experiment), layers, experiment.seed)


def spread(items: Sequence[T], count: int, what: str) -> list[T]:
    """So many of the items, evenly spread over their order.

    Raises:
        SteerproofError: Fewer than one are asked for, or more than there are.
    """
    if not 1 <= count <= len(items):
        raise SteerproofError(f"{count} {what} asked for; there are 1 to {len(items)} of them")
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def drawn_adapter(sites: Sequence[Site], spec: LoraSpec, seed: int) -> LoraWeights:
    """An adapter that stands in for a trained one: fresh, with a small random B."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(old.shape, generator=generator) * _DRAWN_B if "lora_B" in name else old
        for name, old in fresh_weights(sites, spec, seed).tensors.items()
    }
    return LoraWeights(spec=spec, tensors=tensors)


def trained_adapter(run: Path, adapter: AdapterId, base: Base) -> LoraWeights:
    """The adapter that a finished run trained.

    Raises:
        SteerproofError: The run has none of that name.
        ModelError: Its files do not fit the model.
    """
    return read_peft(unit_directory(run, "adapter", adapter.name), base)


def unit_directory(run: Path, kind: str, name: str) -> Path:
    """The directory of a finished unit; the newest if there are several.

    Raises:
        SteerproofError: There is none.
    """
    found = sorted(
        (run / "units" / kind).glob(f"{name}-{'[0-9a-f]' * 16}"), key=lambda p: p.stat().st_mtime
    )
    if not found:
        raise SteerproofError(f"{run} has no finished {kind}/{name}; is it a run of this model?")
    return found[-1]
