"""What must be known of a model to read a table of vectors: how deep and how wide it is."""

from dataclasses import dataclass

from transformers import AutoConfig

from steerproof.errors import ModelError
from steerproof.model.base import Base
from steerproof.model.chat import UNREADABLE
from steerproof.model.files import find_directory, read_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's depth and width."""

    model: str
    """Directory, shipped name or hub id."""
    revision: str | None = None
    """Commit of a hub id."""
    model_type: str
    """Architecture, as config.json calls it."""
    blocks: int
    """Decoder blocks."""
    hidden_size: int
    """Width of the residual stream."""


def shape_in_memory(base: Base, model: str) -> Shape:
    """The shape of a model that is loaded.

    Args:
        base: The model.
        model: What it is called.
    """
    return Shape(
        model=model,
        model_type=str(base.model.config.model_type),
        blocks=len(base.blocks),
        hidden_size=base.hidden_size,
    )


def shape_of(model: str, revision: str | None = None) -> Shape:
    """Read a model's configuration; no weights are loaded.

    Raises:
        ModelError: There is no such model, or its configuration cannot be read.
    """
    directory = find_directory(model, revision)
    read_config(directory)
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        text = config.get_text_config(decoder=True)
        return Shape(
            model=model,
            revision=revision,
            model_type=config.model_type,
            blocks=int(text.num_hidden_layers),
            hidden_size=int(text.hidden_size),
        )
    except UNREADABLE as error:
        raise ModelError(f"cannot read the configuration in {str(directory)!r}: {error}") from error
