"""The pool against one row at a time: the same tokens, whatever shares the batch."""

from dataclasses import replace

import pytest
import torch

from steerproof.engine.generate import Engine, Limits, generate
from steerproof.engine.rows import Drawn, Row, RowFault
from steerproof.errors import MachineError, ModelError, SteeringError
from steerproof.model.steering import Push
from steerproof.spec.experiment import Generation
from tests.engine.subjects import PUSHED, SETTINGS, Oracle, adapters, base_of, mixed_rows

EXACT = ("qwen2", "gpt2")


def key_of(row):
    return row.cell, row.question, row.sample


def texts(completions):
    """Tokens and finish reason by row; every row once."""
    completions = list(completions)
    found = {
        (c.row.cell, c.row.question, c.row.sample): (c.token_ids, c.finish) for c in completions
    }
    assert len(found) == len(completions)
    return found


def shuffled(rows, seed=3):
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return [rows[i] for i in order.tolist()]


@pytest.fixture(scope="module", params=EXACT)
def exact(request):
    """A base, rows of mixed cells, and their texts with each row generated alone."""
    made, rows = base_of(request.param), mixed_rows(request.param)
    alone = {}
    for row in rows:
        alone |= texts(generate(made, [row], SETTINGS))
    return made, rows, alone


@pytest.mark.parametrize("architecture", EXACT)
def test_the_pool_equals_an_independent_row_by_row_reference(architecture, tmp_path):
    rows = mixed_rows(architecture, cells=6, questions=1, samples=2)
    oracle = Oracle(architecture, tmp_path)
    expected = {key_of(r): oracle.complete(r, SETTINGS) for r in rows}
    assert texts(generate(base_of(architecture), rows, SETTINGS)) == expected
    assert len({finish for _, finish in expected.values()}) == 2
    assert len({tokens for tokens, _ in expected.values()}) == len(rows)


@pytest.mark.parametrize("most", [3, 10, 1024])
def test_a_row_reads_the_same_alone_and_in_a_shuffled_pool(exact, most):
    made, rows, alone = exact
    assert texts(generate(made, shuffled(rows), SETTINGS, limits=Limits(max_rows=most))) == alone


def test_a_row_reads_the_same_in_its_cell(exact):
    made, rows, alone = exact
    cell = [row for row in rows if row.cell == "c3"]
    expected = {key: text for key, text in alone.items() if key[0] == "c3"}
    assert texts(generate(made, cell, SETTINGS)) == expected


def test_little_memory_for_keys_slows_down_and_changes_nothing(exact):
    made, rows, alone = exact
    limits = Limits(kv_bytes=60_000)
    running = []
    found = generate(made, rows, SETTINGS, limits=limits, on_progress=lambda p: running.append(p))
    assert texts(found) == alone
    assert max(p.running for p in running) < len(rows) / 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory"),
    ],
)
def test_running_out_of_memory_halves_the_pool_and_the_text_stays(exact, error):
    made, rows, alone = exact
    seen = []

    def fail_twice(progress):
        seen.append(progress)
        if len(seen) in (5, 12):
            raise error

    assert texts(generate(made, rows, SETTINGS, on_progress=fail_twice)) == alone
    assert max(p.running for p in seen[:5]) > len(rows) / 2
    assert 0 < max(p.running for p in seen[5:12]) <= len(rows) / 2
    assert 0 < max(p.running for p in seen[12:]) <= len(rows) / 4


def test_running_out_of_memory_over_prompts_loses_no_row_and_repeats_none(exact, monkeypatch):
    made, rows, alone = exact
    passes, forward = [], made.model.forward

    def fail_twice(*args, **kwargs):
        passes.append(kwargs["input_ids"].shape)
        if [shape[1] > 1 for shape in passes].count(True) in (2, 3) and passes[-1][1] > 1:
            raise torch.OutOfMemoryError
        return forward(*args, **kwargs)

    monkeypatch.setattr(made.model, "forward", fail_twice)
    found = list(generate(made, rows, SETTINGS, limits=Limits(max_rows=len(rows) // 2)))
    assert len(found) == len(rows)
    assert texts(found) == alone
    assert [shape[1] > 1 for shape in passes].count(True) > 3


def test_memory_for_not_even_one_family_is_an_error(exact):
    made, rows, _ = exact

    def fail(_progress):
        raise torch.OutOfMemoryError

    with pytest.raises(MachineError, match="one prompt"):
        list(generate(made, rows, SETTINGS, on_progress=fail))


def test_other_errors_pass_through_and_leave_the_model_as_it_was(exact):
    made, rows, alone = exact

    def fail(_progress):
        raise RuntimeError("something else")

    before = made.model.config._attn_implementation
    with pytest.raises(RuntimeError, match="something else"):
        list(generate(made, rows, SETTINGS, on_progress=fail))
    assert made.model.config._attn_implementation == before
    assert not made.blocks[0]._forward_hooks
    assert texts(generate(made, rows[:3], SETTINGS)) == {k: alone[k] for k in list(alone)[:3]}


def test_completions_come_as_rows_end_and_cells_complete_early(exact):
    made, rows, _ = exact
    done = [c.row.cell for c in generate(made, rows, SETTINGS, limits=Limits(max_rows=6))]
    last = {cell: place for place, cell in enumerate(done)}
    assert last["c0"] < len(rows) / 2 < last["c5"]


def test_closing_the_iterator_early_gives_the_model_back(exact):
    made, rows, _ = exact
    iterator = generate(made, rows, SETTINGS)
    next(iterator)
    iterator.close()
    assert made.model.config._attn_implementation == "sdpa"
    assert len(list(generate(made, rows[:2], SETTINGS))) == 2


def test_long_and_short_rows_share_a_pool_through_growth_merges_and_packing():
    made = base_of("qwen2")
    settings = Generation(temperature=0.7, top_p=0.95, max_new_tokens=70)
    rows = mixed_rows(cells=8, questions=2, samples=2)
    pooled = texts(generate(made, rows, settings, limits=Limits(max_rows=10)))
    lengths = sorted(len(tokens) for tokens, _ in pooled.values())
    assert lengths[0] < 20
    assert lengths[-1] == 70
    alone = texts(c for row in rows[::6] for c in generate(made, [row], settings))
    assert {key: pooled[key] for key in alone} == alone


@pytest.mark.parametrize("architecture", ["gpt_neox", "gemma", "mistral", "qwen3"])
def test_other_architectures_pool_too(architecture, tmp_path):
    rows = mixed_rows(architecture, cells=4, questions=1, samples=1)
    oracle = Oracle(architecture, tmp_path)
    expected = {key_of(r): oracle.complete(r, SETTINGS) for r in rows}
    assert texts(generate(base_of(architecture), rows, SETTINGS)) == expected


def test_a_push_and_an_adapter_each_change_the_text():
    made = base_of("qwen2")
    row = mixed_rows()[0]
    rows = [replace(row, adapter=a, push=p) for a in adapters("qwen2") for p in PUSHED]
    assert len({c.token_ids for c in generate(made, rows, SETTINGS)}) == 20


def test_no_rows_give_no_completions():
    assert list(generate(base_of("qwen2"), [], SETTINGS)) == []


def test_a_prompt_that_would_be_cut_is_an_error_before_anything_runs():
    made, steps = base_of("qwen2"), []
    rows = [*mixed_rows(), replace(mixed_rows()[0], cell="long", prompt_ids=(1,) * 241)]
    with pytest.raises(ModelError, match="long, question 0: a prompt of 241 tokens and 16 new"):
        list(generate(made, rows, SETTINGS, on_progress=steps.append))
    assert steps == []
    fits = replace(rows[-1], prompt_ids=(1,) * 240)
    assert len(list(generate(made, [fits], SETTINGS))) == 1


def spoilt(number, at):
    """An adapter with some number in one of its matrices."""
    weights = adapters("qwen2")[1]
    tensors = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    tensors[at].view(-1)[3] = number
    return replace(weights, tensors=tensors)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(float("nan"), "the adapter holds NaN"), (3e38, "c1, question 0: the logits after 0 tokens")],
)
def test_one_bad_adapter_fails_its_own_rows_and_no_other(exact, number, reason):
    made, rows, alone = exact
    if made is not base_of("qwen2"):
        pytest.skip("one architecture will do")
    bad = spoilt(number, "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight")
    mixed = [replace(row, adapter=bad) if row.cell == "c1" else row for row in rows]
    engine = Engine(made, mixed)
    ended = list(engine.generate(SETTINGS))
    faults = [one for one in ended if isinstance(one, RowFault)]
    assert {fault.row.cell for fault in faults} == {"c1"}
    assert len(faults) == sum(row.cell == "c1" for row in rows)
    assert all(isinstance(fault.error, ModelError) for fault in faults)
    assert any(reason in str(fault.error) for fault in faults)
    sound = texts(one for one in ended if not isinstance(one, RowFault))
    assert sound == {key: text for key, text in alone.items() if key[0] != "c1"}
    with pytest.raises(ModelError, match=reason):
        list(engine.complete(SETTINGS))


def test_a_row_that_does_not_fit_is_a_fault_of_its_own_and_no_canary_s():
    base, rows = base_of("qwen2"), mixed_rows(cells=2, questions=1, samples=1)
    deep = Push(layer=99, vector=torch.ones(base.hidden_size))
    engine = Engine(base, [rows[0], replace(rows[1], push=deep)])
    assert [type(fault.error) for fault in engine.faults] == [SteeringError]
    assert set(engine.canaries((1, 2, 3))) == {rows[0].cell}
    kinds = [type(one) for one in engine.generate(SETTINGS)]
    assert kinds == [RowFault, Drawn]


def test_a_prompt_adapter_or_push_that_does_not_fit_is_an_error():
    base = base_of("qwen2")
    row = Row(cell="c", question=0, sample=0, seed=1, prompt_ids=(5, 6))
    assert len(list(generate(base, [row], SETTINGS))) == 1
    with pytest.raises(ModelError, match="no token"):
        list(generate(base, [replace(row, prompt_ids=())], SETTINGS))
    with pytest.raises(ModelError, match="does not fit the model"):
        list(generate(base, [replace(row, adapter=adapters("gpt2")[1])], SETTINGS))
    deep = Push(layer=99, vector=torch.ones(base.hidden_size))
    with pytest.raises(SteeringError, match="no layer"):
        list(generate(base, [replace(row, push=deep)], SETTINGS))


def test_the_same_objects_are_one_adapter_and_one_push_and_each_push_has_an_audit_of_its_own():
    base, rows = base_of("qwen2"), mixed_rows()
    engine = Engine(base, rows, audit_every=1)
    assert len(list(engine.generate(SETTINGS))) == len(rows)
    for push in {row.push for row in rows} - {None}:
        (audit,) = engine.audit(push)
        assert audit.layer == push.layer
        assert audit.push_norm == pytest.approx(float(push.vector.norm()), rel=1e-5)
    assert engine.subject.adapters.slots == len({row.adapter for row in rows} - {None})
    with pytest.raises(SteeringError, match="no row has this push"):
        engine.audit(replace(PUSHED[1]))


def test_a_window_shorter_than_a_row_is_an_error():
    made = base_of("mistral")
    config = made.model.config
    before = config.sliding_window
    config.sliding_window = 20
    try:
        with pytest.raises(ModelError, match="window of 20"):
            list(generate(made, mixed_rows("mistral"), SETTINGS))
    finally:
        config.sliding_window = before
