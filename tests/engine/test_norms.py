"""The quick norm against autograd's own, and against norms that only look like one."""

import pytest
import torch
from torch import nn

from steerproof.engine.norms import fused_norms
from steerproof.model.base import base_of
from tests.tiny import random_ids, tiny_base, tiny_model, tiny_tokenizer

NORMS = {"llama": 9, "qwen2": 9, "qwen3": 17, "mistral": 9, "gemma": 9, "gpt_neox": 0, "gpt2": 0}


@pytest.mark.parametrize("architecture", NORMS)
def test_logits_and_gradients_are_those_of_the_model(architecture):
    base = tiny_base(architecture)
    ids = random_ids(2, 9)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        embedded = base.model.get_input_embeddings()(ids).requires_grad_(True)
        logits = base.model(inputs_embeds=embedded, use_cache=False).logits
        logits.square().mean().backward()
        assert embedded.grad is not None
        return logits.detach(), embedded.grad

    logits, gradient = run()
    with fused_norms(base) as count:
        assert count == NORMS[architecture]
        quick_logits, quick_gradient = run()
    torch.testing.assert_close(quick_logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(quick_gradient, gradient, rtol=1e-3, atol=1e-4)
    assert not any("forward" in vars(module) for module in base.model.modules())


def test_its_backward_is_the_derivative_of_its_forward():
    model = tiny_model("qwen2")
    base = base_of(model, tiny_tokenizer())
    norm = model.model.norm
    x = torch.randn(3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with fused_norms(base):
        forward = norm.forward
        gain, eps = forward.args
        apply = lambda x: forward.func(gain.double(), eps, x)  # noqa: E731
        assert torch.autograd.gradcheck(apply, x.requires_grad_(True))


class Centred(nn.Module):
    """Has an RMS norm's weight and epsilon, and subtracts the mean."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32))
        self.eps = 1e-6

    def forward(self, x):
        return nn.functional.layer_norm(x, (32,), self.weight, None, self.eps)


class OtherEpsilon(Centred):
    def forward(self, x):
        return x * (x.square().mean(-1, keepdim=True) + 2 * self.eps).rsqrt() * self.weight


@pytest.mark.parametrize("kind", [Centred, OtherEpsilon])
def test_a_norm_that_computes_something_else_is_left_alone(kind):
    model = tiny_model("qwen2")
    model.model.norm = kind()
    with fused_norms(base_of(model, tiny_tokenizer())) as count:
        assert count == NORMS["qwen2"] - 1
        assert "forward" not in vars(model.model.norm)


def test_float64_keeps_the_models_own_norms():
    with fused_norms(tiny_base(dtype=torch.float64)) as count:
        assert count == 0


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_in_half_precision_norms_are_as_near_to_the_truth_as_the_models_own(architecture):
    base, exact = tiny_base(architecture, dtype=torch.bfloat16), tiny_base(architecture)
    exact.model.load_state_dict(base.model.state_dict())
    found = {}
    embedded = base.model.get_input_embeddings()(random_ids(3, 40)).detach()

    def gradients(model: nn.Module) -> list[torch.Tensor]:
        x = embedded.clone().to(next(model.parameters()).dtype).requires_grad_(True)
        logits = model(inputs_embeds=x, use_cache=False).logits
        logits.float().square().mean().backward()
        assert x.grad is not None
        return [logits.detach().float(), x.grad.float()]

    truth, found["own"] = gradients(exact.model), gradients(base.model)
    with fused_norms(base) as count:
        assert count == NORMS[architecture]
        found["quick"] = gradients(base.model)
    for true, own, quick in zip(truth, found["own"], found["quick"], strict=True):
        assert 0 < (quick - true).norm() < 1.2 * (own - true).norm() < 0.2 * true.norm()
