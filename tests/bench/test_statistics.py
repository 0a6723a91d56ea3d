import numpy as np
import pytest

from steerproof.decide.analysis.resampling import Counts, Resampling, rate_draws, registered_draws
from steerproof_bench import statistics
from steerproof_bench.comparison import Comparison, Peer, to_json
from steerproof_bench.statistics import Work, compare, example, plain_draws, same_picks


def ragged() -> Work:
    """Personas with 20, 7 and 1 to 4 questions, few samples: ties, constants, odd totals."""
    rng = np.random.default_rng(1)
    questions = np.array([20, 7, 1, 2, 3, 4])
    asked = np.arange(20) < questions[:, None]
    total = np.where(asked, rng.integers(1, 4, (6, 20)), 0)
    fired = rng.binomial(total, 0.4)
    counts = Counts(fired=fired.astype(float), total=total.astype(float), questions=questions)
    return Work(counts=counts, bridge=np.array([0.1, 0.4, 0.4, 0.2, 0.9, 0.3]))


@pytest.mark.parametrize("work", [example(), ragged()], ids=["even", "ragged"])
def test_the_definition_gives_the_same_rho_in_every_resample(work):
    plan = Resampling(seed=0, iterations=1100)
    ours = registered_draws(rate_draws(work.counts, plan), work.bridge)
    theirs = np.concatenate([plain_draws(work, block) for block in same_picks(work, plan)])
    np.testing.assert_allclose(ours, theirs, atol=1e-12, equal_nan=True)


def test_a_comparison_reports_the_ratio_over_the_fastest_peer_last():
    peers = tuple(
        Peer(name=n, seconds=s, difference=0.0) for n, s in (("slow", 9.0), ("fast", 3.0))
    )
    found = to_json(Comparison(work="w", seconds=0.5, peers=peers))
    assert list(found)[-1] == "ratio"
    assert found["ratio"] == 6.0
    assert [peer["ratio"] for peer in found["peers"]] == [18.0, 6.0]


def test_a_bench_runs_and_says_what_it_did():
    found = compare(example(personas=4, questions=3), iterations=50, repeats=1)
    assert found.work == "50 resamples of 4 personas x 3 questions"
    assert found.peers[0].difference <= 1e-12


def test_a_bench_of_different_results_is_an_error(monkeypatch):
    def shifted(work, picks):
        return [value + 0.1 for value in plain_draws(work, picks)]

    monkeypatch.setattr(statistics, "plain_draws", shifted)
    with pytest.raises(ArithmeticError, match=r"differ by 0\.1"):
        compare(example(), iterations=50, repeats=1)
