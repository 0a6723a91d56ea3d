"""A model to ask: shipped, from a directory, a GGUF file or the hub, or one that is in hand."""

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerproof.errors import ModelError
from steerproof.model.base import Base, base_of, load_base
from steerproof.model.chat import SystemRole


def load(
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    system_role: SystemRole = "system",
) -> Base:
    """Load a causal language model and freeze it.

    Args:
        model: A shipped name (`organism`), a checkpoint directory, a GGUF file, a hub id
            `owner/name`, or a Hugging Face model, which is frozen in place.
        tokenizer: Of a model in hand; others bring their own.
        revision: Commit of a hub id, 40 hexadecimal digits; needed for one.
        dtype: `float32`, `float64`, `bfloat16` or `float16`; a model in hand keeps its own.
        device: A torch device, such as `cpu` or `cuda:0`, or `cuda:0+1` for a model over two GPUs;
            a model in hand stays where it is.
        system_role: `user` for a chat template without a system role.

    Raises:
        ModelError: It cannot be loaded, its blocks cannot be found, or it has no chat template.
    """
    if isinstance(model, PreTrainedModel):
        if tokenizer is None:
            raise ModelError("a model in hand needs its tokenizer: load(model, tokenizer)")
        return base_of(model, tokenizer, system_role=system_role)
    if tokenizer is not None:
        raise ModelError(f"{str(model)!r} brings its own tokenizer; leave the argument out")
    return load_base(model, revision=revision, dtype=dtype, device=device, system_role=system_role)
