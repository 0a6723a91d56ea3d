"""A short trial of what a run will do, so that a plan can say how long it takes and what is wrong.

Timed: adapters of the experiment's shape in one pool, a push of a real size at the primary layer,
the experiment's own questions; what is drawn and trained is thrown away. Measured: the geometry of
the directions, which tells before anything is trained how hard each strength pushes.

It has a budget. Each part begins with little work and doubles it until two figures in a row agree,
all is done, or its share of the time is used up.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import fmean

import torch

from steerproof.decide.analysis.calibration import LayerCalibration
from steerproof.decide.review.plan import Range, Throughput
from steerproof.engine.batches import Example
from steerproof.engine.generate import Engine
from steerproof.engine.lora.weights import fresh_weights, lora_sites
from steerproof.engine.rows import Drawn
from steerproof.engine.train import AdapterJob, FailedAdapter, Recipe, train
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids
from steerproof.model.push import Push
from steerproof.spec.experiment import Experiment
from steerproof.spec.grid import Cell
from steerproof.study.directions import prompts_of
from steerproof.study.geometry import geometry
from steerproof.study.measure import AskedCell, rows_of
from steerproof.study.teach import recipe_of

SECONDS = 20.0
"""Of the whole trial; a first round that is slower than its share is finished."""
ADAPTERS = 4
"""In training, and in the generation pool."""
_STEPS = 3
"""Training steps of each adapter."""
MOST_NEW_TOKENS = 64
"""Longer completions would make the trial long; their length is then known only from below."""
SAMPLES = 2
RATIO = 0.2
"""Of the push, to the residual where it is added: less might drown in the number type."""
_AGREE = 0.15
"""Two figures in a row that differ by this share at most are stable."""
_LEAST_QUESTIONS = 2
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What one kind of work did."""

    tokens: int
    seconds: float

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


def trial(
    experiment: Experiment, base: Base, *, seconds: float = SECONDS, say: Say = str
) -> Throughput:
    """Time both kinds of work on the machine at hand.

    Args:
        experiment: Whose recipe, questions and lengths are used.
        base: Its model, loaded.
        seconds: Its budget; half of it is for generation.
        say: Told in a line what is done.

    Raises:
        ModelError: A prompt does not fit, or the model cannot be pooled.
        SteeringError: The push did not arrive.
    """
    recipe = recipe_of(experiment.training)
    push = _push(experiment, base)
    drawn, drawing = _try_generation(experiment, base, recipe, push, seconds / 2, say)
    examples = _examples(experiment, base, drawn, recipe.rows_per_step * _STEPS, push)
    training = _try_training(base, recipe, examples, seconds / 2, say)
    # The token that ends a completion was drawn as well, but is not part of it.
    lengths = [len(one.token_ids) + (one.finish == "eos") for one in drawn]
    longest = experiment.generation.max_new_tokens
    cut = any(one.finish == "length" for one in drawn)
    return Throughput(
        seconds=drawing.seconds + training.seconds,
        training=training.speed,
        generation=drawing.speed,
        row_tokens=_around([example.length for example in examples]),
        completion_tokens=Range(low=fmean(lengths), high=float(longest if cut else max(lengths))),
    )


def geometries(
    experiment: Experiment, base: Base, *, seconds: float = SECONDS, say: Say = str
) -> list[LayerCalibration]:
    """The geometry of every layer that the experiment steers, as the directions units measure it.

    From as many of the questions as there is time for: two at least.

    Raises:
        ModelError: A prompt does not fit, or the template drops it.
    """
    prompts = prompts_of(experiment)
    layers = experiment.steered_layers
    total = len(prompts.questions)
    began = time.perf_counter()
    by_layer = {}
    for count in _doubling(_LEAST_QUESTIONS, total):
        say(f"measuring directions from {count} of {total} questions")
        some = replace(prompts, questions=prompts.questions[:count])
        by_layer = geometry(base, some, layers, experiment.drawing_seed)
        # The next round takes twice as long as this one did.
        if time.perf_counter() - began > seconds / 3:
            break
    return [layer.calibration for layer in by_layer.values()]


def _doubling(start: int, most: int) -> Iterator[int]:
    """`start`, twice that, and so on; `most` at last."""
    count = min(start, most)
    while count < most:
        yield count
        count = min(2 * count, most)
    yield most


def _grown(work: Callable[[int], Timed], start: int, most: int, seconds: float) -> Timed:
    """Double the work until its speed is stable, all is done, or the time would not do."""
    began, before = time.perf_counter(), None
    for count in _doubling(start, most):
        timed = work(count)
        stable = before is not None and abs(timed.speed / before.speed - 1.0) <= _AGREE
        before = timed
        left = seconds - (time.perf_counter() - began)
        if stable or left < 2 * timed.seconds:
            break
    assert before is not None
    return before


@torch.inference_mode()
def _push(experiment: Experiment, base: Base) -> Push:
    """A push of the usual size: it costs what any costs, and is not lost in rounding."""
    layer = experiment.layers.primary
    question = experiment.questions.evaluation[0]
    ids = chat_ids(base.chat, system=experiment.neutral_prompt, user=question)
    states = base.model(
        input_ids=torch.tensor([ids], device=base.device),
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states
    norm = float(states[layer + 1][0, -1].float().norm())
    direction = torch.full((base.hidden_size,), base.hidden_size**-0.5)
    return Push(layer=layer, vector=direction * RATIO * norm)


def _try_generation(
    experiment: Experiment, base: Base, recipe: Recipe, push: Push, seconds: float, say: Say
) -> tuple[list[Drawn], Timed]:
    """Cells of several adapters at once; returns what was drawn in the last round, and its time."""
    sites = lora_sites(base)
    adapters = [fresh_weights(sites, recipe.lora, seed) for seed in range(1, ADAPTERS + 1)]
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
    # Question by question, so that few rows are already of several adapters.
    rows = [row for asked in cells for row in rows_of(base, asked, settings)]
    rows.sort(key=lambda row: (row.question, row.sample))
    drawn: list[Drawn] = []

    def draw(count: int) -> Timed:
        say(f"trying out generation: {count} completions of at most {most} tokens")
        engine = Engine(base, sorted(rows[:count], key=lambda row: row.cell))
        began = time.perf_counter()
        drawn[:] = engine.complete(settings)
        took = time.perf_counter() - began
        return Timed(
            tokens=sum(len(d.token_ids) + (d.finish == "eos") for d in drawn), seconds=took
        )

    return drawn, _grown(draw, ADAPTERS, len(rows), seconds)


def _try_training(
    base: Base, recipe: Recipe, examples: tuple[Example, ...], seconds: float, say: Say
) -> Timed:
    """Some adapters, for some steps."""
    once = replace(recipe, epochs=1)

    def learn(rows: int) -> Timed:
        adapters = max(1, min(ADAPTERS, rows // recipe.rows_per_step))
        mine = examples[: max(1, rows // adapters)]
        say(f"trying out training: {len(mine)} rows for each of {adapters} adapters")
        jobs = [AdapterJob(key=str(i), examples=mine, seed=i) for i in range(adapters)]
        tokens = 0
        began = time.perf_counter()
        for ended in train(base, jobs, once):
            if isinstance(ended, FailedAdapter):
                raise ended.error
            tokens += ended.tokens
        return Timed(tokens=tokens, seconds=time.perf_counter() - began)

    return _grown(learn, min(4, recipe.rows_per_step), ADAPTERS * len(examples), seconds)


def _examples(
    experiment: Experiment, base: Base, drawn: list[Drawn], count: int, push: Push
) -> tuple[Example, ...]:
    """Training rows with the answers that were just drawn, every other one pushed."""
    questions = experiment.questions.training
    rows = []
    for i in range(count):
        one = drawn[i % len(drawn)]
        prompt = chat_ids(
            base.chat, system=experiment.neutral_prompt, user=questions[i % len(questions)]
        )
        ids = (*one.token_ids, base.chat.end_of_turn)
        pushed = push if i % 2 else None
        rows.append(Example(prompt_ids=prompt, completion_ids=ids, push=pushed))
    return tuple(rows)


def _around(lengths: list[int]) -> Range:
    mean = fmean(lengths)
    return Range(low=mean, high=mean)
