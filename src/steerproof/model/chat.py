"""The chat template: how a persona, a question and an answer become token ids.

Nothing here needs the model's weights, so a run can be checked before they are loaded.

Prompts are the same on every day: a template that asks for the date is told `_TODAY`. Special
tokens are the template's alone: a text that holds one would end a turn, or begin another one.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from steerproof.errors import ModelError
from steerproof.limits import TooMuchError, bounded

SystemRole = Literal["system", "user"]
TemplateOptions = Mapping[str, str | int | float | bool]
Message = dict[str, Any]
UNREADABLE = (
    *(OSError, ValueError, TypeError, RuntimeError, ImportError, AttributeError, LookupError),
    *(ArithmeticError, AssertionError, MemoryError),
    *(SafetensorError, StrictDataclassError),
)
"""What transformers raises for damaged or contradictory files."""
_TODAY = datetime(2024, 7, 26)  # noqa: DTZ001 (a date that templates print, in nobody's zone)
"""The date that a template is told: the one that Llama's templates fall back to."""
_PROBE = "steerproof probe answer"
RENDER_SECONDS = 10.0
"""Longest time that a template may take for one conversation: usual ones take a millisecond."""
_RENDER_MEMORY = 1 << 30
"""Most memory that a template may ask for, bytes."""
_PROMPTS = 8192
"""Prompts whose tokens are kept: asked for in turn, more than these would be made anew each time.
13 personas with 200 training questions are 2,600."""
_MAX_TEMPLATE_TEXT = 100_000
"""Most characters that a template may add to a conversation."""


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How a model is talked to; it needs no weights."""

    tokenizer: PreTrainedTokenizerBase
    """With a chat template."""
    context: int
    """Largest number of positions, prompt and answer together."""
    system_role: SystemRole = "system"
    """Where persona prompts go: a system message, or the head of the user message."""
    template_options: TemplateOptions = field(default_factory=dict)
    """What the template is told besides the messages, such as `enable_thinking`."""

    @cached_property
    def end_of_turn(self) -> int:
        """The token that the template puts after an answer, the last one to learn.

        It is the added token there, else the tokenizer's own end.

        Raises:
            ModelError: Nothing tells where an answer ends.
        """
        tokenizer = self.tokenizer
        dialogue: list[Message] = [
            {"role": "user", "content": "steerproof probe question"},
            {"role": "assistant", "content": _PROBE},
        ]
        text = _render(self, dialogue, generate=False)
        tail = text[text.find(_PROBE) + len(_PROBE) :] if _PROBE in text else ""
        ids = text_ids(tokenizer, tail)
        # Special or not: checkpoints forget to say so.
        if ids and ids[0] in {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}:
            return ids[0]
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "nothing tells where an answer ends: the chat template puts no special token after"
                " it and the tokenizer has no eos_token"
            )
        return int(tokenizer.eos_token_id)  # type: ignore[arg-type]


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        ModelError: It cannot be read, or has no chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # tokenizers raises nothing narrower for a file of another version
        raise ModelError(
            f"no usable tokenizer in {str(directory)!r}: {error}; if it is whole, its file may be"
            " of another version: upgrade tokenizers and transformers"
        ) from error
    if not isinstance(tokenizer.model_max_length, int | float):
        raise ModelError(
            f"tokenizer_config.json in {str(directory)!r}: model_max_length is"
            f" {tokenizer.model_max_length!r}, not a number"
        )
    check_template(tokenizer)
    return tokenizer


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a chat template, or with several and none for plain chats.

    Raises:
        ModelError: It is so.
    """
    template: Any = tokenizer.chat_template
    if template is None:
        raise ModelError(
            "the tokenizer has no chat template, so a system prompt cannot be told from a question;"
            " add chat_template to tokenizer_config.json, or a chat_template.jinja"
        )
    if isinstance(template, dict) and "default" not in template:
        raise ModelError(
            f"the tokenizer has chat templates named {', '.join(sorted(template))} and none named"
            " default, which is the one that plain chats use; name one of them so"
        )


def chat_ids(chat: ChatFormat, *, system: str, user: str, reserve: int = 0) -> tuple[int, ...]:
    """Token ids of one prompt: system text, question, and the start of the answer.

    Args:
        chat: Whose chat template is used.
        system: The persona prompt or neutral instruction; empty for the empty system prompt.
        user: The question.
        reserve: New tokens that must still fit into the context after the prompt.

    Raises:
        ModelError: The template drops a text or has no system role, a text holds a special token,
            or the prompt does not fit.
    """
    ids = _prompt(chat, system, user).ids
    if len(ids) + reserve > chat.context:
        raise ModelError(
            f"the prompt has {len(ids)} tokens and {reserve} more are to follow, but the model's"
            f" context is {chat.context}; shorten the question or persona {user[:60]!r}, or ask for"
            " fewer new tokens: a prompt is never cut"
        )
    return ids


class Turn(NamedTuple):
    """One question and its answer."""

    system: str
    """The system text; empty for the empty system prompt."""
    user: str
    answer: str
    """Space around it is not learnt."""


def answer_ids(chat: ChatFormat, turn: Turn) -> tuple[int, ...]:
    """Token ids that a row learns; see `all_answer_ids`."""
    return all_answer_ids(chat, [turn])[0]


def all_answer_ids(chat: ChatFormat, turns: Sequence[Turn]) -> list[tuple[int, ...]]:
    """Token ids that rows learn: the answers as the template writes them, and the end of turn.

    Prompt and answer are made into tokens together and the prompt's are cut off: by itself an
    answer may begin with other tokens (sentencepiece puts a space before it), and a template may
    write more before it than a prompt ends with (an empty thought).

    Args:
        chat: Whose chat template is used.
        turns: What is answered to what; all texts are made into tokens at once, each once.

    Raises:
        ModelError: As `chat_ids`.
    """
    written = [_written(chat, turn) for turn in turns]
    made = _all_text_ids(chat.tokenizer, [text for _, text in written])
    ids = []
    for turn, (before, _), both in zip(turns, written, made, strict=True):
        if both[: len(before)] != before:
            # The answer's first letters would have made another token of the prompt's last.
            before, both = (), text_ids(chat.tokenizer, turn.answer.strip())
        ids.append((*both[len(before) :], chat.end_of_turn))
    return ids


def _written(chat: ChatFormat, turn: Turn) -> tuple[tuple[int, ...], str]:
    """The prompt's token ids, and prompt and answer as one text.

    None and the answer alone where the template writes a given answer elsewhere than one to come.
    """
    _check_plain(chat.tokenizer, turn.answer)
    answer = turn.answer.strip()
    prompt = _prompt(chat, turn.system, turn.user)
    said: Message = {"role": "assistant", "content": answer}
    messages = [*_messages(chat.system_role, turn.system, turn.user), said]
    whole = _render(chat, messages, generate=False)
    place = whole.find(answer, len(prompt.text))
    if not whole.startswith(prompt.text) or place < 0:
        return (), answer
    return prompt.ids, whole[: place + len(answer)]


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of a text and nothing else; it may be longer than what the model takes."""
    ids: Any = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return tuple(ids)


def _all_text_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[tuple[int, ...]]:
    """`text_ids` of each, at once: a fast tokenizer shares texts among all processors."""
    different = list(dict.fromkeys(texts))
    if not different:
        return []
    made: Any = tokenizer(different, add_special_tokens=False, verbose=False)["input_ids"]
    ids = dict(zip(different, map(tuple, made), strict=True))
    return [ids[text] for text in texts]


def can_write(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a text is still there when its tokens are made into text again."""
    return text.casefold() in str(tokenizer.decode(list(text_ids(tokenizer, text)))).casefold()


def special_token_in(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    """The first special token that a text holds, spelt out; None if it holds none."""
    return next((token for token in _special(tokenizer) if token in text), None)


@lru_cache(maxsize=8)
def _special(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    added = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    return tuple(sorted(token for token in added | set(tokenizer.all_special_tokens) if token))


class _Rendered(NamedTuple):
    text: str
    ids: tuple[int, ...]


def _prompt(chat: ChatFormat, system: str, user: str) -> _Rendered:
    options = tuple(chat.template_options.items())
    written = repr(chat.tokenizer.chat_template), len(chat.tokenizer)
    return _remembered(chat.tokenizer, written, chat.system_role, options, system, user)


@lru_cache(maxsize=_PROMPTS)
def _remembered(
    tokenizer: PreTrainedTokenizerBase,
    written: tuple[str, int],
    system_role: SystemRole,
    options: tuple[tuple[str, str | int | float | bool], ...],
    system: str,
    user: str,
) -> _Rendered:
    """A prompt: few are different, and every cell and adapter asks for them again.

    A tokenizer that somebody has in hand can be given another template, or more tokens (`written`).
    """
    del written
    chat = ChatFormat(
        tokenizer=tokenizer, context=0, system_role=system_role, template_options=dict(options)
    )
    for text in (system, user):
        _check_plain(tokenizer, text)
    text = _render(chat, _messages(system_role, system, user), generate=True)
    if not _holds(text, system, user):
        raise ModelError(_dropped(chat, text, system, user))
    return _Rendered(text, text_ids(tokenizer, text))


def _check_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    token = special_token_in(tokenizer, text)
    if token is not None:
        raise ModelError(
            f"the text {text[:60]!r} holds {token!r}, a special token of this model: it would not"
            " be read as text; take it out"
        )


def _messages(system_role: SystemRole, system: str, user: str) -> list[Message]:
    if system_role == "system":
        # An empty system message is sent too: without one, some templates insert their own.
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return [{"role": "user", "content": f"{system}\n\n{user}" if system else user}]


def _render(chat: ChatFormat, messages: Sequence[Message], *, generate: bool) -> str:
    options: Any = dict(chat.template_options)
    try:
        with _always_today(), bounded(RENDER_SECONDS, _RENDER_MEMORY):
            text = str(
                chat.tokenizer.apply_chat_template(
                    list(messages),
                    tokenize=False,
                    add_generation_prompt=generate,
                    **options,
                )
            )
    except TooMuchError as error:
        raise ModelError(f"the chat template has no end: {error}; give another one") from error
    except Exception as error:  # a template is a program: it can raise whatever it likes
        raise ModelError(
            f"the chat template refuses this conversation: {error}; if it has no system role, set"
            " model.system_role: user, which puts the persona prompt before the question"
        ) from error
    given = sum(len(str(message["content"])) for message in messages)
    if len(text) > given + _MAX_TEMPLATE_TEXT:
        raise ModelError(
            f"the chat template makes {len(text):,} characters of a conversation of {given:,};"
            f" at most {_MAX_TEMPLATE_TEXT:,} may be its own: give another one"
        )
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ModelError("the chat template writes what is no text (a lone surrogate)")
    return text


class _Today(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "_Today":  # noqa: ARG003 (the clock's own signature)
        """`_TODAY`."""
        return cls(_TODAY.year, _TODAY.month, _TODAY.day)


@contextmanager
def _always_today() -> Iterator[None]:
    """While inside, transformers tells templates one date; it lets no caller say which."""
    setattr(chat_template_utils, "datetime", _Today)  # noqa: B010 (types say it is a class)
    try:
        yield
    finally:
        setattr(chat_template_utils, "datetime", datetime)  # noqa: B010


def _holds(text: str, system: str, user: str) -> bool:
    """Whether both texts are there, in their order."""
    start = text.find(system.strip())
    return start >= 0 and text.find(user.strip(), start + len(system.strip())) >= 0


def _dropped(chat: ChatFormat, text: str, system: str, user: str) -> str:
    """Why a text is missing from a prompt, and what helps."""
    parts = [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        for message in _messages(chat.system_role, system, user)
    ]
    try:
        written = _render(chat, parts, generate=True)
        wants_parts = _holds(written, system, user) and "'type': 'text'" not in written
    except ModelError:
        wants_parts = False
    if wants_parts:
        return (
            "the chat template wants the content of a message as a list of parts, as models for"
            " images do, and drops plain text; such a template is not supported: give the"
            " checkpoint a chat_template.jinja that takes text"
        )
    missing = "the question" if user.strip() not in text else "the system prompt"
    return (
        f"the chat template drops {missing}: it rendered {text[:200]!r}; if it has no system role,"
        " set model.system_role: user"
    )
