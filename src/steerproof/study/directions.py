"""Directions: what the base model's residual stream says about who is speaking.

`raw[p]` is the mean over questions of the layer's residual at the last prompt token, with persona
p's system prompt; `v[p] = raw[p] - mean over the headline personas`. Random controls have the
norm of `v[p]` and are drawn from seeds of their own, so they are the same in training and
measurement. A mix of the centroids would mostly hold some of `v[p]` itself, so that part is taken
out before it is scaled.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerproof.errors import SteeringError
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids
from steerproof.model.steering import record
from steerproof.model.transfer import unplanned_attention
from steerproof.spec.experiment import Experiment
from steerproof.study.kinds import KINDS, Material, drawn, isotropic
from steerproof.study.told import NOBODY, Told

_ROUNDING = 1e-6
"""Share of the residual's norm below which a centroid is nothing but rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What the base model is asked, so that its activations say who is speaking."""

    personas: Mapping[str, str]
    """System prompt by persona."""
    neutral: str
    """The neutral instruction."""
    questions: tuple[str, ...]
    """Asked under every system prompt, at least two."""
    headline: tuple[str, ...]
    """Personas whose mean is subtracted."""
    reference: str
    """Persona to whose direction the others' angles are given."""


def prompts_of(experiment: Experiment) -> Prompts:
    """What an experiment asks the base model."""
    return Prompts(
        personas={persona.name: persona.prompt for persona in experiment.personas},
        neutral=experiment.neutral_prompt,
        questions=experiment.direction_questions,
        headline=experiment.headline,
        reference=experiment.reference_persona,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """Residuals of one layer at the last prompt token, float32."""

    layer: int
    module: str
    """Path of the block whose output this is, such as `model.layers.3`."""
    personas: tuple[str, ...]
    by_persona: Float[Tensor, "persona question hidden"]
    neutral: Float[Tensor, "question hidden"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Directions:
    """The directions of one layer, one row per persona, float32."""

    layer: int
    personas: tuple[str, ...]
    raw: Float[Tensor, "persona hidden"]
    neutral: Float[Tensor, " hidden"]
    """The neutral prompt's mean residual minus the headline mean."""
    tables: Mapping[str, Tensor]
    """`[persona, hidden]` by kind, the centroid among them."""

    @property
    def centroid(self) -> Float[Tensor, "persona hidden"]:
        """Each persona's mean residual minus the headline mean."""
        return self.tables["centroid"]

    def vector(self, kind: str, persona: str) -> Float[Tensor, " hidden"]:
        """The direction of (kind, persona), before any coefficient.

        Raises:
            SteeringError: There is no such kind.
        """
        if kind not in self.tables:
            raise SteeringError(
                f"layer {self.layer} has no {kind} directions; there are {', '.join(self.tables)}"
            )
        return self.tables[kind][self.personas.index(persona)]


def extract(
    base: Base,
    prompts: Prompts,
    layers: Sequence[int],
    batch_tokens: int = 8192,
    told: Told = NOBODY,
) -> dict[int, Residuals]:
    """Run the base model over every (system prompt, question) and keep the last prompt token.

    Args:
        base: The frozen model, no adapter and no push attached.
        prompts: What it is asked.
        layers: 0-based block indices.
        batch_tokens: Prompt tokens in one forward pass, padding included.
        told: How far that is.

    Returns:
        Residuals by layer.

    Raises:
        ModelError: A prompt does not fit into the context, or the template drops it.
    """
    systems = [*prompts.personas.values(), prompts.neutral]
    ids = [chat_ids(base.chat, system=s, user=q) for s in systems for q in prompts.questions]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    residuals = {
        layer: torch.empty(len(ids), base.hidden_size, dtype=torch.float32) for layer in layers
    }
    done = 0
    for batch in _batches(order, [len(prompt) for prompt in ids], batch_tokens):
        told.at(done, len(ids), "prompts")
        done += len(batch)
        for layer, values in _last_residuals(base, [ids[i] for i in batch], layers).items():
            residuals[layer][batch] = values.cpu()
    shape = (len(systems), len(prompts.questions), base.hidden_size)
    return {
        layer: Residuals(
            layer=layer,
            module=f"{base.block_path}.{layer}",
            personas=tuple(prompts.personas),
            by_persona=values.view(shape)[:-1],
            neutral=values.view(shape)[-1],
        )
        for layer, values in residuals.items()
    }


def _batches(order: Sequence[int], lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Runs of rows in order of length whose padded size stays within `tokens`."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * lengths[i] > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@torch.no_grad()
def _last_residuals(
    base: Base, prompts: Sequence[tuple[int, ...]], layers: Sequence[int]
) -> dict[int, Float[Tensor, "row hidden"]]:
    """Residuals at the last token of each prompt; left-padded, so it is the last position."""
    width = max(len(p) for p in prompts)
    ids = torch.tensor([[base.pad_id] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    last = torch.full((len(prompts),), width - 1)
    with unplanned_attention(base.device), record(base.blocks, layers, last) as seen:
        base.model.base_model(
            input_ids=ids.to(base.device),
            attention_mask=mask.to(base.device),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(base.device),
            use_cache=False,
        )
    return seen


def centred(
    raw: Float[Tensor, "persona hidden"], headline: Sequence[int]
) -> tuple[Float[Tensor, "persona hidden"], Float[Tensor, " hidden"]]:
    """Subtract the mean of the headline rows; returns the centred rows and that mean."""
    mean = raw[list(headline)].mean(0)
    return raw - mean, mean


def from_residuals(
    residuals: Residuals,
    *,
    headline: Sequence[str],
    seed: int,
    given: Mapping[str, Tensor] | None = None,
) -> Directions:
    """The directions of a layer from its residuals.

    Args:
        residuals: Activations of every persona and of the neutral prompt.
        headline: The personas whose mean is subtracted.
        seed: The experiment's seed; random directions are drawn from (seed, kind, persona, layer).
        given: Directions that stand in place of their persona's centroid; controls get their norm.

    A centroid shorter than a millionth of the residual is rounding: it and the random ones of its
    norm are zeros, and a push along them is refused.

    Raises:
        SteeringError: A residual is not finite.
    """
    rows = [residuals.personas.index(name) for name in headline]
    raw = residuals.by_persona.double().mean(1)
    if not bool(torch.isfinite(raw).all()):
        raise SteeringError(
            f"layer {residuals.layer}: a residual is not finite; load the model in float32 "
            "or choose another layer"
        )
    centroid, mean = centred(raw, rows)
    centroid[centroid.norm(dim=1) <= _ROUNDING * raw.norm(dim=1).mean()] = 0.0
    for name, vector in (given or {}).items():
        centroid[residuals.personas.index(name)] = vector.double()
    shown = Material(
        layer=residuals.layer,
        personas=residuals.personas,
        headline=tuple(rows),
        raw=raw,
        centroid=centroid,
        by_persona=residuals.by_persona,
        seed=seed,
    )
    return Directions(
        layer=residuals.layer,
        personas=residuals.personas,
        raw=raw.float(),
        neutral=(residuals.neutral.double().mean(0) - mean).float(),
        tables={name: kind(shown).float() for name, kind in KINDS.items()},
    )


def fresh(directions: Directions, persona: str, *, seed: int, draw: int) -> Tensor:
    """Another isotropic direction of the norm of a persona's centroid: nothing was trained on it.

    Args:
        directions: Of the layer.
        persona: Whose norm it has.
        seed: The experiment's.
        draw: Which one, from 1; each has a seed of its own.

    Returns:
        float32 `[hidden]`.
    """
    own = directions.centroid[directions.personas.index(persona)].double()
    parts = (seed, "isotropic", persona, directions.layer, draw)
    return drawn(isotropic, parts, own, own[None]).float()


def tensors(directions: Sequence[Directions]) -> dict[str, Tensor]:
    """Flat names for a safetensors file: `L4.centroid`, `L4.isotropic`, ..."""
    return {
        f"L{d.layer}.{name}": table.contiguous()
        for d in directions
        for name, table in {"raw": d.raw, "neutral": d.neutral, **d.tables}.items()
    }


def from_tensors(
    stored: Mapping[str, Tensor], *, layer: int, personas: Sequence[str]
) -> Directions:
    """Read one layer back from the names of `tensors`.

    Raises:
        KeyError: The layer lacks a table that every layer has.
        ValueError: A table is not of float32 numbers, or has not a row of one width per persona.
    """
    start = f"L{layer}."
    tables = {name.removeprefix(start): t for name, t in stored.items() if name.startswith(start)}
    neutral, rows = tables["neutral"], len(personas)
    for name, table in tables.items():
        shape = neutral.shape if name == "neutral" else (rows, *neutral.shape)
        if neutral.ndim != 1 or table.shape != shape or table.dtype != torch.float32:
            raise ValueError(f"{name} is {table.dtype} {list(table.shape)}, not of {rows} personas")
        if not torch.isfinite(table).all():
            raise ValueError(f"{name} has a number that is none")
    tables["centroid"]  # every layer has it
    return Directions(
        layer=layer,
        personas=tuple(personas),
        raw=tables.pop("raw"),
        neutral=tables.pop("neutral"),
        tables=tables,
    )
