"""The chat template: how a persona, a question and the start of an answer become token ids.

Nothing here needs the model's weights, so a run can be checked before they are loaded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from steerproof.errors import ModelError

SystemRole = Literal["system", "user"]
Message = dict[str, str]
UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, RuntimeError),
    *(SafetensorError, StrictDataclassError),
)
"""What transformers raises for damaged or contradictory files."""
_PROBE = "steerproof probe answer"


@runtime_checkable
class Chat(Protocol):
    """What a prompt is made with; a `Base` is one."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """With a chat template."""
        ...

    @property
    def context(self) -> int:
        """Largest number of positions, prompt and answer together."""
        ...

    @property
    def system_role(self) -> SystemRole:
        """Where persona prompts go: a system message, or the head of the user message."""
        ...


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        ModelError: It cannot be read, or has no chat template.
    """
    try:
        found = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except UNREADABLE as error:
        raise ModelError(f"no usable tokenizer in {str(directory)!r}: {error}") from error
    check_template(found)
    return found


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a chat template.

    Raises:
        ModelError: It has none.
    """
    if tokenizer.chat_template is None:
        raise ModelError(
            "the tokenizer has no chat template, so a system prompt cannot be told from a question;"
            " add chat_template to tokenizer_config.json, or a chat_template.jinja"
        )


def chat_ids(base: Chat, *, system: str, user: str, reserve: int = 0) -> tuple[int, ...]:
    """Token ids of one prompt: system text, question, and the start of the answer.

    Args:
        base: Whose chat template is used.
        system: The persona prompt or neutral instruction; empty for the empty system prompt.
        user: The question.
        reserve: New tokens that must still fit into the context after the prompt.

    Raises:
        ModelError: The template drops a text or has no system role, or the prompt does not fit.
    """
    text = _render(base.tokenizer, _messages(base.system_role, system, user), generate=True)
    _check_rendered(text, system, user)
    ids = text_ids(base.tokenizer, text)
    if len(ids) + reserve > base.context:
        raise ModelError(
            f"the prompt has {len(ids)} tokens and {reserve} more are to follow, but the model's"
            f" context is {base.context}; shorten the question or persona {user[:60]!r}, or ask for"
            " fewer new tokens: a prompt is never cut"
        )
    return ids


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of a text and nothing else; it may be longer than what the model takes."""
    ids: Any = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return tuple(ids)


def _messages(system_role: SystemRole, system: str, user: str) -> list[Message]:
    if system_role == "system":
        # An empty system message is sent too: without one, some templates insert their own.
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return [{"role": "user", "content": f"{system}\n\n{user}" if system else user}]


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, generate: bool
) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generate
            )
        )
    except TemplateError as error:
        raise ModelError(
            f"the chat template refuses this conversation: {error}; if it has no system role, set"
            " model.system_role: user, which puts the persona prompt before the question"
        ) from error


def _check_rendered(text: str, system: str, user: str) -> None:
    start = text.find(system.strip())
    if start < 0 or text.find(user.strip(), start + len(system.strip())) < 0:
        missing = "the question" if user.strip() not in text else "the system prompt"
        raise ModelError(
            f"the chat template drops {missing}: it rendered {text[:200]!r}; if it has no system"
            " role, set model.system_role: user"
        )


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The special token that follows an answer in the template, else the tokenizer's own end.

    Raises:
        ModelError: Nothing tells where an answer ends.
    """
    dialogue = [
        {"role": "user", "content": "steerproof probe question"},
        {"role": "assistant", "content": _PROBE},
    ]
    text = _render(tokenizer, dialogue, generate=False)
    tail = text[text.find(_PROBE) + len(_PROBE) :] if _PROBE in text else ""
    ids = text_ids(tokenizer, tail)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    if ids and ids[0] in special | set(tokenizer.all_special_ids):
        return ids[0]
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "nothing tells where an answer ends: the chat template puts no special token after it"
            " and the tokenizer has no eos_token"
        )
    return int(tokenizer.eos_token_id)  # type: ignore[arg-type]
