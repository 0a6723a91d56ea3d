"""The frozen base model: loaded once, its blocks found by structure, its prompts never cut.

Everything else in the package works on a `Base`. It says where the decoder blocks are, what a
prompt looks like in token ids, and which token ends an answer.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from steerproof.errors import ModelError
from steerproof.model.chat import (
    UNREADABLE,
    ChatFormat,
    SystemRole,
    TemplateOptions,
    check_template,
    load_tokenizer,
)
from steerproof.model.files import check_files, find_directory, hashing
from steerproof.model.split import deal_out, devices_named, join

_DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A frozen causal language model and how to talk to it."""

    model: PreTrainedModel
    """In eval mode; no parameter requires a gradient."""
    chat: ChatFormat
    blocks: nn.ModuleList
    """The decoder blocks. `layer` in this package is an index into this list."""
    block_path: str
    """Module path of `blocks`, for example `model.layers`."""
    hidden_size: int
    """Width of the residual stream."""
    eos_ids: frozenset[int]
    """Tokens that end an answer, the template's end of turn among them."""
    pad_id: int
    device: torch.device
    dtype: torch.dtype
    files: Mapping[str, str]
    """File name -> sha256 of every file the model was loaded from."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The chat's, for who works on the model with Hugging Face's own functions."""
        return self.chat.tokenizer


def load_base(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    system_role: SystemRole = "system",
    template_options: TemplateOptions | None = None,
) -> Base:
    """Load a model from a local directory, or from the hub at a pinned revision.

    Safetensors only; remote code never.

    Args:
        path: Directory of a Hugging Face checkpoint, or a hub id `owner/name`.
        revision: 40 hexadecimal digits of a commit; needed for a hub id.
        dtype: One of `_DTYPES`.
        device: A torch device, for example `cpu` or `cuda:0`; `cuda:0+1` deals the blocks to two
            GPUs.
        system_role: `user` for chat templates without a system role.
        template_options: What the chat template is told besides, such as `enable_thinking`.

    Raises:
        ModelError: The directory, weights, tokenizer, template or revision is unusable.
    """
    if dtype not in _DTYPES:
        raise ModelError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    directory = find_directory(path, revision)
    with hashing(directory) as hashes:
        tokenizer = load_tokenizer(directory)
        model = _load_model(directory, _DTYPES[dtype])
        deal_out(model, find_blocks(model)[1], devices_named(device))
        _check_finite(model.named_parameters(), str(path))
        base = base_of(
            model,
            tokenizer,
            files=hashes(),
            system_role=system_role,
            template_options=template_options,
        )
    if base.device.type == "cuda":
        torch.cuda.set_device(base.device)  # Kernels are launched on the current device.
    return base


def base_of(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    files: Mapping[str, str] | None = None,
    system_role: SystemRole = "system",
    template_options: TemplateOptions | None = None,
) -> Base:
    """Freeze a model that is already in memory and find its parts.

    Raises:
        ModelError: The blocks cannot be found, or the tokenizer lacks what a chat needs.
    """
    check_template(tokenizer)
    model.eval().requires_grad_(False)
    block_path, blocks = find_blocks(model)
    text_config = model.config.get_text_config(decoder=True)
    chat = ChatFormat(
        tokenizer=tokenizer,
        context=int(text_config.max_position_embeddings),
        system_role=system_role,
        template_options=dict(template_options or {}),
    )
    eos_ids = frozenset(
        {chat.end_of_turn}
        | token_ids(getattr(model.generation_config, "eos_token_id", None))
        | token_ids(tokenizer.eos_token_id)
    )
    pad_id: Any = tokenizer.pad_token_id
    pad_id = chat.end_of_turn if pad_id is None else pad_id
    _check_token_ids(model, tokenizer, {*eos_ids, int(pad_id)})
    weight = next(model.parameters())
    join(model, block_path, blocks, weight.device)
    return Base(
        model=model,
        chat=chat,
        blocks=blocks,
        block_path=block_path,
        hidden_size=int(text_config.hidden_size),
        eos_ids=eos_ids,
        pad_id=int(pad_id),
        device=weight.device,
        dtype=weight.dtype,
        files=dict(files or {}),
    )


def _check_token_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Collection[int]
) -> None:
    """Refuse tokens that the model has no embedding for.

    Raises:
        ModelError: One of `ids` is beyond the embedding.
    """
    embedding: Any = model.get_input_embeddings()
    rows = int(embedding.weight.shape[0])
    beyond = sorted(token for token in ids if token >= rows)
    if beyond:
        names = ", ".join(f"{tokenizer.convert_ids_to_tokens(one)} ({one})" for one in beyond)
        raise ModelError(
            f"the tokenizer's {names} has no embedding: the model has {rows} rows, 0 to {rows - 1};"
            " choose another pad or end token in tokenizer_config.json, or resize the embedding"
        )


def check_weights(directory: Path, named: str) -> None:
    """Refuse a checkpoint whose weights are no numbers, as far as they are on this machine.

    Args:
        directory: The checkpoint's; of a GGUF file, what it was converted into.
        named: The checkpoint as the user knows it.

    Raises:
        ModelError: One is NaN or infinite.
    """
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            _check_finite(((name, file.get_tensor(name)) for name in file.keys()), named)  # noqa: SIM118 (no mapping)


def _check_finite(weights: Iterable[tuple[str, torch.Tensor]], named: str) -> None:
    """Refuse weights that are no numbers, before everything that they touch is none either.

    A sum is not finite where one of its terms is not: one pass, where the weights are by now.

    Raises:
        ModelError: One is NaN or infinite.
    """
    for name, weight in weights:
        if not weight.is_floating_point() or torch.isfinite(weight.sum(dtype=torch.float32)):
            continue
        odd = int((~torch.isfinite(weight)).sum())  # none, where finite ones add up to infinity
        if odd:
            raise ModelError(
                f"{name} in {named!r} holds {odd:,} of {weight.numel():,} weights that are"
                " NaN or infinite; fetch the checkpoint again, or load it with a wider model.dtype"
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


def token_ids(value: Any) -> set[int]:
    """The token ids in what configurations hold: None, one id, or a list of them.

    Raises:
        ModelError: It is none of these.
    """
    listed = [] if value is None else value if isinstance(value, list | tuple) else [value]
    if any(not isinstance(one, int) or one < 0 for one in listed):
        raise ModelError(
            f"eos_token_id is {value!r}, not a token's number or a list of such; mend"
            " generation_config.json or config.json"
        )
    return set(listed)


def _load_model(directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    check_files(directory)
    disable_progress_bar()  # progress is the command line's to show
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
    except UNREADABLE as error:
        raise ModelError(f"cannot load the model in {str(directory)!r}: {error}") from error
    wrong = {k: sorted(map(str, info[k])) for k in ("missing_keys", "mismatched_keys") if info[k]}
    if wrong:
        raise ModelError(f"the weights in {str(directory)!r} do not fit its config.json: {wrong}")
    return model
