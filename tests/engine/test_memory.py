"""How much is computed at once."""

import pytest
import torch

from steerproof.engine.memory import pass_tokens


@pytest.mark.parametrize(
    ("device", "width", "tokens"),
    [
        ("cpu", 64, 8192),
        ("cpu", 8192, 8192),
        ("cuda", 64, 65_536),
        ("cuda", 576, 58_254),
        ("cuda", 3584, 9362),
        ("cuda", 8192, 8192),
    ],
)
def test_a_gpu_computes_as_many_numbers_of_a_narrow_model_at_once_as_of_a_wide_one(
    device: str, width: int, tokens: int
) -> None:
    assert pass_tokens(torch.device(device), width) == tokens
