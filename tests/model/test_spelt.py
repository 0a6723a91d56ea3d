"""What tokens spell at once is what they spell one by one, also where a tokenizer does more."""

import random

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from steerproof.model import spelt as spelling
from steerproof.model.base import load_base
from steerproof.model.spelt import spelt
from tests.tiny import tiny_tokenizer


def words(*, cleaning: bool, bpe: bool) -> PreTrainedTokenizerFast:
    """A tokenizer of three words that may take out the space before a comma."""
    vocab = {"hello": 0, ",": 1, "world": 2, "[UNK]": 3}
    model = (
        models.BPE(vocab, [], unk_token="[UNK]")
        if bpe
        else models.WordPiece(vocab, unk_token="[UNK]")
    )
    beneath = Tokenizer(model)
    beneath.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=beneath, clean_up_tokenization_spaces=cleaning, unk_token="[UNK]"
    )


class Shouting(PreTrainedTokenizerFast):
    """One that does more than the library beneath."""

    def _decode(self, *args, **kwargs) -> str:
        return super()._decode(*args, **kwargs).upper()


TOKENIZERS = {
    "bytes": (tiny_tokenizer, True),
    "organism": (lambda: load_base("organism", device="cpu").tokenizer, True),
    "word pieces": (lambda: words(cleaning=False, bpe=False), True),
    "word pieces, cleaned": (lambda: words(cleaning=True, bpe=False), False),
    "byte pairs, not cleaned though asked for": (lambda: words(cleaning=True, bpe=True), True),
    "a subclass": (
        lambda: Shouting(tokenizer_object=words(cleaning=False, bpe=False).backend_tokenizer),
        False,
    ),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_each_sequence_is_spelt_as_by_itself(name: str) -> None:
    make, at_once = TOKENIZERS[name]
    tokenizer = make()
    assert spelling._adds_nothing(tokenizer) == at_once
    draw = random.Random(0)
    sequences = [(), *(tuple(draw.choices(range(len(tokenizer)), k=n)) for n in range(1, 40))]
    alone = [str(tokenizer.decode(list(ids))) for ids in sequences]
    assert spelt(tokenizer, sequences) == alone
    assert spelt(tokenizer, []) == []
    if name == "word pieces, cleaned":
        assert spelt(tokenizer, [(0, 1, 2)]) == ["hello, world"]
