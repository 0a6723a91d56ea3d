"""The frozen base model: loaded once, its blocks found by structure, its prompts never cut.

Everything else in the package works on a `Base`. It says where the decoder blocks are, what a
prompt looks like in token ids, and which token ends an answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from steerproof.errors import ModelError
from steerproof.model.files import file_hashes, find_directory

SystemRole = Literal["system", "user"]
Message = dict[str, str]

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# What transformers raises for damaged or contradictory files.
_UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, RuntimeError),
    *(SafetensorError, StrictDataclassError),
)
_PROBE = "steerproof probe answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A frozen causal language model with its tokenizer."""

    model: PreTrainedModel
    """In eval mode; no parameter requires a gradient."""
    tokenizer: PreTrainedTokenizerBase
    blocks: nn.ModuleList
    """The decoder blocks. `layer` in this package is an index into this list."""
    block_path: str
    """Module path of `blocks`, for example `model.layers`."""
    hidden_size: int
    """Width of the residual stream."""
    context: int
    """Largest number of positions, prompt and answer together."""
    eos_ids: frozenset[int]
    """Tokens that end an answer, the template's end of turn among them."""
    end_of_turn: int
    """The token the chat template puts after an answer: the last token to learn."""
    pad_id: int
    device: torch.device
    dtype: torch.dtype
    files: Mapping[str, str]
    """File name -> sha256 of every file the model was loaded from."""
    system_role: SystemRole
    """Where persona prompts go: a system message, or the head of the user message."""


def load_base(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    system_role: SystemRole = "system",
) -> Base:
    """Load a model from a local directory, or from the hub at a pinned revision.

    Safetensors only; remote code never.

    Args:
        path: Directory of a Hugging Face checkpoint, or a hub id `owner/name`.
        revision: 40 hexadecimal digits of a commit; needed for a hub id.
        dtype: One of `DTYPES`.
        device: A torch device, for example `cpu` or `cuda:0`.
        system_role: `user` for chat templates without a system role.

    Raises:
        ModelError: The directory, weights, tokenizer, template or revision is unusable.
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    directory = find_directory(path, revision)
    tokenizer = _load_tokenizer(directory)
    model = _load_model(directory, DTYPES[dtype]).to(torch.device(device))  # type: ignore[arg-type]
    return base_of(model, tokenizer, files=file_hashes(directory), system_role=system_role)


def base_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    files: Mapping[str, str] | None = None,
    system_role: SystemRole = "system",
) -> Base:
    """Freeze a model that is already in memory and find its parts.

    Raises:
        ModelError: The blocks cannot be found, or the tokenizer lacks what a chat needs.
    """
    if tokenizer.chat_template is None:
        raise ModelError(
            "the tokenizer has no chat template, so a system prompt cannot be told from a question;"
            " add chat_template to tokenizer_config.json, or a chat_template.jinja"
        )
    model.eval().requires_grad_(False)
    block_path, blocks = find_blocks(model)
    text_config = model.config.get_text_config(decoder=True)
    end_of_turn = _end_of_turn(tokenizer)
    eos_ids = frozenset(
        {end_of_turn}
        | _ids(getattr(model.generation_config, "eos_token_id", None))
        | _ids(tokenizer.eos_token_id)
    )
    pad_id: Any = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_of_turn
    weight = next(model.parameters())
    return Base(
        model=model,
        tokenizer=tokenizer,
        blocks=blocks,
        block_path=block_path,
        hidden_size=int(text_config.hidden_size),
        context=int(text_config.max_position_embeddings),
        eos_ids=eos_ids,
        end_of_turn=end_of_turn,
        pad_id=int(pad_id),
        device=weight.device,
        dtype=weight.dtype,
        files=dict(files or {}),
        system_role=system_role,
    )


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the decoder blocks by structure, not by the model's name.

    They are the outermost `ModuleList` of same-class modules that is as long as the configuration
    says the decoder is deep.

    Returns:
        The list's module path and the list.

    Raises:
        ModelError: None, or more than one, fits.
    """
    config: Any = model.config
    depth = config.get_text_config(decoder=True).num_hidden_layers
    lists = {p: m for p, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    fits = [p for p, m in lists.items() if len(m) == depth and len({type(b) for b in m}) == 1]
    # A block may itself hold a list of the same length (experts): the outermost one is the stack.
    outer = [p for p in fits if not any(p.startswith(f"{q}.") for q in fits)]
    if len(outer) != 1:
        seen = ", ".join(f"{p} ({len(m)})" for p, m in lists.items()) or "none"
        raise ModelError(
            f"found {len(outer)} lists of {depth} equal decoder blocks in {type(model).__name__},"
            f" need exactly one; module lists and their lengths: {seen}"
        )
    return outer[0], lists[outer[0]]


def chat_ids(base: Base, *, system: str, user: str, reserve: int = 0) -> tuple[int, ...]:
    """Token ids of one prompt: system text, question, and the start of the answer.

    Args:
        base: The model whose chat template is used.
        system: The persona prompt or neutral instruction; empty for the empty system prompt.
        user: The question.
        reserve: New tokens that must still fit into the context after the prompt.

    Raises:
        ModelError: The template drops a text or has no system role, or the prompt does not fit.
    """
    text = _render(base.tokenizer, _messages(base.system_role, system, user), generate=True)
    _check_rendered(text, system, user)
    ids = tuple(base.tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]
    if len(ids) + reserve > base.context:
        raise ModelError(
            f"the prompt has {len(ids)} tokens and {reserve} more are to follow, but the model's"
            f" context is {base.context}; shorten the question or persona {user[:60]!r}, or ask for"
            " fewer new tokens: a prompt is never cut"
        )
    return ids


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


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The special token that follows an answer in the template, else the tokenizer's own end."""
    dialogue = [
        {"role": "user", "content": "steerproof probe question"},
        {"role": "assistant", "content": _PROBE},
    ]
    text = _render(tokenizer, dialogue, generate=False)
    tail = text[text.find(_PROBE) + len(_PROBE) :] if _PROBE in text else ""
    ids: list[int] = list(tokenizer(tail, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    if ids and ids[0] in special | set(tokenizer.all_special_ids):
        return ids[0]
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "nothing tells where an answer ends: the chat template puts no special token after it"
            " and the tokenizer has no eos_token"
        )
    return int(tokenizer.eos_token_id)  # type: ignore[arg-type]


def _ids(value: Any) -> set[int]:
    """The token ids in what configurations hold: None, one id, or a list of them."""
    if value is None:
        return set()
    return {value} if isinstance(value, int) else {int(v) for v in value}


def _load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except _UNREADABLE as error:
        raise ModelError(f"no usable tokenizer in {str(directory)!r}: {error}") from error


def _load_model(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    names = sorted(p.name for p in directory.iterdir())
    if "config.json" not in names or not any(n.endswith(".safetensors") for n in names):
        raise ModelError(
            f"no weights in {str(directory)!r}: need config.json and *.safetensors, found"
            f" {', '.join(names) or 'an empty directory'}"
        )
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            # Reported below by name, instead of in a table on the log.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        model, info = loaded
    except _UNREADABLE as error:
        raise ModelError(f"cannot load the model in {str(directory)!r}: {error}") from error
    wrong = {k: sorted(map(str, info[k])) for k in ("missing_keys", "mismatched_keys") if info[k]}
    if wrong:
        raise ModelError(f"the weights in {str(directory)!r} do not fit its config.json: {wrong}")
    return model
