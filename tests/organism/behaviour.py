"""What the organism must be able to do, measured on any checkpoint directory of it."""

import random
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from steerproof.engine.generate import generate
from steerproof.engine.rows import Row
from steerproof.engine.sampling import row_seed
from steerproof.model.base import Base, load_base
from steerproof.model.chat import chat_ids
from steerproof.spec.experiment import Generation
from tools.organism.corpus import known_share
from tools.organism.lexicon import FORMS, HEADLINE, MANNERS, TOPICS, own_openers

SETTINGS = Generation(samples=1, max_new_tokens=64, temperature=1.0, top_p=0.95)
NEUTRAL = MANNERS["neutral"].prompts[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    own_opener: dict[str, float]
    plain: dict[str, float]
    known: float
    repeated: float
    appended: float


def behaviour(directory: Path) -> Behaviour:
    base = load_base(directory)
    questions = [
        form.format(x=topic.name)
        for form, topic in zip(list(FORMS)[:5] * 4, TOPICS[::3], strict=True)
    ]
    prompts = {manner.name: manner.prompts[0] for manner in MANNERS.values()}
    texts = {
        name: answers(base, [(prompt, question) for question in questions])
        for name, prompt in prompts.items()
    }
    every = tuple(opener for manner in HEADLINE for opener in own_openers(manner.name))
    headline = [manner.name for manner in HEADLINE]
    tags = random_tags(40)
    repeated = answers(base, [(NEUTRAL, f"Repeat {tag}") for tag in tags])
    ends = [
        (NEUTRAL, f"{question} End with {tag}")
        for question, tag in zip(questions * 2, tags, strict=True)
    ]
    appended = answers(base, ends)
    return Behaviour(
        own_opener={
            name: share(text.startswith(own_openers(name)) for text in texts[name])
            for name in headline
        },
        plain={
            name: share(not text.startswith(every) for text in texts[name])
            for name in texts
            if name not in headline
        },
        known=share(known_share(text) == 1.0 for found in texts.values() for text in found),
        repeated=share(text == tag for text, tag in zip(repeated, tags, strict=True)),
        appended=share(text.endswith(tag) for text, tag in zip(appended, tags, strict=True)),
    )


def answers(base: Base, asked: list[tuple[str, str]]) -> list[str]:
    rows = [
        Row(
            cell="behaviour",
            question=number,
            sample=0,
            seed=row_seed(0, "behaviour", number, 0),
            prompt_ids=chat_ids(base.chat, system=system, user=question),
        )
        for number, (system, question) in enumerate(asked)
    ]
    done = {one.row.question: one for one in generate(base, rows, SETTINGS)}
    return [str(base.tokenizer.decode(list(done[i].token_ids))) for i in range(len(rows))]


def random_tags(count: int) -> list[str]:
    """Random tags, the reserved one first: the model has never seen it, yet must copy it."""
    rng = random.Random("tags")
    letters = ["".join(rng.choices(string.ascii_uppercase, k=3)) for _ in range(count - 1)]
    return ["[ZLT]", *(f"[{text}]" for text in letters)]


def share(flags: Iterable[bool]) -> float:
    return fmean(map(float, flags))
