import dataclasses

import pytest
import torch

from steerproof.engine.generate import generate
from steerproof.engine.score import score
from steerproof.errors import ModelError, SteerproofError
from steerproof_bench import agreement, generation
from steerproof_bench.cells import cell_work, regrouped
from steerproof_bench.comparison import to_json
from steerproof_bench.generation import compare
from steerproof_bench.peft_generation import PeftCells
from tests.engine.definition import score_alone
from tests.experiments import small_experiment
from tests.tiny import tiny_base


def work(**changes):
    """Six cells of four adapters on a tiny model, two questions each."""
    dtype = changes.pop("dtype", torch.float32)
    sizes = {"count": 6, "rows": 4, "adapters_used": 4, "run": None, **changes}
    return cell_work(tiny_base(dtype=dtype), small_experiment(), **sizes)


def test_the_cells_mix_arms_layers_prompts_and_strengths():
    made = work(count=18, adapters_used=9)
    cells = [name.split(".") for name in made.names]
    assert {cell[0] for cell in cells} == {"A", "B", "C", "A-iso", "A-L10"}
    assert {row.push is None for row in made.all_rows} == {True, False}
    assert {row.push.layer for row in made.all_rows if row.push} == {0, 1}
    assert len({row.adapter for row in made.all_rows}) == 9
    assert len(made.all_rows) == 72


@pytest.mark.parametrize("merged", [True, False])
def test_a_peer_scores_a_fixed_text_as_a_plain_forward_pass_of_ours_does(merged):
    made = work()
    peers = PeftCells(made)
    for _ in range(2):  # merging leaves nothing behind
        for name in made.names:
            row = made.rows[name][0]
            ours = score_alone(made.base, row, made.text)
            torch.testing.assert_close(
                peers.log_probs(name, merged=merged), ours, atol=2e-4, rtol=0
            )


def test_the_pushes_and_the_adapters_matter_to_what_is_compared():
    made = work()
    row = next(row for row in made.all_rows if row.push)
    plain = score(made.base, [row], [made.text])[0]
    for change in ({"push": None}, {"adapter": None}):
        other = score(made.base, [dataclasses.replace(row, **change)], [made.text])[0]
        assert (plain - other).abs().max() > 1e-2


def test_a_peer_completes_every_row_and_cuts_at_the_end_token():
    made = work()
    drawn = PeftCells(made).generate(merged=False)
    assert {name: len(rows) for name, rows in drawn.items()} == dict.fromkeys(made.names, 4)
    lengths = [len(row) for rows in drawn.values() for row in rows]
    assert max(lengths) <= made.settings.max_new_tokens
    ends = made.base.eos_ids
    assert not any(token in ends for rows in drawn.values() for row in rows for token in row)


def test_a_peer_draws_the_same_from_the_same_seed_and_leaves_the_global_generator_alone():
    peers = PeftCells(work())
    before = torch.random.get_rng_state()
    first = peers.generate(merged=False, seed=1)
    assert peers.generate(merged=False, seed=1) == first
    assert peers.generate(merged=False, seed=2) != first
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dealing_rows_to_more_adapters_changes_nothing_but_the_adapter():
    made = work()
    dealt = regrouped(made, 9)
    pairs = list(zip(made.all_rows, dealt.all_rows, strict=True))
    assert all(dataclasses.replace(b, adapter=a.adapter) == a for a, b in pairs)
    assert {row.adapter for row in dealt.all_rows} == set(dealt.adapters)
    assert len(list(generate(dealt.base, dealt.all_rows, dealt.settings))) == len(pairs)


def test_the_comparison_has_both_peers_and_the_ratio_over_the_stronger_one():
    found = to_json(compare(work(), repeats=1, growth=(1, 3)))
    assert [peer["name"].split(" (")[0] for peer in found["peers"]] == [
        "for each cell: PEFT merge, hook, generate",
        "base once, PEFT unmerged, hook, generate",
    ]
    assert list(found)[-1] == "ratio"
    assert found["ratio"] == pytest.approx(min(peer["ratio"] for peer in found["peers"]))
    assert all(0 <= peer["difference"] < 1e-3 for peer in found["peers"])
    assert {"seconds_1_adapters", "seconds_3_adapters"} <= set(found["numbers"])
    assert 0 < found["numbers"]["share_of_matrix_peak"] < 1
    assert found["numbers"]["peak_memory_bytes"] > 0


def test_a_peer_that_does_some_cells_is_timed_as_if_it_had_done_all():
    found = compare(work(), repeats=1, peer_cells=2)
    for peer in found.peers:
        assert peer.numbers["cells_timed"] == 2
        timed = peer.numbers["tokens"] / peer.numbers["tokens_per_second"]
        assert peer.seconds == pytest.approx(3 * timed)
    with pytest.raises(SteerproofError, match="7 cells asked for; there are 1 to 6"):
        compare(work(), repeats=1, peer_cells=7)


def test_a_peer_that_computes_something_else_is_an_error(monkeypatch):
    plain = PeftCells.log_probs
    monkeypatch.setattr(
        generation.PeftCells,
        "log_probs",
        lambda self, name, merged: plain(self, name, merged=merged) + 0.01,
    )
    with pytest.raises(ModelError, match=r"log-probabilities differ from ours by 0\.01"):
        compare(work(), repeats=1)


def test_in_half_precision_both_are_held_to_what_float32_gives(monkeypatch):
    made = work(dtype=torch.bfloat16, count=2)
    found = compare(made, repeats=0)
    unmerged = found.peers[1]
    effect = unmerged.numbers["float32_difference_of_bare_base"]
    for numbers in (found.numbers, unmerged.numbers):
        assert 0 < numbers["float32_difference"] < 0.25 * effect
    plain = agreement.score

    def without_adapters(base, rows, texts):
        return plain(base, [dataclasses.replace(row, adapter=None) for row in rows], texts)

    monkeypatch.setattr(agreement, "score", without_adapters)
    with pytest.raises(ModelError, match=r"ours: .* from those in float32; adapter and push"):
        compare(made, repeats=0)


def test_a_peer_whose_marker_fires_at_another_rate_is_an_error(monkeypatch):
    made = dataclasses.replace(work(rows=6), marker="")  # fires always
    seen = generation._seen
    given = iter([1.0, 1.0, 0.0])  # ours, ours of the peer's cells, then the first peer's

    def judged(work, drawn):
        found = seen(work, drawn)
        return dataclasses.replace(found, fired=int(found.fired * next(given)))

    monkeypatch.setattr(generation, "_seen", judged)
    with pytest.raises(ModelError, match=r"firing rate 0\.000, ours 1\.000"):
        compare(made, repeats=1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"count": 0}, "0 cells of 4 adapters asked for; there are 1 to"),
        ({"adapters_used": 99}, "99 adapters asked for; there are 1 to 21"),
        ({"rows": 3}, "3 rows a cell are not whole questions of 2 samples"),
        ({"rows": 20}, "10 questions asked for; there are 1 to 3"),
    ],
)
def test_a_number_that_cannot_be_had_is_an_error(changes, says):
    with pytest.raises(SteerproofError, match=says):
        work(**changes)


def test_a_run_without_the_adapter_is_an_error(tmp_path):
    with pytest.raises(SteerproofError, match=r"has no finished adapter/A\."):
        work(run=tmp_path)
