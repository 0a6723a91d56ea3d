"""A short trial of what a run will do, so that a plan can say how long it takes and what is wrong.

Timed: adapters of the experiment's shape in one pool, a push at the primary layer, the experiment's
own questions; what is drawn and trained is thrown away. Measured: the geometry of the directions,
which tells before anything is trained how hard each strength pushes.
"""

import time
from dataclasses import replace
from statistics import fmean

import torch

from steerproof.decide.analysis.calibration import LayerCalibration
from steerproof.decide.review.plan import Range, Throughput
from steerproof.engine.batches import Example
from steerproof.engine.generate import Engine
from steerproof.engine.lora.weights import fresh_weights, lora_sites
from steerproof.engine.rows import Completion
from steerproof.engine.train import AdapterJob, Recipe, train
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids
from steerproof.model.push import Push
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import Cell
from steerproof.study.directions import prompts_of
from steerproof.study.geometry import geometry
from steerproof.study.measure import AskedCell, rows_of
from steerproof.study.teach import recipe_of

ADAPTERS = 4
"""In training, and in the generation pool."""
STEPS = 3
"""Training steps of each adapter."""
MOST_NEW_TOKENS = 64
"""Longer completions would make the trial long; their length is then known only from below."""
SAMPLES = 2


def trial(experiment: Experiment, base: Base) -> Throughput:
    """Time both kinds of work on the machine at hand.

    Args:
        experiment: Whose recipe, questions and lengths are used.
        base: Its model, loaded.

    Raises:
        ModelError: A prompt does not fit, or the model cannot be pooled.
    """
    recipe = recipe_of(experiment.training)
    push = _push(experiment, base)
    drawn, drawing = _generate(experiment, base, recipe, push)
    signals = [push if i % 2 else None for i in range(recipe.rows_per_step * STEPS)]
    examples = _examples(experiment, base, drawn, signals)
    recipe = replace(recipe, epochs=1)
    jobs = [AdapterJob(key=str(i), examples=examples, seed=i) for i in range(ADAPTERS)]
    began = time.perf_counter()
    trained = [ended.tokens for ended in train(base, jobs, recipe)]  # type: ignore[union-attr]
    training = time.perf_counter() - began
    # The token that ends a completion was drawn as well, but is not part of it.
    lengths = [len(one.token_ids) + (one.finish == "eos") for one in drawn]
    longest = experiment.generation.max_new_tokens
    cut = any(one.finish == "length" for one in drawn)
    return Throughput(
        seconds=drawing + training,
        training=sum(trained) / training,
        generation=sum(lengths) / drawing,
        row_tokens=_around([example.length for example in examples]),
        completion_tokens=Range(low=fmean(lengths), high=float(longest if cut else max(lengths))),
    )


def geometries(experiment: Experiment, base: Base) -> list[LayerCalibration]:
    """The geometry of every layer that the experiment steers, as the directions units measure it.

    Raises:
        ModelError: A prompt does not fit, or the template drops it.
    """
    layers = geometry(base, prompts_of(experiment), experiment.steered_layers, experiment.seed)
    return [layer.calibration for layer in layers.values()]


def _push(experiment: Experiment, base: Base) -> Push:
    """A push of about the usual size: it costs what any costs."""
    vector = torch.full((base.hidden_size,), 1e-3)
    return Push(layer=experiment.layers.primary, vector=vector)


def _generate(
    experiment: Experiment, base: Base, recipe: Recipe, push: Push
) -> tuple[list[Completion], float]:
    """Cells of several adapters at once; returns what was drawn, and seconds."""
    sites = lora_sites(base)
    adapters = [fresh_weights(sites, recipe.spec, seed) for seed in range(1, ADAPTERS + 1)]
    most = min(experiment.generation.max_new_tokens, MOST_NEW_TOKENS)
    settings = experiment.generation.model_copy(update={"max_new_tokens": most})
    cells = [
        AskedCell(
            cell=Cell(arm="trial", persona=str(i), prompt="neutral", direction="none", layer=None),
            system=experiment.neutral_prompt,
            questions=experiment.questions.evaluation,
            samples=SAMPLES,
            seed=experiment.seed,
            early_tokens=most,
            adapter=adapter,
            push=push if i % 2 else None,
        )
        for i, adapter in enumerate(adapters)
    ]
    rows = [row for asked in cells for row in rows_of(base, asked, settings)]
    engine = Engine(base, rows)
    began = time.perf_counter()
    drawn = list(engine.complete(settings))
    return drawn, time.perf_counter() - began


def _examples(
    experiment: Experiment, base: Base, drawn: list[Completion], signals: list[Push | None]
) -> tuple[Example, ...]:
    """Training rows with the answers that were just drawn."""
    questions = experiment.questions.training
    rows = []
    for i, push in enumerate(signals):
        one = drawn[i % len(drawn)]
        prompt = chat_ids(
            base, system=experiment.neutral_prompt, user=questions[i % len(questions)]
        )
        ids = (*one.token_ids, base.end_of_turn)
        rows.append(Example(prompt_ids=prompt, completion_ids=ids, push=push))
    return tuple(rows)


def _around(lengths: list[int]) -> Range:
    mean = fmean(lengths)
    return Range(low=mean, high=mean)
