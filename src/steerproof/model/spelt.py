"""What tokens spell, many sequences at once."""

from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


def spelt(tokenizer: PreTrainedTokenizerBase, sequences: Iterable[Sequence[int]]) -> list[str]:
    """The text of each sequence of tokens, as `tokenizer.decode` gives it.

    A fast tokenizer shares them among all processors, and other threads go on meanwhile.
    """
    listed = [list(ids) for ids in sequences]
    if not _adds_nothing(tokenizer):
        return [str(tokenizer.decode(ids)) for ids in listed]
    backend: Any = tokenizer
    return list(backend.backend_tokenizer.decode_batch(listed, skip_special_tokens=False))


def _adds_nothing(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether decoding is what the library beneath does, and nothing besides."""
    kind: Any = type(tokenizer)
    if not issubclass(kind, PreTrainedTokenizerFast):
        return False
    fast: Any = PreTrainedTokenizerFast
    if kind.decode is not fast.decode or kind._decode is not fast._decode:
        return False
    wrapped: Any = tokenizer
    if not wrapped.clean_up_tokenization_spaces:
        return True
    # Spaces are taken out, but not where the pieces are those of BPE, unless that is insisted on.
    insisted = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    pieces = type(wrapped.backend_tokenizer.model).__name__
    return pieces == "BPE" and not getattr(wrapped, insisted, True)
