"""Adapters from chats: many trained at once, each as if it were alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from steerproof.door.adapter import Adapter
from steerproof.engine.jobs import AdapterJob, FailedAdapter, Pooling, TrainedAdapter
from steerproof.engine.lora.peft_files import write_peft
from steerproof.engine.train import train as train_pool
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.chat import Turn
from steerproof.model.push import Push
from steerproof.spec.experiment import Training
from steerproof.study.teach import examples_of, recipe_of, record_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """One chat to learn from; its answer and the end of turn are learned."""

    user: str
    answer: str
    system: str = ""
    push: Push | None = None
    """Added to the residual stream at every token of the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One adapter to be trained."""

    name: str
    chats: Sequence[Chat]
    seed: int = 0
    """Decides its first weights, the order of its chats and its dropout."""


def train(
    base: Base, jobs: Sequence[Job], recipe: Training | None = None, *, base_name: str = ""
) -> list[Adapter]:
    """Train LoRA adapters in one pool; none depends on which others are in it.

    Args:
        base: The frozen model.
        jobs: Each of another name.
        recipe: Rank, learning rate, epochs and the like; None takes `Training()`.
        base_name: What the files call the base model.

    Returns:
        An adapter per job, in their order; `save` writes PEFT's files.

    Raises:
        ModelError: A row is too long, or an adapter diverged.
        SteeringError: A push does not fit, or did not arrive as it was asked for.
    """
    numbers = recipe or Training()
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise ModelError(f"two jobs have one name: {', '.join(names)}")
    asked = [_job(base, job) for job in jobs]
    pooling = Pooling(checkpointing=numbers.gradient_checkpointing)
    ended = {done.key: done for done in train_pool(base, asked, recipe_of(numbers), pooling)}
    for done in ended.values():
        if isinstance(done, FailedAdapter):
            raise done.error
    return [
        _adapter(base, done, base_name)
        for name in names
        if isinstance(done := ended[name], TrainedAdapter)
    ]


def _job(base: Base, job: Job) -> AdapterJob:
    turns = [Turn(chat.system, chat.user, chat.answer) for chat in job.chats]
    examples = examples_of(base, turns, [chat.push for chat in job.chats])
    return AdapterJob(key=job.name, examples=examples, seed=job.seed)


def _adapter(base: Base, done: TrainedAdapter, base_name: str) -> Adapter:
    return Adapter(
        name=done.key,
        source=done.weights,
        files=write_peft(base, done.weights, base_name),
        record=record_of(done),
    )
