"""What every cache of a pool is to a Hugging Face model: it stores keys and values, and it attends.

Models ask for a `Cache` and call attention through transformers' interface. Both are answered by
one object, which alone knows which row of a batch has which keys.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from steerproof.errors import ModelError
from steerproof.model.split import Spread

_NAME = "steerproof_pool"


class PooledCache(Cache):
    """The attention of prompts that are computed in one pass; what it stores, a subclass says."""

    def __init__(self, longest: int) -> None:
        """An empty cache.

        Args:
            longest: Positions of the longest row, for models with a window.
        """
        super().__init__(layers=[])
        self._longest = longest
        self._layer = -1
        self._key: Tensor | None = None
        self.is_prefill = True
        """Whether a forward pass is one over prompts, which attend to themselves alone."""
        self._mask: Spread[Tensor] | None = None

    def see(self, mask: Bool[Tensor, "sequences 1 width width"] | None) -> None:
        """Say which tokens of prompts attend to which; None when each to all before it."""
        self._mask = None if mask is None else Spread(mask, mask.device)

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Take a layer's new keys and values `[batch, heads, seq, width]`, before it attends."""

    def attend_decode(
        self, layer: int, query: Float[Tensor, "batch heads width"], scale: float
    ) -> Float[Tensor, "batch heads width"]:
        """Attention of one query per row over all keys of the row, the newest included.

        Raises:
            ModelError: Nothing is kept here.
        """
        raise ModelError(f"layer {layer}: no keys are kept for {len(query)} rows at scale {scale}")

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values `[batch, heads, seq, width]`; returns them as they are."""
        self._layer, self._key = layer_idx, key_states
        self.store(layer_idx, key_states, value_states)
        return key_states, value_states

    def get_seq_length(self, *_args: Any, **_kwargs: Any) -> int:
        """0: rows have lengths of their own, and say so through their position ids."""
        return 0

    def get_mask_sizes(self, query_length: int, *_args: Any, **_kwargs: Any) -> tuple[int, int]:
        """Never needed: this attention brings its own masks."""
        return query_length, 0

    def attend(
        self,
        module: torch.nn.Module,
        query: Float[Tensor, "batch heads seq width"],
        key: Tensor,
        value: Tensor,
        _attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Attention in the form that Hugging Face's models call.

        Returns:
            `[batch, seq, heads, width]`, and no weights.

        Raises:
            ModelError: The model wants a kind of attention that this one does not compute.
        """
        self._check(module, key, kwargs)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if self.is_prefill:
            grouped = query.shape[1] != key.shape[1]
            mask = None if self._mask is None else self._mask.on(query.device)
            shape = {"attn_mask": mask, "is_causal": mask is None}
            out = F.scaled_dot_product_attention(
                query, key, value, **shape, scale=scale, enable_gqa=grouped
            )
            return out.transpose(1, 2), None
        return self.attend_decode(self._layer, query[:, :, 0], scale)[:, None], None

    def _check(self, module: torch.nn.Module, key: Tensor, kwargs: dict[str, Any]) -> None:
        if key is not self._key:
            raise ModelError(
                f"{type(module).__name__} attends to keys that it did not store: layers that share"
                " keys and values cannot be pooled"
            )
        window = kwargs.get("sliding_window")
        if window is not None and window < self._longest:
            raise ModelError(
                f"{type(module).__name__} has a sliding window of {window} positions, but a row"
                f" may reach {self._longest}; ask for fewer new tokens"
            )
        for name in ("softcap", "s_aux", "position_bias"):
            if kwargs.get(name) is not None:
                raise ModelError(f"{type(module).__name__} uses {name}, which is not supported")


@contextmanager
def attending(model: PreTrainedModel, attend: Callable[..., tuple[Tensor, None]]) -> Iterator[None]:
    """While inside, the model's attention is `attend`, in the form that such models call.

    Raises:
        ModelError: The model does not let its attention be chosen.
    """
    before = str(model.config._attn_implementation)
    name = f"{_NAME}_{id(attend):x}"  # Other threads have caches of their own.
    ALL_ATTENTION_FUNCTIONS[name] = attend
    try:
        model.set_attn_implementation(name)
        if model.config._attn_implementation != name:
            raise ModelError(
                f"{type(model).__name__} does not use transformers' attention interface, so its"
                " rows cannot be pooled"
            )
        yield
    finally:
        model.set_attn_implementation(before)
        del ALL_ATTENTION_FUNCTIONS[name]
