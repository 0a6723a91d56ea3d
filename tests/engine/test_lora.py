"""The adapter pool against PEFT, in both directions, and its own promises."""

import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from steerproof.engine.cache.handed import handed, kept
from steerproof.engine.lora import products as lora_products
from steerproof.engine.lora.dropout import Dropout, keep_mask
from steerproof.engine.lora.gradients import LoraGradients
from steerproof.engine.lora.peft_files import read_peft, write_peft
from steerproof.engine.lora.pool import LoraPool, bare_linear
from steerproof.engine.lora.products import grouped_product
from steerproof.engine.lora.weights import LoraSpec, LoraWeights, fresh_weights, lora_sites
from steerproof.errors import ModelError
from steerproof.model.base import Base, base_of
from tests.tiny import ARCHITECTURES, LAYERS, random_ids, tiny_base, tiny_model, tiny_tokenizer

SPEC = LoraSpec(rank=4, alpha=8.0, rslora=True)
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def adapter(base: Base, seed: int, spec: LoraSpec = SPEC) -> LoraWeights:
    """An adapter that is not new: B is not zero."""
    draw = torch.Generator().manual_seed(seed)
    fresh = fresh_weights(lora_sites(base), spec, seed).tensors
    tensors = {
        key: value + 0.2 * torch.randn(value.shape, generator=draw) for key, value in fresh.items()
    }
    return LoraWeights(spec=spec, tensors=tensors)


def pool_of(base: Base, adapters: list[LoraWeights], spec: LoraSpec = SPEC) -> LoraPool:
    pool = LoraPool(base, slots=len(adapters), spec=spec)
    for slot, weights in enumerate(adapters, start=1):
        pool.load(slot, weights)
    return pool


def save(directory: Path, base: Base, weights: LoraWeights) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in write_peft(base, weights, "base").items():
        (directory / name).write_bytes(content)
    return directory


@torch.no_grad()
def logits(base: Base, ids: torch.Tensor) -> torch.Tensor:
    return base.model(input_ids=ids, use_cache=False).logits


def pooled_logits(pool: LoraPool, slots: list[int], ids: torch.Tensor) -> torch.Tensor:
    with pool.attach():
        pool.route(torch.tensor(slots))
        return logits(pool.base, ids)


@torch.no_grad()
def peft_logits(architecture: str, directory: Path, ids: torch.Tensor, **options) -> torch.Tensor:
    model = PeftModel.from_pretrained(tiny_model(architecture, **options), directory).eval()
    return model(input_ids=ids).logits


ROUTINGS = [
    [0, 0, 0, 0, 0, 0],  # the bare base alone
    [2, 2, 2, 2, 2, 2],  # one adapter
    [1, 1, 2, 2, 3, 3],  # even groups, neighbours
    [1, 1, 1, 3, 3, 3],  # even groups, a gap
    [0, 0, 1, 1, 3, 3],  # even groups and the bare base
    [0, 1, 1, 1, 2, 3],  # uneven groups
    [1, 1, 1, 1, 1, 3],  # uneven groups, one absent
]


@architectures
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_what_is_written_loads_in_peft_with_equal_logits(architecture, tmp_path):
    base = tiny_base(architecture)
    adapters = [adapter(base, seed) for seed in (1, 2, 3)]
    pool = pool_of(base, adapters)
    ids = random_ids(6, 7)
    plain = logits(base, ids)
    references = [plain] + [
        peft_logits(architecture, save(tmp_path / str(i), base, weights), ids)
        for i, weights in enumerate(adapters)
    ]
    for slots in ROUTINGS:
        mixed = pooled_logits(pool, slots, ids)
        for row, slot in enumerate(slots):
            torch.testing.assert_close(mixed[row], references[slot][row], rtol=1e-3, atol=1e-3)
            if slot:
                assert not torch.allclose(mixed[row], plain[row], atol=1e-2)


@architectures
@pytest.mark.parametrize("rslora", [True, False])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_what_peft_writes_loads_here_with_equal_logits(architecture, rslora, tmp_path):
    config = LoraConfig(
        r=3, lora_alpha=5, use_rslora=rslora, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(tiny_model(architecture), config).eval()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    model.save_pretrained(tmp_path)
    ids = random_ids(2, 6)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    base = tiny_base(architecture)
    weights = read_peft(tmp_path, base)
    assert weights.spec == LoraSpec(rank=3, alpha=5.0, rslora=rslora)
    assert weights.spec.scaling == pytest.approx(5 / math.sqrt(3) if rslora else 5 / 3)
    # A pool of another rank and scaling: padded with zeros, the quotient in B.
    for spec in (weights.spec, SPEC):
        mixed = pooled_logits(pool_of(base, [weights], spec), [1, 1], ids)
        torch.testing.assert_close(mixed, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_an_adapter_that_targets_some_layers_only_loads(tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model(), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    model.save_pretrained(tmp_path)
    base, ids = tiny_base(), random_ids(2, 6)
    weights = read_peft(tmp_path, base)
    assert weights.spec.targets is not None
    assert len(weights.spec.targets) == 2 * LAYERS
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    mixed = pooled_logits(pool_of(base, [weights], weights.spec), [1, 1], ids)
    torch.testing.assert_close(mixed, expected, rtol=1e-3, atol=1e-3)


@architectures
def test_slot_0_is_the_bare_base_bit_for_bit(architecture):
    base = tiny_base(architecture)
    pool = pool_of(base, [adapter(base, 1), adapter(base, 2)])
    ids = random_ids(5, 6)
    plain = logits(base, ids)
    mixed = pooled_logits(pool, [0, 0, 1, 2, 2], ids)
    assert torch.equal(mixed[:2], plain[:2])
    assert torch.equal(pooled_logits(pool, [0] * 5, ids), plain)


def test_without_grouped_products_the_result_is_the_same(monkeypatch):
    base = tiny_base()
    pool = pool_of(base, [adapter(base, seed) for seed in (1, 2, 3)])
    ids = random_ids(6, 5)
    slots = [0, 1, 1, 1, 2, 3]
    grouped = pooled_logits(pool, slots, ids)
    monkeypatch.delattr(lora_products.F, "grouped_mm")
    torch.testing.assert_close(pooled_logits(pool, slots, ids), grouped, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("slots", ROUTINGS)
def test_every_way_of_grouping_gives_a_row_the_same_product(slots):
    base = tiny_base(dtype=torch.float64)
    pool = pool_of(base, [adapter(base, seed) for seed in (1, 2, 3)])
    ids = random_ids(6, 5)
    mixed = pooled_logits(pool, slots, ids)
    for row, slot in enumerate(slots):
        alone = pooled_logits(pool, [slot], ids[row : row + 1])[0]
        torch.testing.assert_close(mixed[row], alone, rtol=0, atol=1e-11)


def test_cached_decoding_equals_one_forward_pass_over_everything():
    base = tiny_base()
    pool = pool_of(base, [adapter(base, 1), adapter(base, 2)])
    ids = random_ids(3, 8)
    whole = pooled_logits(pool, [0, 1, 2], ids)
    with pool.attach(), torch.no_grad():
        pool.route(torch.tensor([0, 1, 2]))
        step = base.model(input_ids=ids[:, :4], use_cache=True)
        pieces = [step.logits]
        for place in range(4, 8):
            step = base.model(
                input_ids=ids[:, place : place + 1],
                **handed(base.model, kept(step)),
                use_cache=True,
            )
            pieces.append(step.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("slots", [[0, 1, 1], [1, 2, 2], [1, 1, 2]])
def test_gradients_of_the_input_go_through_the_adapters(slots):
    base = tiny_base(dtype=torch.float64)
    pool = pool_of(base, [adapter(base, 1), adapter(base, 2)])
    ids = random_ids(3, 5)

    def gradient(rows: torch.Tensor, slots: list[int]) -> torch.Tensor:
        embedded = base.model.get_input_embeddings()(rows).requires_grad_(True)
        with pool.attach():
            pool.route(torch.tensor(slots))
            output = base.model(inputs_embeds=embedded, use_cache=False).logits
            output.square().sum().backward()
        assert embedded.grad is not None
        return embedded.grad

    mixed = gradient(ids, slots)
    for row, slot in enumerate(slots):
        alone = gradient(ids[row : row + 1], [slot])[0]
        torch.testing.assert_close(mixed[row], alone, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(mixed, gradient(ids, [0, 0, 0]), rtol=1e-3)


def test_the_same_adapter_gives_the_same_bytes_and_reads_back_exactly(tmp_path):
    base = tiny_base()
    weights = adapter(base, 1)
    shuffled = LoraWeights(spec=SPEC, tensors=dict(reversed(weights.tensors.items())))
    files = write_peft(base, weights, "base")
    assert files == write_peft(base, shuffled, "base")
    back = read_peft(save(tmp_path, base, weights), base)
    assert back.spec == SPEC
    pool = pool_of(base, [back])
    for key, tensor in pool.read(1).tensors.items():
        assert torch.equal(tensor, weights.tensors[key])


def test_a_slot_can_be_used_again():
    base = tiny_base()
    ids = random_ids(2, 5)
    narrow = LoraSpec(rank=2, alpha=8.0, rslora=True)
    pool = pool_of(base, [adapter(base, 1)])
    pool.load(1, adapter(base, 2, narrow))
    clean = pool_of(base, [adapter(base, 2, narrow)])
    assert torch.equal(pooled_logits(pool, [1, 1], ids), pooled_logits(clean, [1, 1], ids))


def test_a_new_adapter_is_drawn_as_peft_draws_it_and_from_its_own_seed():
    base = tiny_base()
    sites = lora_sites(base)
    first = fresh_weights(sites, SPEC, 7)
    assert first.tensors.keys() == fresh_weights(sites[::-1], SPEC, 7).tensors.keys()
    for key, value in fresh_weights(sites[3:5], SPEC, 7).tensors.items():
        assert torch.equal(value, first.tensors[key])
    values = []
    for site in sites:
        a = first.tensors[site.a_key]
        # nn.init.kaiming_uniform_(a, a=sqrt(5)) has this bound.
        bound = math.sqrt(6 / ((1 + 5) * site.inputs))
        values.append(a.flatten() / bound)
        assert not first.tensors[site.b_key].any()
        assert not torch.equal(a, fresh_weights(sites, SPEC, 8).tensors[site.a_key])
    unit = torch.cat(values)
    assert float(unit.abs().max()) <= 1.0
    assert float(unit.square().mean()) == pytest.approx(1 / 3, rel=0.05)


def test_every_linear_layer_of_the_blocks_has_a_site_and_no_other():
    for architecture, per_block in (("qwen2", 7), ("gpt_neox", 4), ("gpt2", 4)):
        base = tiny_base(architecture)
        sites = lora_sites(base)
        assert len(sites) == per_block * LAYERS
        assert all(base.model.get_submodule(site.path) is site.module for site in sites)
        with torch.no_grad():
            for site in sites:
                assert site.module(torch.zeros(1, site.inputs)).shape == (1, site.outputs)


def test_a_layer_of_another_kind_is_refused():
    class Quantised(nn.Linear):
        pass

    model = tiny_model()
    model.model.layers[1].mlp.up_proj = Quantised(32, 48, bias=False)
    base = base_of(model, tiny_tokenizer())
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj is a Quantised"):
        lora_sites(base)


def test_routing_errors_say_what_is_wrong():
    base = tiny_base()
    pool = LoraPool(base, slots=2, spec=SPEC)
    pool.load(1, adapter(base, 1))
    with pytest.raises(ModelError, match="must be ascending"):
        pool.route(torch.tensor([1, 0]))
    with pytest.raises(ModelError, match=r"no adapter in slot \[2\]; loaded: \[1\]"):
        pool.route(torch.tensor([1, 2]))
    with pytest.raises(ModelError, match=r"no adapter in slot \[-1\]"):
        pool.route(torch.tensor([-1, 1]))
    with pytest.raises(ModelError, match="slots 1 to 2"):
        pool.load(3, adapter(base, 1))
    with pytest.raises(ModelError, match="2 rows routed, but a linear layer got"):
        pooled_logits(pool, [1, 1], random_ids(3, 4))
    with pytest.raises(ModelError, match="call route"), pool.attach():
        logits(base, random_ids(1, 4))
    with pytest.raises(ModelError, match="at least one adapter slot"):
        LoraPool(base, slots=0, spec=SPEC)


def test_an_adapter_that_does_not_fit_is_refused():
    base = tiny_base()
    pool = LoraPool(base, slots=1, spec=SPEC)
    whole = dict(adapter(base, 1).tensors)
    key = next(iter(whole))
    with pytest.raises(ModelError, match=r"1 missing keys .* 0 unexpected"):
        pool.load(1, LoraWeights(spec=SPEC, tensors={k: v for k, v in whole.items() if k != key}))
    with pytest.raises(ModelError, match=r"0 missing keys .* 1 unexpected keys \['other'"):
        pool.load(1, LoraWeights(spec=SPEC, tensors={**whole, "other": whole[key]}))
    with pytest.raises(ModelError, match=r"is \(4, 31\), not \(4, 32\)"):
        pool.load(1, LoraWeights(spec=SPEC, tensors={**whole, key: whole[key][:, :-1]}))
    wide = LoraSpec(rank=8, alpha=8.0, rslora=True)
    with pytest.raises(ModelError, match="rank 8 does not fit a pool of rank 4"):
        pool.load(1, adapter(base, 1, wide))
    elsewhere = LoraSpec(rank=4, alpha=8.0, rslora=True, targets=("lm_head",))
    with pytest.raises(ModelError, match=r"targets \['lm_head'\], not in the blocks"):
        pool.load(1, LoraWeights(spec=elsewhere, tensors=whole))


def test_after_an_exception_only_its_own_wraps_are_gone():
    base = tiny_base()
    ids = random_ids(1, 4)
    plain = logits(base, ids)
    pool = pool_of(base, [adapter(base, 1)])
    head = base.model.lm_head
    head.forward = head.forward
    mine = vars(head)["forward"]
    with pytest.raises(ModelError, match="2 rows routed"):
        pooled_logits(pool, [1, 1], ids)
    assert vars(head)["forward"] is mine
    assert not any("forward" in vars(site.module) for site in pool.sites)
    assert torch.equal(logits(base, ids), plain)


def test_a_second_pool_on_the_same_layers_is_refused_and_leaves_the_first_in_place():
    base = tiny_base()
    first, second = pool_of(base, [adapter(base, 1)]), pool_of(base, [adapter(base, 2)])
    ids = random_ids(1, 4)
    expected = pooled_logits(first, [1], ids)
    with first.attach():
        first.route(torch.tensor([1]))
        with pytest.raises(ModelError, match="already has an adapter pool"), second.attach():
            pytest.fail("attached twice")
        assert torch.equal(logits(base, ids), expected)


def test_training_rows_must_come_in_equal_groups_of_neighbours():
    base = tiny_base()
    pool = pool_of(base, [adapter(base, seed) for seed in (1, 2, 3)])
    gradients = LoraGradients(pool)
    ids = random_ids(4, 4)
    with gradients.attach():
        for slots in ([0, 1, 1, 1], [1, 2, 2, 2]):
            with pytest.raises(ModelError, match="equal groups"):
                gradients.route(torch.tensor(slots))
        gradients.route(torch.tensor([1, 1, 3, 3]))
        with pytest.raises(ModelError, match="neighbouring slots"):
            base.model(input_ids=ids)


def test_a_layer_with_dropout_and_its_gradients_are_what_they_are_defined_to_be():
    base = tiny_base(dtype=torch.float64)
    pool = pool_of(base, [adapter(base, seed) for seed in (1, 2)])
    gradients = LoraGradients(pool)
    site, slots = pool.sites[1], torch.tensor([1, 1, 2, 2])
    dropout = Dropout(rate=0.3, row_keys=torch.tensor([5, 6, 7, 8]))
    x = torch.randn(4, 6, site.inputs, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 6, site.outputs, dtype=torch.float64)
    with gradients.attach():
        gradients.route(slots)
        gradients.drop(dropout)
        got = site.module(x)
        (got * weight).sum().backward()
    a, b = (stack.clone().requires_grad_(True) for stack in pool.stacks[1])
    again = x.detach().clone().requires_grad_(True)
    keep = keep_mask(dropout, 1, 6, site.inputs)
    dropped = again * keep / (1 - round(0.3 * 2**16) / 2**16)
    change = torch.einsum("nsi,nri,nro->nso", dropped, a[slots - 1], b[slots - 1])
    expected = bare_linear(site.module, again) + SPEC.scaling * change
    (expected * weight).sum().backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(x.grad, again.grad)
    for found, wanted in zip(gradients.grad_stacks[1], (a.grad, b.grad), strict=True):
        torch.testing.assert_close(found, wanted)
    assert not bool(keep.all())


def test_in_half_precision_training_keeps_weights_in_full_precision():
    base = tiny_base(dtype=torch.bfloat16)
    pool = LoraPool(base, slots=1, spec=SPEC, dtype=torch.float32)
    pool.load(1, adapter(base, 1))
    gradients = LoraGradients(pool)
    served = pool_of(base, [adapter(base, 1)])
    ids = random_ids(2, 5)
    expected = pooled_logits(served, [1, 1], ids)
    with gradients.attach():
        gradients.route(torch.tensor([1, 1]))
        output = base.model(input_ids=ids, use_cache=False).logits
        output.float().square().mean().backward()
    exact = tiny_base()
    truth = pooled_logits(pool_of(exact, [adapter(exact, 1)]), [1, 1], ids)
    assert (output - truth).norm() < 1.5 * (expected - truth).norm() < 0.3 * truth.norm()
    assert gradients.grads[0].dtype == torch.float32
    assert float(gradients.grads[0].abs().max()) > 0
    pool.shares[0].mul_(2.0)
    gradients.refresh()
    with gradients.attach(), torch.no_grad():
        gradients.route(torch.tensor([1, 1]))
        assert not torch.equal(base.model(input_ids=ids, use_cache=False).logits, output)


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 12), (6, 10), (5, 7), (8, 3)])
def test_grouped_products_are_those_of_each_group_whatever_the_sizes(inputs, outputs):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, inputs, generator=generator)
    weights = torch.randn(3, inputs, outputs, generator=generator)
    ends = torch.tensor([2, 2, 9], dtype=torch.int32)
    expected = torch.cat([x[:2] @ weights[0], x[2:] @ weights[2]])
    torch.testing.assert_close(grouped_product(x, weights, ends), expected)
