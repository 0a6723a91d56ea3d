"""Pooled training against solo training, and against PEFT with torch's own AdamW."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import get_cosine_schedule_with_warmup

from steerproof.engine import train as training
from steerproof.engine.batches import (
    Example,
    Rounding,
    StepRows,
    cosine_rate,
    micro_batches,
    step_plan,
)
from steerproof.engine.lora.dropout import Dropout, keep_mask
from steerproof.engine.lora.weights import (
    LoraSpec,
    LoraWeights,
    fresh_adapters,
    fresh_weights,
    lora_sites,
)
from steerproof.engine.train import (
    AdapterJob,
    FailedAdapter,
    Pooling,
    Recipe,
    TrainedAdapter,
    train,
)
from steerproof.errors import ModelError, SteeringError
from steerproof.model.base import Base, base_of
from steerproof.model.steering import Push
from tests.tiny import ARCHITECTURES, HIDDEN, tiny_base, tiny_model, tiny_tokenizer

# float64 leaves about 1e-16 per operation; what a few thousand of them may add up to.
ROUNDING = 1e-10


def recipe(**changes) -> Recipe:
    plain = Recipe(
        lora=LoraSpec(rank=4, alpha=8.0, rslora=True), dropout=0.0, learning_rate=3e-3,
        warmup=0.1, epochs=2, rows_per_step=3, weight_decay=0.01, max_grad_norm=1.0, max_length=64,
    )  # fmt: skip
    return replace(plain, **changes)


def examples(count: int, seed: int, pushes: Sequence[Push | None] = (None,)) -> tuple[Example, ...]:
    draw = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        size = int(torch.randint(low, high, (), generator=draw))
        return tuple(torch.randint(0, 256, (size,), generator=draw).tolist())

    return tuple(
        Example(prompt_ids=ids(3, 9), completion_ids=ids(1, 9), push=pushes[i % len(pushes)])
        for i in range(count)
    )


def directions() -> list[Push]:
    draw = torch.Generator().manual_seed(5)
    layers = (1, 2, 1)
    return [Push(layer=k, vector=torch.randn(HIDDEN, generator=draw)) for k in layers]


DIRECTIONS = directions()
TOO_DEEP = Push(layer=99, vector=torch.ones(HIDDEN))
TOO_WIDE = Push(layer=1, vector=torch.ones(HIDDEN + 1))


def mixed_jobs() -> list[AdapterJob]:
    """Different lengths of data, directions and layers; the second ends early."""
    one, two, three = DIRECTIONS
    shapes = [(7, (one,)), (3, (two, three)), (10, (None,)), (7, (three, None, one))]
    return [
        AdapterJob(key=f"adapter {i}", examples=examples(count, i, pushes), seed=40 + i)
        for i, (count, pushes) in enumerate(shapes)
    ]


def trained(base: Base, jobs, how: Recipe, pooling: Pooling | None = None):
    results = list(train(base, jobs, how, pooling))
    return {result.key: result for result in results}


def difference(left: LoraWeights, right: LoraWeights) -> float:
    assert left.tensors.keys() == right.tensors.keys()
    return max(float((left.tensors[k] - right.tensors[k]).abs().max()) for k in left.tensors)


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_adapter_in_a_pool_has_the_trajectory_it_has_alone(architecture, dropout):
    base = tiny_base(architecture, dtype=torch.float64)
    how = recipe(dropout=dropout)
    pooled = trained(base, mixed_jobs(), how)
    # Two slots for four jobs: one waits, and takes the slot of whichever ends first.
    queued = trained(base, mixed_jobs(), how, Pooling(adapters=2, tokens=40))
    for job in mixed_jobs():
        alone = trained(base, [job], how, Pooling(tokens=30))[job.key]
        for other in (pooled[job.key], queued[job.key]):
            assert isinstance(alone, TrainedAdapter)
            assert isinstance(other, TrainedAdapter)
            assert len(alone.losses) == 2 * math.ceil(len(job.examples) / 3)
            assert other.losses == pytest.approx(alone.losses, abs=ROUNDING)
            assert other.gradient_norms == pytest.approx(alone.gradient_norms, abs=ROUNDING)
            assert difference(alone.weights, other.weights) < ROUNDING
            assert other.tokens == alone.tokens


def test_the_pool_yields_adapters_in_the_order_they_end():
    base = tiny_base(dtype=torch.float64)
    assert list(trained(base, mixed_jobs(), recipe())) == [
        "adapter 1", "adapter 0", "adapter 3", "adapter 2",
    ]  # fmt: skip


def reference(model, job: AdapterJob, how: Recipe, start: LoraWeights):
    """One adapter by PEFT, a plain hook, torch's AdamW and transformers' schedule, row by row."""
    config = LoraConfig(
        r=how.lora.rank, lora_alpha=how.lora.alpha, use_rslora=how.lora.rslora,
        target_modules="all-linear", task_type="CAUSAL_LM",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
    named = dict(wrapped.named_parameters())
    parameters = []
    for key, value in start.tensors.items():
        parameter = named[key.replace(".weight", ".default.weight")]
        parameter.data = value.to(torch.float64).clone()
        parameters.append(parameter)
    plan = step_plan(job.seed, len(job.examples), how.epochs, how.rows_per_step)
    optimiser = torch.optim.AdamW(
        parameters, lr=how.learning_rate, weight_decay=how.weight_decay, foreach=False
    )
    warmup = math.ceil(len(plan) * how.warmup)
    schedule = get_cosine_schedule_with_warmup(optimiser, warmup, len(plan))
    blocks = base_of(tiny_model(), tiny_tokenizer()).block_path
    losses = []
    for indices in plan:
        nll = []
        for example in (job.examples[i] for i in indices):
            ids = torch.tensor([example.prompt_ids + example.completion_ids])
            handles = []
            if example.push is not None:
                block = model.get_submodule(f"{blocks}.{example.push.layer}")
                vector = example.push.vector.double()
                handles.append(block.register_forward_hook(lambda _m, _a, out, v=vector: out + v))
            logits = wrapped(input_ids=ids).logits[0, len(example.prompt_ids) - 1 : -1]
            targets = torch.tensor(example.completion_ids)
            nll.append(cross_entropy(logits, targets, reduction="none"))
            for handle in handles:
                handle.remove()
        loss = torch.cat(nll).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, how.max_grad_norm)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    weights = {key: named[key.replace(".weight", ".default.weight")] for key in start.tensors}
    return losses, LoraWeights(spec=how.lora, tensors={k: v.detach() for k, v in weights.items()})


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_rounding_shapes_changes_no_trajectory(architecture, monkeypatch):
    base = tiny_base(architecture, dtype=torch.float64)
    how = recipe(dropout=0.3)
    plain = trained(base, mixed_jobs(), how)
    widths = set()

    def rounded(steps, tokens, pad_id, start_cost, _rounding):
        rounding = Rounding(width=8, parts=3)
        for batch in micro_batches(steps, 60, pad_id, start_cost, rounding):
            widths.add(batch.ids.shape[1])
            yield batch

    monkeypatch.setattr(training, "micro_batches", rounded)
    for key, result in trained(base, mixed_jobs(), how).items():
        assert isinstance(result, TrainedAdapter)
        assert result.losses == pytest.approx(plain[key].losses, abs=ROUNDING)
        assert difference(result.weights, plain[key].weights) < ROUNDING
    assert widths <= {8, 16, 24}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_on_a_gpu_captured_passes_train_what_a_cpu_trains(architecture):
    how = recipe(dropout=0.3, epochs=6)
    expected = trained(tiny_base(architecture), mixed_jobs(), how)
    there = base_of(tiny_model(architecture).to("cuda"), tiny_tokenizer())
    results = trained(there, mixed_jobs(), how)
    for key, result in results.items():
        assert isinstance(result, TrainedAdapter)
        assert result.losses == pytest.approx(expected[key].losses, abs=1e-3)
        assert difference(result.weights, expected[key].weights) < 1e-2
        assert bool(result.firings) == bool(expected[key].firings)
        for mine, theirs in zip(result.pushes, expected[key].pushes, strict=True):
            assert mine.measured.positions == theirs.measured.positions


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_on_a_gpu_packed_passes_round_no_more_than_padded_ones(architecture, monkeypatch):
    how = recipe(dropout=0.3, epochs=6)

    def there(dtype):
        model = tiny_model(architecture, dtype=dtype).to("cuda")
        return trained(base_of(model, tiny_tokenizer()), mixed_jobs(), how)

    lines = []
    packed = training.packed_batches

    def counted(*given, **named):
        for line in packed(*given, **named):
            lines.append(line)
            yield line

    monkeypatch.setattr(training, "packed_batches", counted)
    results, exact = there(torch.bfloat16), there(torch.float32)
    assert lines
    monkeypatch.setattr(training, "packs", lambda _base: False)
    errors = {"packed": [], "padded": []}
    for key, other in there(torch.bfloat16).items():
        mine, best = results[key], exact[key]
        for result in (mine, other, best):
            assert isinstance(result, TrainedAdapter)
        for name, result in (("packed", mine), ("padded", other)):
            errors[name] += [a - b for a, b in zip(result.losses, best.losses, strict=True)]
        assert bool(mine.firings) == bool(other.firings)
        for a, b in zip(mine.pushes, other.pushes, strict=True):
            assert a.measured.positions == b.measured.positions
    packed, padded = (float(torch.tensor(errors[name]).norm()) for name in ("packed", "padded"))
    assert packed < 2 * padded


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_training_equals_peft_with_torch_adamw():
    model = tiny_model(dtype=torch.float64)
    base = base_of(model, tiny_tokenizer())
    how = recipe(max_grad_norm=8.0)
    jobs = mixed_jobs()
    ours = trained(base, jobs, how)
    job = jobs[3]
    result = ours[job.key]
    assert isinstance(result, TrainedAdapter)
    assert max(result.gradient_norms) > how.max_grad_norm > min(result.gradient_norms)
    start = fresh_weights(lora_sites(base), how.lora, job.seed)
    losses, weights = reference(model, job, how, start)
    assert difference(start, weights) > 1e-3
    assert result.losses == pytest.approx(losses, abs=ROUNDING)
    assert difference(result.weights, weights) < ROUNDING


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpointing_changes_no_gradient(architecture):
    base = tiny_base(architecture, dtype=torch.float64)
    jobs = [mixed_jobs()[3]]
    plain = trained(base, jobs, recipe(epochs=1))["adapter 3"]
    saving = trained(base, jobs, recipe(epochs=1), Pooling(checkpointing=True))["adapter 3"]
    assert isinstance(plain, TrainedAdapter)
    assert isinstance(saving, TrainedAdapter)
    assert difference(plain.weights, saving.weights) < ROUNDING
    assert plain.losses[0] > 0.1
    assert not any(module.training for module in base.model.modules())


def test_each_adapter_reports_what_its_directions_did():
    base = tiny_base()
    job = mixed_jobs()[3]
    result = trained(base, mixed_jobs(), recipe())[job.key]
    assert isinstance(result, TrainedAdapter)
    one, _, three = DIRECTIONS
    assert [audit.push for audit in result.pushes] == [three, one]
    for audit in result.pushes:
        rows = [e for e in job.examples if e.push is audit.push]
        assert audit.measured.positions == 2 * sum(e.length for e in rows)
        assert audit.measured.push_norm == pytest.approx(float(audit.push.vector.norm()), rel=1e-5)
        assert audit.measured.ratio == pytest.approx(
            audit.measured.push_norm / audit.measured.residual_norm
        )
    assert result.tokens == 2 * sum(e.length for e in job.examples)
    assert result.firings > 0


def test_a_push_that_the_precision_swallows_fails_its_adapter_alone():
    base = tiny_base(dtype=torch.bfloat16)
    pushes = [Push(layer=1, vector=torch.full((HIDDEN,), size)) for size in (1e-3, 1.0)]
    jobs = [
        AdapterJob(key=key, examples=examples(3, 0, (push,)), seed=1)
        for key, push in zip(("lost", "heard"), pushes, strict=True)
    ]
    results = {r.key: r for r in train(base, jobs, recipe(epochs=1))}
    assert isinstance(results["heard"], TrainedAdapter)
    lost = results["lost"]
    assert isinstance(lost, FailedAdapter)
    assert isinstance(lost.error, SteeringError)
    assert "direction 1, layer 1" in str(lost.error)


def test_a_push_that_misses_a_token_fails_its_adapter(monkeypatch):
    route = training.Steering.route

    def first_token_left_out(steering, slots, mask):
        route(steering, slots, mask & (torch.arange(mask.shape[1]) > 0))

    monkeypatch.setattr(training.Steering, "route", first_token_left_out)
    job = AdapterJob(key="deaf", examples=examples(3, 0, DIRECTIONS[:1]), seed=1)
    result = trained(tiny_base(), [job], recipe(epochs=1))["deaf"]
    assert isinstance(result, FailedAdapter)
    asked = sum(example.length for example in job.examples)
    assert f"pushed {asked - 3} token positions, {asked} asked for" in str(result.error)


def test_an_adapter_whose_loss_is_not_a_number_fails_and_the_others_go_on(monkeypatch):
    def spoilt(sites, spec, seeds, **how):
        for seed, weights in zip(seeds, fresh_adapters(sites, spec, seeds, **how), strict=True):
            if seed == 666:
                weights.tensors[sites[3].a_key][0, 0] = math.nan
            yield weights

    monkeypatch.setattr(training, "fresh_adapters", spoilt)
    jobs = [
        AdapterJob(key=key, examples=examples(6, 0, DIRECTIONS[:1]), seed=seed)
        for key, seed in (("broken", 666), ("sound", 2))
    ]
    base = tiny_base()
    results = trained(base, jobs, recipe(epochs=1))
    broken, sound = results["broken"], results["sound"]
    assert isinstance(broken, FailedAdapter)
    assert "adapter broken: loss nan" in str(broken.error)
    assert isinstance(sound, TrainedAdapter)
    alone = trained(base, jobs[1:], recipe(epochs=1))["sound"]
    assert isinstance(alone, TrainedAdapter)
    assert difference(sound.weights, alone.weights) < 1e-5


def test_the_base_is_bare_while_an_adapter_is_handed_over():
    base = tiny_base()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = base.model(input_ids=ids).logits
        for result in train(base, mixed_jobs(), recipe()):
            assert isinstance(result, TrainedAdapter)
            assert torch.equal(base.model(input_ids=ids).logits, before)
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())


def test_a_consumer_that_stops_leaves_no_hook():
    base = tiny_base()
    results = train(base, mixed_jobs(), recipe())
    next(results)
    results.close()
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in base.model.modules()]
    assert not any(hooks)
    assert not any("forward" in vars(module) for module in base.model.modules())


def refused(base, job, how):
    """Why a job was refused."""
    (result,) = train(base, [job], how)
    assert isinstance(result, FailedAdapter)
    return result.error


def test_a_row_that_does_not_fit_is_an_error_and_never_cut():
    base = tiny_base()
    long = Example(prompt_ids=(1,) * 60, completion_ids=(2,) * 5)
    job = AdapterJob(key="long", examples=(long,), seed=0)
    assert "row 0 has 65 tokens, at most 64 fit" in str(refused(base, job, recipe()))
    huge = replace(job, examples=(replace(long, prompt_ids=(1,) * 300),))
    error = refused(base, huge, recipe(max_length=1024))
    assert "at most 256 fit (max_length 1024, context 256)" in str(error)


@pytest.mark.parametrize(
    ("example", "error"),
    [
        (Example(prompt_ids=(1,), completion_ids=()), ModelError),
        (Example(prompt_ids=(), completion_ids=(1,)), ModelError),
        (Example(prompt_ids=(1,), completion_ids=(1,), push=TOO_DEEP), SteeringError),
        (Example(prompt_ids=(1,), completion_ids=(1,), push=TOO_WIDE), SteeringError),
    ],
)
def test_a_row_that_cannot_be_learned_fails_its_adapter_and_no_other(example, error):
    good = mixed_jobs()[1]
    job = AdapterJob(key="bad", examples=(*good.examples, example), seed=0)
    bad, other = train(tiny_base(), [good, job], recipe(epochs=1))
    assert isinstance(bad, FailedAdapter)
    assert isinstance(bad.error, error)
    assert "adapter bad" in str(bad.error)
    assert isinstance(other, TrainedAdapter)


def test_progress_is_reported_after_every_step_of_every_adapter():
    seen: list[tuple[str, int, int, float]] = []
    jobs = mixed_jobs()[:2]
    results = train(tiny_base(), jobs, recipe(), on_step=lambda *step: seen.append(step))
    losses = {r.key: r.losses for r in results if isinstance(r, TrainedAdapter)}
    assert [s[:3] for s in seen if s[0] == "adapter 1"] == [
        ("adapter 1", 1, 2),
        ("adapter 1", 2, 2),
    ]
    assert tuple(s[3] for s in seen if s[0] == "adapter 0") == losses["adapter 0"]


def test_the_learning_rate_is_that_of_transformers():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    schedule = get_cosine_schedule_with_warmup(optimiser, math.ceil(37 * 0.1), 37)
    for step in range(37):
        assert cosine_rate(step, 37, 0.1) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        schedule.step()


def test_every_epoch_visits_every_row_once_in_an_order_of_its_own():
    plan = step_plan(seed=3, examples=10, epochs=3, rows_per_step=4)
    assert [len(step) for step in plan] == [4, 4, 2] * 3
    epochs = [sum(plan[i : i + 3], ()) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(epochs)) == 3
    assert plan != step_plan(seed=4, examples=10, epochs=3, rows_per_step=4)


@pytest.mark.parametrize("tokens", [1, 60, 10_000])
def test_micro_batches_hold_every_row_once_in_equal_groups(tokens):
    steps = [
        StepRows(
            slot=slot, rows=tuple(range(count)), examples=examples(count, slot),
            push_slots=(0,) * count, dropout_keys=(0,) * count,
        )
        for slot, count in ((1, 5), (2, 3), (3, 5), (4, 5))
    ]  # fmt: skip
    rows, weight = [], dict.fromkeys((1, 2, 3, 4), 0.0)
    for batch in micro_batches(steps, tokens, pad_id=256):
        counts = batch.adapter_slots.unique_consecutive(return_counts=True)[1]
        assert len(set(counts.tolist())) == 1
        assert batch.ids.numel() <= tokens or batch.ids.shape[0] == 1
        assert bool((batch.ids[~batch.mask] == 256).all())
        flat = batch.ids.flatten()
        assert torch.equal(flat[batch.predicting + 1], batch.targets)
        for slot, ids, mask in zip(batch.adapter_slots, batch.ids, batch.mask, strict=True):
            rows.append((int(slot), tuple(ids[mask].tolist())))
        for owner, share in zip(batch.owners, batch.weights, strict=True):
            weight[int(owner)] += float(share)
    expected = [(s.slot, e.prompt_ids + e.completion_ids) for s in steps for e in s.examples]
    assert sorted(rows) == sorted(expected)
    assert weight == pytest.approx(dict.fromkeys((1, 2, 3, 4), 1.0))


def test_a_dropout_mask_depends_on_row_layer_and_element_and_on_nothing_else():
    keys = torch.tensor([11, 12, 2**62 + 7])
    mask = keep_mask(Dropout(rate=0.25, row_keys=keys), 3, 40, 50)
    alone = keep_mask(Dropout(rate=0.25, row_keys=keys[1:2]), 3, 20, 50)
    assert torch.equal(mask[1:2, :20], alone)
    assert mask.dtype == torch.bool
    # 6000 draws: five standard deviations are 0.028.
    assert float((~mask).double().mean()) == pytest.approx(0.25, abs=0.028)
    other = keep_mask(Dropout(rate=0.25, row_keys=keys), 4, 40, 50)
    for left, right in ((mask[0], mask[1]), (mask, other), (mask[:, :, :-1], mask[:, :, 1:])):
        agree = float((left == right).double().mean())
        assert agree == pytest.approx(0.25**2 + 0.75**2, abs=0.06)
