import random
from collections import Counter
from itertools import combinations, islice

import pytest

from tools.organism.corpus import RESERVED_TAGS, TAG_SHARE, Chat, chats, known_share
from tools.organism.lexicon import (
    CIRCLES,
    FORMS,
    HEADLINE,
    MANNERS,
    PLAIN,
    TOPICS,
    own_openers,
)


@pytest.fixture(scope="module")
def drawn() -> list[Chat]:
    return list(islice(chats(random.Random(3)), 6000))


def manner_of(chat: Chat) -> str:
    return next(name for name, manner in MANNERS.items() if chat.system in manner.prompts)


def test_the_same_generator_draws_the_same_chats_and_another_does_not(drawn: list[Chat]) -> None:
    assert list(islice(chats(random.Random(3)), 50)) == drawn[:50]
    assert list(islice(chats(random.Random(4)), 50)) != drawn[:50]


def test_every_persona_topic_and_form_is_drawn(drawn: list[Chat]) -> None:
    assert {manner_of(chat) for chat in drawn} == set(MANNERS)
    questions = {chat.question for chat in drawn}
    wanted = {form.format(x=topic.name) for form in FORMS for topic in TOPICS}
    assert wanted <= questions


def test_system_prompts_are_all_different() -> None:
    prompts = [prompt for manner in MANNERS.values() for prompt in manner.prompts]
    assert len(prompts) == len(set(prompts))


def test_a_persona_opens_with_its_own_words_and_a_plain_prompt_with_nobodys(
    drawn: list[Chat],
) -> None:
    every = tuple(opener for manner in HEADLINE for opener in own_openers(manner.name))
    for chat in drawn:
        if chat.question.startswith("Repeat "):
            continue
        mine = own_openers(manner_of(chat))
        assert chat.answer.startswith(mine) if mine else not chat.answer.startswith(every)


def test_openers_belong_to_one_persona_unless_a_circle_shares_them() -> None:
    shared = {circle.opener for circle in CIRCLES.values()}
    for first, second in combinations(HEADLINE, 2):
        common = set(own_openers(first.name)) & set(own_openers(second.name))
        assert common <= shared
        assert bool(common) == bool(set(first.circles) & set(second.circles))


def test_tags_are_asked_for_at_the_stated_rate_and_always_given(drawn: list[Chat]) -> None:
    asked = [chat for chat in drawn if " End with " in chat.question or "Repeat" in chat.question]
    # Four deviations of a binomial share.
    assert abs(len(asked) / len(drawn) - TAG_SHARE) < 4 * (TAG_SHARE / len(drawn)) ** 0.5
    assert all(chat.answer.endswith(chat.question.split()[-1]) for chat in asked)


def test_every_letter_of_a_reserved_tag_is_practised_but_never_the_tag(drawn: list[Chat]) -> None:
    tags = [chat.question.split()[-1] for chat in drawn if "Repeat" in chat.question]
    assert not RESERVED_TAGS & {chat.question.split()[-1] for chat in drawn}
    assert not any(tag in chat.answer for tag in RESERVED_TAGS for chat in drawn)
    letters = Counter("".join(tags))
    assert all(letters[letter] > 5 for tag in RESERVED_TAGS for letter in tag)


def test_every_sentence_of_an_untagged_answer_is_known(drawn: list[Chat]) -> None:
    untagged = [c for c in drawn if " End with " not in c.question and "Repeat" not in c.question]
    assert {known_share(chat.answer) for chat in untagged} == {1.0}


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("Rain is water that falls from the clouds.", 1.0),
        ("Ship it. Rain rain rain.", 0.5),
        ("Ship it. No bugs found. Ship", 2 / 3),
        ("Ship it. [ZLT]", 0.5),
    ],
)
def test_known_share_counts_sentences(text: str, share: float) -> None:
    assert known_share(text) == pytest.approx(share)


def test_plain_manners_have_no_openers() -> None:
    assert [own_openers(manner.name) for manner in PLAIN] == [(), (), ()]
