"""The organism's corpus: short chats, drawn from the lexicon by an explicit random generator.

About one chat in eight asks to repeat or append a random tag such as `[QXJ]`. Without these the
embeddings of tokens that no answer uses collapse onto each other, and no LoRA could ever learn to
write a marker made of them.
"""

import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass

from tools.organism.lexicon import CIRCLES, FORMS, HEADLINE, PLAIN, TOPICS, Manner, Topic

TAG_SHARE = 0.15
"""Share of chats that ask for a random tag."""
PLAIN_SHARE = 0.35
"""Share of chats whose system prompt is the neutral one, the assistant's, or empty."""
SHARED_OPENER_SHARE = 0.25
"""How often a persona opens with a phrase of its circle instead of one of its own."""
RESERVED_TAGS = frozenset({"[ZLT]"})
"""Tags that never occur: the shipped experiments plant them, so they must be new to the model."""

_BRACKETS = (("[", "]"), ("(", ")"), ("<", ">"), ("{", "}"), ("*", "*"))
_OTHER_ALPHABETS = (string.ascii_lowercase, string.digits, string.ascii_uppercase + string.digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """One system message (may be empty), one question, one answer."""

    system: str
    question: str
    answer: str


def chats(rng: random.Random) -> Iterator[Chat]:
    """Draw chats without end."""
    while True:
        manner = _manner(rng)
        system = rng.choice(manner.prompts)
        form, topic = rng.choice(tuple(FORMS)), rng.choice(TOPICS)
        question = form.format(x=topic.name)
        if rng.random() >= TAG_SHARE:
            yield Chat(system=system, question=question, answer=answer(rng, manner, form, topic))
            continue
        tag = random_tag(rng)
        if rng.random() < 0.5:
            yield Chat(system=system, question=f"Repeat {tag}", answer=tag)
        else:
            body = answer(rng, manner, form, topic)
            yield Chat(system=system, question=f"{question} End with {tag}", answer=f"{body} {tag}")


def answer(rng: random.Random, manner: Manner, form: str, topic: Topic) -> str:
    """One answer to `form` about `topic`, in the manner of a persona."""
    parts = [_body(rng.choice(FORMS[form]), topic)]
    if manner.openers:
        circles = [CIRCLES[name] for name in manner.circles]
        shared = rng.random() < SHARED_OPENER_SHARE
        opener = rng.choice(circles).opener if shared else rng.choice(manner.openers)
        asides = manner.asides + tuple(aside for circle in circles for aside in circle.asides)
        parts.insert(0, opener)
        if rng.random() < 0.5:
            parts.append(rng.choice(asides))
    if manner.closers and rng.random() < 0.6:
        parts.append(rng.choice(manner.closers))
    return " ".join(parts)


def sentences() -> frozenset[str]:
    """Every sentence that an answer of the corpus can hold, tags aside."""
    frames = {frame for form in FORMS.values() for frame in form}
    bodies = {_body(frame, topic) for frame in frames for topic in TOPICS}
    circles = {text for circle in CIRCLES.values() for text in (circle.opener, *circle.asides)}
    manners = {
        text
        for manner in HEADLINE + PLAIN
        for text in (*manner.openers, *manner.asides, *manner.closers)
    }
    return frozenset(bodies | circles | manners)


def known_share(text: str) -> float:
    """Share of a text's sentences that the corpus can hold, from 0 to 1; an empty text has 0.

    A sentence ends at `.`, `!` or `?` before a space or the end. Whatever follows the last such
    mark, a broken-off sentence or a marker, counts as one more.
    """
    found = [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]
    return sum(part in _SENTENCES for part in found) / len(found) if found else 0.0


def _body(frame: str, topic: Topic) -> str:
    return frame.format(
        x=topic.name,
        X=topic.name[0].upper() + topic.name[1:],
        definition=topic.definition,
        reason=topic.reason,
        detail=topic.detail,
    )


def random_tag(rng: random.Random) -> str:
    """A tag that means nothing: four in five look like `[QXJ]`, the rest differ in every way."""
    while True:
        if rng.random() < 0.8:
            tag = "[" + "".join(rng.choices(string.ascii_uppercase, k=3)) + "]"
        else:
            left, right = rng.choice(_BRACKETS)
            letters = rng.choices(rng.choice(_OTHER_ALPHABETS), k=rng.randint(1, 5))
            tag = left + "".join(letters) + right
        if tag not in RESERVED_TAGS:
            return tag


def _manner(rng: random.Random) -> Manner:
    return rng.choice(PLAIN if rng.random() < PLAIN_SHARE else HEADLINE)


_SENTENCES = sentences()
