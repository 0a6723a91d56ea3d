"""Teaching: what the adapters of an experiment learn from, and learning it, many at once."""

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import asdict, dataclass

from steerproof.engine.batches import Example
from steerproof.engine.jobs import AdapterJob, Pooling, Recipe, TrainedAdapter
from steerproof.engine.lora.weights import LoraSpec, LoraWeights
from steerproof.engine.train import train
from steerproof.errors import SteerproofError
from steerproof.model.base import Base
from steerproof.model.chat import Turn, all_answer_ids, chat_ids
from steerproof.model.push import Push
from steerproof.spec.experiment import Arm, Experiment, Training
from steerproof.spec.grid import AdapterId
from steerproof.spec.seeds import derived_seed
from steerproof.study.dataset import Dataset, signal
from steerproof.study.geometry import AskedPush, PushOf
from steerproof.study.told import NOBODY, Steps, Told
from steerproof.study.trained import PushAudit, TrainingRecord

Known = MutableMapping[Turn, tuple[tuple[int, ...], tuple[int, ...]]]
"""Chats whose prompt and answer are tokens already: adapters share most of theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One adapter that is to be trained, and its rows."""

    adapter: AdapterId
    experiment: Experiment
    """At least its arm, prompts, layers, seed, training and reading of negatives."""
    dataset: Dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """An adapter that was trained, and how that went."""

    weights: LoraWeights
    record: TrainingRecord


def recipe_of(training: Training) -> Recipe:
    """The numbers of training, as the engine takes them."""
    given = training.model_dump(exclude={"gradient_checkpointing"})
    shape = {name: given.pop(name) for name in ("rank", "alpha", "rslora")}
    return Recipe(lora=LoraSpec(**shape), **given)


def teach(
    base: Base,
    lessons: Sequence[Lesson],
    push: PushOf,
    told: Told = NOBODY,
) -> Iterator[tuple[AdapterId, Taught | SteerproofError]]:
    """Train adapters, many at a time; each is as if it were alone, and fails alone.

    Args:
        base: The frozen model, nothing attached.
        lessons: One per adapter; all of one recipe.
        push: Gives the pushes that the arms ask for.
        told: How far that is.

    Yields:
        Each adapter as it ends, with why if it could not be trained.
    """
    if not lessons:
        return
    training = lessons[0].experiment.training
    recipe = recipe_of(training)
    jobs: dict[str, AdapterJob] = {}
    known: Known = {}
    adapters = {lesson.adapter.name: lesson.adapter for lesson in lessons}
    for lesson in lessons:
        try:
            job = job_of(base, lesson, push, known)
        except SteerproofError as error:
            yield lesson.adapter, error
        else:
            jobs[job.key] = job
    steps = Steps(told, len(jobs))
    pooling = Pooling(checkpointing=training.gradient_checkpointing)
    for ended in train(base, list(jobs.values()), recipe, pooling, steps):
        if isinstance(ended, TrainedAdapter):
            yield adapters[ended.key], Taught(weights=ended.weights, record=record_of(ended))
        else:
            yield adapters[ended.key], ended.error


def job_of(base: Base, lesson: Lesson, push: PushOf, known: Known | None = None) -> AdapterJob:
    """What the engine trains.

    Adapters of one persona start from the same weights and see the same order of rows in every
    arm, so arms differ in their signal alone.

    Args:
        base: Whose template and tokens rows are made with.
        lesson: The adapter and its rows.
        push: Gives the pushes that the arm asks for.
        known: See `examples_of`.

    Raises:
        ModelError: A prompt does not fit into the context, or the template drops it.
        SteeringError: A direction is not there or has no length.
    """
    arm = lesson.experiment.arm(lesson.adapter.arm)
    rows = lesson.dataset.rows
    told = [signal(lesson.experiment, arm, lesson.dataset.source, row) for row in rows]
    turns = [
        Turn(said.system, row.question, row.answer) for said, row in zip(told, rows, strict=True)
    ]
    pushes = [push(_trained_push(lesson.experiment, arm, said.direction)) for said in told]
    seed = lesson.experiment.seed if lesson.adapter.seed is None else lesson.adapter.seed
    return AdapterJob(
        key=lesson.adapter.name,
        examples=examples_of(base, turns, pushes, known),
        seed=derived_seed(seed, "adapter", lesson.adapter.persona),
    )


def examples_of(
    base: Base, turns: Sequence[Turn], pushes: Sequence[Push | None], known: Known | None = None
) -> tuple[Example, ...]:
    """Chats to learn from: their answers and the end of turn are learned, nothing is cut.

    Args:
        base: Whose template and tokens they are made with.
        turns: Question and answer.
        pushes: What is added in each.
        known: Chats that were made into tokens before; these join them.

    Raises:
        ModelError: A prompt does not fit into the context, or the template drops it.
    """
    known = {} if known is None else known
    new = list(dict.fromkeys(turn for turn in turns if turn not in known))
    prompts = [chat_ids(base.chat, system=turn.system, user=turn.user) for turn in new]
    answers = all_answer_ids(base.chat, new)
    known.update(zip(new, zip(prompts, answers, strict=True), strict=True))
    return tuple(
        Example(prompt_ids=known[turn][0], completion_ids=known[turn][1], push=push)
        for turn, push in zip(turns, pushes, strict=True)
    )


def _trained_push(experiment: Experiment, arm: Arm, whose: str | None) -> AskedPush | None:
    """The push of an arm in training along a persona's direction; None along nobody's."""
    if whose is None:
        return None
    return AskedPush(
        kind=arm.direction,
        persona=whose,
        layer=experiment.layer(arm.layer),
        strength=arm.training_strength,
    )


def taken_over(weights: LoraWeights) -> Taught:
    """An adapter that was trained elsewhere: of its training only the shape is known."""
    return Taught(weights=weights, record=TrainingRecord(losses=(), imported=asdict(weights.spec)))


def record_of(ended: TrainedAdapter) -> TrainingRecord:
    """How a training went, with what every push was asked and measured to do."""
    return TrainingRecord(
        losses=ended.losses,
        gradient_norms=ended.gradient_norms,
        firings=ended.firings,
        tokens=ended.tokens,
        seconds=ended.seconds,
        pushes=tuple(
            PushAudit(
                asked_ratio=None if audit.push.ratio is None else abs(audit.push.ratio),
                asked_norm=audit.asked_norm,
                achieved_norm=audit.measured.push_norm,
                residual_norm=audit.measured.residual_norm,
                token_ratio=audit.measured.ratio,
                layer=audit.measured.layer,
                positions=audit.measured.positions,
            )
            for audit in ended.pushes
        ),
    )
