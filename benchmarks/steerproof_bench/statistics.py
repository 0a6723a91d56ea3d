"""The registered bootstrap against the same thing written as its definition reads."""

import math
import statistics
import time
from dataclasses import dataclass

import numpy as np
import scipy
import scipy.stats
from jaxtyping import Float

from steerproof.decide.analysis.resampling import (
    BLOCK,
    Counts,
    Picks,
    Resampling,
    question_picks,
    rate_draws,
    registered_draws,
    stream,
)
from steerproof_bench.comparison import Comparison, Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Counts of one steered cell per persona, and the bridge."""

    counts: Counts
    bridge: Float[np.ndarray, " personas"]


def example(personas: int = 10, questions: int = 20, samples: int = 5, seed: int = 0) -> Work:
    """Binomial counts with rates spread evenly over (0, 1), and a bridge of distinct rates."""
    rng = stream(seed, "bench")
    chance = (np.arange(personas) + 0.5) / personas
    fired = rng.binomial(samples, chance[:, None], size=(personas, questions)).astype(float)
    counts = Counts(
        fired=fired,
        total=np.full(fired.shape, float(samples)),
        questions=np.full(personas, questions),
    )
    return Work(counts=counts, bridge=rng.permutation(personas) / personas)


def plain_draws(work: Work, picks: Picks) -> list[float]:
    """Spearman in every resample, as its definition reads: loops, lists and one library call.

    Args:
        work: What is resampled.
        picks: The drawn questions.
    """
    fired = [[int(value) for value in row] for row in work.counts.fired]
    total = [[int(value) for value in row] for row in work.counts.total]
    bridge = [float(value) for value in work.bridge]
    drawn = [persona.tolist() for persona in picks]
    found = []
    for iteration in range(len(drawn[0])):
        rates = []
        for persona, questions in enumerate(drawn):
            hits = 0
            trials = 0
            for question in questions[iteration]:
                hits += fired[persona][question]
                trials += total[persona][question]
            rates.append(hits / trials)
        if len(set(rates)) == 1:  # a constant has no ranks to correlate
            found.append(math.nan)
        else:
            result = scipy.stats.spearmanr(rates, bridge)
            found.append(float(result.statistic))  # pyright: ignore[reportAttributeAccessIssue]
    return found


def same_picks(work: Work, plan: Resampling) -> list[Picks]:
    """The questions that `rate_draws` draws under a plan."""
    sizes = [min(BLOCK, plan.iterations - start) for start in range(0, plan.iterations, BLOCK)]
    return [
        question_picks(stream(plan.seed, "questions", index), size, work.counts.questions)
        for index, size in enumerate(sizes)
    ]


def compare(work: Work | None = None, *, iterations: int = 10_000, repeats: int = 5) -> Comparison:
    """Time the registered bootstrap and the plain one on the same drawn questions.

    Ours includes drawing the questions; the plain one is given them.

    Args:
        work: What is resampled; none takes ten personas with twenty questions of five samples.
        iterations: Resamples.
        repeats: Our runs, of which the median counts; the plain one runs once.

    Raises:
        ArithmeticError: the two disagree by more than rounding.
    """
    work = work or example()
    plan = Resampling(seed=0, iterations=iterations)
    ours = registered_draws(rate_draws(work.counts, plan), work.bridge)  # also warms up
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        registered_draws(rate_draws(work.counts, plan), work.bridge)
        seconds.append(time.perf_counter() - start)
    picks = same_picks(work, plan)
    start = time.perf_counter()
    theirs = np.concatenate([plain_draws(work, block) for block in picks])
    elapsed = time.perf_counter() - start
    if not np.array_equal(np.isnan(ours), np.isnan(theirs)):
        raise ArithmeticError("the two bootstraps are undefined on different resamples")
    difference = float(np.nanmax(np.abs(ours - theirs), initial=0.0))
    if difference > 1e-12:
        raise ArithmeticError(f"the two bootstraps differ by {difference:.2g}")
    personas, questions = work.counts.total.shape
    peer = Peer(
        name=f"plain Python with scipy {scipy.__version__} spearmanr",
        seconds=elapsed,
        difference=difference,
    )
    return Comparison(
        work=f"{iterations} resamples of {personas} personas x {questions} questions",
        seconds=statistics.median(seconds),
        peers=(peer,),
    )
