"""Sizes of a decoder from its config.json, without loading it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BYTES = {"float32": 4, "bfloat16": 2}
"""Of one number."""
_TRAINING_BYTES = 18
"""Of one LoRA parameter in training: weight, gradient, two moments in float32, and a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What memory and disk depend on."""

    parameters: int
    """Of the base model."""
    lora_per_rank: int
    """Parameters that one rank adds over all linear layers of the blocks: sum of in + out."""
    cache_per_token: int
    """Numbers in the key-value cache of one token: 2 x blocks x key-value heads x head width."""


def shape_of(config: Mapping[str, Any]) -> Footprint | None:
    """Read the shape of a decoder with gated feed-forward blocks (Llama, Qwen, Mistral, Gemma).

    Returns None for another structure, or where a size is no whole number above 0. Norms and
    biases, less than 0.1%, are left out.
    """
    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = [config.get(name) for name in (*needed, "vocab_size")]
    more = [config.get(name) for name in ("num_key_value_heads", "head_dim")]
    if not all(map(_is_size, [*sizes, *(size for size in more if size is not None)])):
        return None
    hidden, wide, blocks, heads, words = (int(size) for size in sizes if size is not None)
    key_heads, width = (
        int(size or usual) for size, usual in zip(more, (heads, hidden // heads), strict=True)
    )
    attention = [(hidden, heads * width), (heads * width, hidden)]
    attention += [(hidden, key_heads * width)] * 2
    feed_forward = [(hidden, wide)] * 2 + [(wide, hidden)]
    linear = attention + feed_forward
    tables = 1 if config.get("tie_word_embeddings") else 2
    return Footprint(
        parameters=blocks * sum(a * b for a, b in linear) + tables * hidden * words,
        lora_per_rank=blocks * sum(a + b for a, b in linear),
        cache_per_token=2 * blocks * key_heads * width,
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def adapter_bytes(shape: Footprint, rank: int) -> int:
    """Size of one adapter's weights, stored in float32."""
    return 4 * rank * shape.lora_per_rank


def weight_bytes(shape: Footprint, dtype: str) -> int:
    """Size of the base weights."""
    return _BYTES[dtype] * shape.parameters


def training_bytes(shape: Footprint, rank: int) -> int:
    """What one adapter takes while it trains, without activations."""
    return _TRAINING_BYTES * rank * shape.lora_per_rank


def cache_bytes(shape: Footprint, dtype: str, tokens: int) -> int:
    """Key-value cache of that many tokens."""
    return _BYTES[dtype] * shape.cache_per_token * tokens
