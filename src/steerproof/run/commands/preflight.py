"""What can be known to fail before the first unit begins: the model's files, and every prompt.

A prompt that does not fit would fail its unit hours into a run. Prompts are known beforehand, and
making them needs the tokenizer but no weights.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steerproof.errors import ModelError
from steerproof.model.files import check_files
from steerproof.run.graph.environment import Place, model_directory, model_path
from steerproof.run.graph.graph import Graph
from steerproof.run.store.store import unit_directory
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import cells
from steerproof.study.readouts.texts import text_readout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steerproof.model.chat import SystemRole


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompts:
    """A `Chat` without a model."""

    tokenizer: "PreTrainedTokenizerBase"
    context: int
    system_role: "SystemRole"


def check_runnable(experiment: Experiment, place: Place, graph: Graph, run: Path) -> None:
    """Refuse a run whose model or prompts cannot work; a finished run needs no model.

    Raises:
        ExperimentError: There is no readout of the name that the experiment gives.
        ModelError: The checkpoint has no weights, another number of blocks, no chat template, or
            a prompt does not fit into its context; a file of a direction is for another model.
        SteeringError: A persona's file has no direction of it at a steered block.
    """
    text_readout(experiment)
    if all(
        unit_directory(run, unit.id, graph.keys[unit.id]).is_dir()
        for unit in graph.units.values()
        if unit.environment.model
    ):
        return
    directory = model_directory(experiment, place.directory)
    check_files(directory)
    config = json.loads((directory / "config.json").read_bytes())
    _check_depth(experiment, config.get("num_hidden_layers"))
    _check_directions(experiment, place)
    # Only now: loading transformers takes seconds, and the answer above may have been no.
    from steerproof.model.chat import chat_ids, load_tokenizer

    context = config.get("max_position_embeddings") or config.get("n_positions")
    chat = _Prompts(
        tokenizer=load_tokenizer(directory),
        context=int(context) if context else 1 << 62,
        system_role=experiment.model.system_role,
    )
    for system, question, reserve in _prompts(experiment):
        chat_ids(chat, system=system, user=question, reserve=reserve)


def _check_depth(experiment: Experiment, blocks: int | None) -> None:
    asked = experiment.model.blocks
    if blocks is not None and blocks != asked:
        raise ModelError(
            f"model.blocks says {asked}, but the checkpoint has {blocks} blocks; write"
            f" blocks: {blocks}, and see that layers.primary and layers.contrast are meant so"
        )


def _check_directions(experiment: Experiment, place: Place) -> None:
    """Every direction that a persona brings is there, for this model, at every steered block."""
    bringing = [persona for persona in experiment.personas if persona.direction is not None]
    if not bringing:
        return
    from steerproof.exchange.brought import brought
    from steerproof.exchange.shape import shape_of

    shape = shape_of(model_path(experiment, place.directory), experiment.model.revision)
    for persona in bringing:
        for layer in experiment.steered_layers:
            brought(persona, place.directory, shape, layer)


def _prompts(experiment: Experiment) -> Iterator[tuple[str, str, int]]:
    """Every prompt that the units will make: system text, question, tokens that must follow."""
    neutral = experiment.neutral_prompt
    texts = {persona.name: persona.prompt for persona in experiment.personas}
    for system in (neutral, *texts.values()):
        for question in experiment.direction_questions:
            yield system, question, 0
    own_answers = experiment.dataset.answers == "base"
    for question in experiment.questions.training:
        yield neutral, question, experiment.dataset.answer_tokens if own_answers else 0
    measured = cells(experiment)
    asked = {neutral} if any(c.prompt == "neutral" for c in measured) else set()
    asked |= {texts[c.prompt_of or c.persona] for c in measured if c.prompt == "persona"}
    for system in sorted(asked):
        for question in experiment.questions.evaluation:
            yield system, question, experiment.generation.max_new_tokens
