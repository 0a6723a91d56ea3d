"""Texts: drawn from a model, or scored by it; with an adapter and a push, or bare."""

from collections.abc import Sequence

from torch import Tensor

from steerproof.door.adapter import AnyAdapter, weights_of
from steerproof.engine.generate import generate
from steerproof.engine.rows import Row
from steerproof.engine.sampling import row_seed
from steerproof.engine.score import score as teacher_forced
from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids, text_ids
from steerproof.model.push import Push
from steerproof.spec.experiment import Generation
from steerproof.study.measure import completions_of
from steerproof.study.measured import Completion

_CELL = "complete"


def complete(
    base: Base,
    prompts: str | Sequence[str],
    *,
    system: str | None = None,
    push: Push | None = None,
    adapter: AnyAdapter = None,
    samples: int = 1,
    seed: int = 0,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 0.95,
) -> list[Completion]:
    """Draw completions of user messages, all in one pool.

    The text of a completion depends on its prompt, number and seed, never on its neighbours.

    Args:
        base: The model.
        prompts: One user message or several.
        system: System prompt; None is the empty one.
        push: Added to the residual stream at the tokens that it says.
        adapter: Put on the model; None for the bare one.
        samples: Completions of each message.
        seed: Root of every draw.
        max_new_tokens: A completion of that length ends with finish reason `length`.
        temperature: Divisor of the logits.
        top_p: Mass of the nucleus.

    Returns:
        Message by message, sample by sample.

    Raises:
        ModelError: A prompt does not fit, or the adapter does not.
        SteeringError: The push does not fit.
    """
    asked = [prompts] if isinstance(prompts, str) else list(prompts)
    settings = Generation(
        samples=samples, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens
    )
    weights = weights_of(base, adapter)
    rows = [
        Row(
            cell=_CELL,
            question=number,
            sample=sample,
            seed=row_seed(seed, _CELL, number, sample),
            prompt_ids=ids,
            adapter=weights,
            push=push,
        )
        for number, prompt in enumerate(asked)
        for ids in [chat_ids(base.chat, system=system or "", user=prompt, reserve=max_new_tokens)]
        for sample in range(samples)
    ]
    drawn = completions_of(base, list(generate(base, rows, settings)), max_new_tokens)
    return sorted(drawn, key=lambda done: (done.question, done.sample))


def score(
    base: Base,
    prompts: str | Sequence[str],
    texts: Sequence[str],
    *,
    system: str | None = None,
    push: Push | None = None,
    adapter: AnyAdapter = None,
) -> list[Tensor]:
    """Log-probabilities of given answers, teacher-forced, at temperature 1.

    Args:
        base: The model.
        prompts: The user message of each answer, or one for all.
        texts: The answers, as if the model had begun to say them; a space is not added.
        system: System prompt; None is the empty one.
        push: Added to the residual stream at the tokens that it says.
        adapter: Put on the model; None for the bare one.

    Returns:
        For each answer one number a token, float32, in nats.

    Raises:
        ModelError: A text is empty or too long, or there are not as many prompts as answers.
        SteeringError: The push does not fit.
    """
    asked = [prompts] * len(texts) if isinstance(prompts, str) else list(prompts)
    if len(asked) != len(texts):
        raise ModelError(
            f"{len(asked)} prompts for {len(texts)} answers; give one prompt, or one for each"
        )
    weights = weights_of(base, adapter)
    rows = [
        Row(
            cell=_CELL,
            question=number,
            sample=0,
            seed=number,
            prompt_ids=chat_ids(base.chat, system=system or "", user=prompt),
            adapter=weights,
            push=push,
        )
        for number, prompt in enumerate(asked)
    ]
    return teacher_forced(base, rows, [text_ids(base.tokenizer, text) for text in texts])
