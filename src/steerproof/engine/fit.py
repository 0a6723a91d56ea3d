"""Whether a model is of a kind that can be pooled, told from its configuration, without weights.

The model is built on PyTorch's meta device, where tensors have shapes and no content, and run once
there. What a pool could not compute shows before anything is loaded: attention of its own kind,
experts that no adapter reaches, layers that take rows apart.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from steerproof.errors import ModelError
from steerproof.model.base import find_blocks, token_ids
from steerproof.model.chat import UNREADABLE
from steerproof.model.files import tensors

_PROBE = "steerproof_fit"
_ODD = ("softcap", "s_aux", "position_bias")
"""What attention may be given that the pool's does not compute."""
_BATCH, _LENGTH = 2, 5
_FLOATS = ("F32", "BF16", "F16", "F64")
"""Number types of weights, as safetensors calls them."""
# Positions of a row turn on how long the longest row beside it is.
_SHARED_ROTARY = ("longrope", "dynamic")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a configuration says of its model."""

    name: str
    """Class of the model."""
    blocks: int
    hidden_size: int
    parameters: int
    context: int
    """Largest number of positions."""
    rows: int
    """Tokens that have an embedding."""
    window: int | None
    """Smallest sliding window of a block; None without one."""


def kind_of(directory: Path) -> Kind:
    """Build a checkpoint's model without weights, and refuse what cannot be pooled.

    Raises:
        ModelError: The configuration is unusable, or of a model that cannot be pooled, and why.
    """
    model = skeleton(directory)
    _check_shapes(model, directory)
    config = model.config.get_text_config(decoder=True)
    path, blocks = find_blocks(model)
    _check_linear(model, path, blocks)
    windows = _check_attention(model, blocks)
    context = int(config.max_position_embeddings)
    embedding: Any = model.get_input_embeddings()
    return Kind(
        name=type(model).__name__,
        blocks=len(blocks),
        hidden_size=int(config.hidden_size),
        parameters=sum(weight.numel() for weight in model.parameters()),
        context=min(context, shared_rotary(config) or context),
        rows=int(embedding.weight.shape[0]),
        window=min(windows, default=None),
    )


def skeleton(directory: Path) -> PreTrainedModel:
    """The model of a checkpoint's configuration, on the meta device.

    Raises:
        ModelError: The configuration is unusable, or the model has no attention of the kind needed.
    """
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        if (directory / "generation_config.json").exists():
            token_ids(GenerationConfig.from_pretrained(directory).eos_token_id)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    except UNREADABLE as error:
        if "scaled_dot_product_attention" in str(error):
            raise ModelError(
                f"model.path: {str(directory)!r} is of a kind ({str(error).split()[0]}) whose"
                " attention is not plain scaled dot products (a soft cap, a bias by position, or"
                " sinks), which a pool does not compute"
            ) from error
        lacking = isinstance(error, KeyError)
        why = f"transformers has no {error}, which config.json asks for" if lacking else error
        raise ModelError(f"model.path: cannot read {str(directory)!r}: {why}") from error


def _check_shapes(model: PreTrainedModel, directory: Path) -> None:
    """The weights, as far as they are there, are those of the configuration."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = {name for name, _ in model.named_parameters()}
    found: set[str] = set()
    for path in sorted(directory.glob("*.safetensors")):
        stored = tensors(path)
        found |= stored.keys()
        for name, tensor in stored.items():
            if wanted.get(name, tensor.shape) != tensor.shape:
                raise ModelError(
                    f"model.path: {name} in {str(path)!r} is {list(tensor.shape)}, and config.json"
                    f" makes it {list(wanted[name])}: the two are of different models"
                )
            if name in weights and tensor.dtype not in _FLOATS:
                raise ModelError(
                    f"model.path: {name} in {str(path)!r} is of type {tensor.dtype}; weights are"
                    f" {', '.join(_FLOATS)}"
                )
    missing = _missing(model, found) if found else []
    if missing:
        more = f" and {len(missing) - 3} more" * (len(missing) > 3)
        raise ModelError(
            f"model.path: the weights in {str(directory)!r} lack {', '.join(missing[:3])}{more},"
            f" which config.json gives {type(model).__name__}: they are of another model, or torn"
        )


def _missing(model: PreTrainedModel, found: Collection[str]) -> list[str]:
    """Parameters that no file has, under the names by which transformers looks for them.

    Of a kind whose files are rearranged when they are read nothing is said: loading does.
    """
    names = list(found)
    for renaming in get_model_conversion_mapping(model):
        if not isinstance(renaming, WeightRenaming):
            return []
        for old in renaming.source_patterns:
            names = [re.sub(old, renaming.target_patterns[0], name) for name in names]
    prefix = f"{model.base_model_prefix}."
    bare = {name.removeprefix(prefix) for name in (*names, *found)}
    return [name for name, _ in model.named_parameters() if name.removeprefix(prefix) not in bare]


def _check_linear(model: PreTrainedModel, path: str, blocks: nn.ModuleList) -> None:
    """Every matrix of the blocks must be one that an adapter can go on."""
    name = type(model).__name__
    plain: set[int] = set()
    for inner, module in blocks.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            if type(module) not in (nn.Linear, Conv1D):
                raise ModelError(
                    f"model.path: {path}.{inner} of {name} is a {type(module).__name__}; adapters"
                    " go on plain linear layers only"
                )
            plain.add(id(module.weight))
    left = {n: w for n, w in blocks.named_parameters() if w.ndim > 1 and id(w) not in plain}
    if left:
        size = sum(w.numel() for w in left.values()) / sum(w.numel() for w in blocks.parameters())
        raise ModelError(
            f"model.path: {name} keeps {size:.0%} of its blocks' weights where no adapter reaches"
            f" them ({path}.{next(iter(left))}, ...), as mixtures of experts do; trained without"
            " them it would answer another question"
        )


def _check_attention(model: PreTrainedModel, blocks: nn.ModuleList) -> list[int]:
    """Run once; returns the windows that attention was given."""
    name, seen = type(model).__name__, list[Mapping[str, Any]]()
    flat: list[str] = []

    def shape(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(inputs[0], Tensor) and inputs[0].shape[:2] != (_BATCH, _LENGTH):
            flat.append(f"{type(module).__name__} {tuple(inputs[0].shape)}")

    with _probing(model, seen), ExitStack() as stack:
        for module in blocks.modules():
            if isinstance(module, nn.Linear | Conv1D):
                stack.callback(module.register_forward_pre_hook(shape).remove)
        ids = torch.zeros(_BATCH, _LENGTH, dtype=torch.long, device="meta")
        try:
            with torch.no_grad():
                model(input_ids=ids, use_cache=False)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise ModelError(f"model.path: {name} cannot be run over rows: {error}") from error
    if flat:
        raise ModelError(
            f"model.path: {name} gives its linear layers rows run together ({flat[0]}), so that"
            " adapters cannot tell them apart"
        )
    if len(seen) < len(blocks):
        raise ModelError(
            f"model.path: {name} does not use transformers' attention interface in every block, so"
            " its rows cannot be pooled"
        )
    for odd in _ODD:
        if any(given.get(odd) is not None for given in seen):
            raise ModelError(f"model.path: {name} uses {odd} in its attention, not supported")
    return [int(given["sliding_window"]) for given in seen if given.get("sliding_window")]


@contextmanager
def _probing(model: PreTrainedModel, seen: list[Mapping[str, Any]]) -> Iterator[None]:
    """While inside, attention only notes what it is given, if the model lets it be chosen."""

    def attend(
        _module: nn.Module, query: Tensor, _key: Tensor, value: Tensor, *_: Any, **given: Any
    ) -> tuple[Tensor, None]:
        seen.append(given)
        rows, heads, length = query.shape[:3]
        return value.new_empty(rows, length, heads, value.shape[-1]), None

    ALL_ATTENTION_FUNCTIONS[_PROBE] = attend
    try:
        if model._can_set_attn_implementation():
            model.set_attn_implementation(_PROBE)
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[_PROBE]


def shared_rotary(config: PreTrainedConfig) -> int | None:
    """Positions up to which a row's rotations are its own; None where they always are.

    Beyond them they turn on how long the longest row of a forward pass is.

    Args:
        config: Of the text model.
    """
    rope: Any = getattr(config, "rope_parameters", None) or {}
    nested = bool(rope) and all(isinstance(value, dict) for value in rope.values())
    kinds = list(rope.values()) if nested else [rope]
    limits = [
        kind.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or config.max_position_embeddings
        for kind in kinds
        if kind.get("rope_type") in _SHARED_ROTARY
    ]
    return min(map(int, limits), default=None)
