"""Training many adapters in one step against TRL's `SFTTrainer`, one adapter after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version

import torch

from steerproof.engine.jobs import AdapterJob, TrainedAdapter
from steerproof.engine.train import train
from steerproof.errors import ModelError
from steerproof_bench.comparison import Comparison, Peer, Say, alternate, silent, timed
from steerproof_bench.costs import training_limit
from steerproof_bench.jobs import JobWork
from steerproof_bench.limits import synchronise
from steerproof_bench.memory import peak_memory
from steerproof_bench.trl_training import TrlAdapter, TrlTrainer

FIRST_STEPS = 2
"""Steps whose loss does not depend on the steps before by more than the first, warming one."""
TOLERANCES = {torch.float64: (1e-9, 1e-6), torch.float32: (1e-4, 0.05)}
"""Largest difference of a loss, nats: in the first steps, and in any. Rounding grows with steps."""
HALF_TOLERANCES = (0.05, 0.2)
"""The same in bfloat16."""
_NAME = "SFTTrainer, PEFT and a hook, one adapter after the other"

Ours = Mapping[str, TrainedAdapter]


def compare(
    work: JobWork, *, repeats: int, growth: Sequence[int] = (), say: Say = silent
) -> Comparison:
    """Time the pool and the peer on the same adapters, and check that they learn the same.

    Args:
        work: The adapters.
        repeats: Timed rounds after a first one, whose losses are compared; with 0, that is timed.
        growth: Numbers of adapters, of one step each, to time, ours alone.
        say: Told every time that is taken.

    Raises:
        ModelError: The peer's losses are not ours, or an adapter of ours failed.
        MachineError: TRL is not installed.
    """
    device = work.base.device
    first: dict[str, float] = {}
    with peak_memory(device) as mine:
        ours, first["ours"] = timed(lambda: _pooled(work))
    say(f"first run, ours: {first['ours']:.1f} s")
    grown = _growth(work, growth, repeats)
    peer = TrlTrainer(work)
    with peak_memory(device) as peak:
        theirs, first["trl"] = timed(peer.train)
    say(f"first run, trl: {first['trl']:.1f} s")
    difference = _check(work, ours, theirs)
    ways = {"ours": lambda: _pooled(work), "trl": peer.train}
    times = alternate(ways, repeats, first, say)
    seconds, trl = times["ours"].seconds, times["trl"].seconds
    limits = training_limit(work.base, work.recipe.lora, work.jobs, work.recipe.epochs, seconds)
    return Comparison(
        work=_title(work),
        seconds=seconds,
        spread=(times["ours"].least, times["ours"].most),
        numbers={**limits, "peak_memory_bytes": float(mine.bytes), **grown},
        peers=(
            Peer(
                name=f"trl {version('trl')} {_NAME} (peft {version('peft')})",
                seconds=trl,
                spread=(times["trl"].least, times["trl"].most),
                difference=difference,
                numbers={
                    "tokens_per_second": limits["tokens"] / trl,
                    "weight_difference": _weight_difference(ours, theirs),
                    "peak_memory_bytes": float(peak.bytes),
                },
            ),
        ),
    )


def compare_adapters(work: JobWork) -> dict[str, float]:
    """Train in the pool and one at a time with TRL; how far apart losses and weights end.

    Raises:
        ModelError: A loss is beyond the tolerance.
    """
    ours, theirs = _pooled(work), TrlTrainer(work).train()
    return {
        "loss_difference": _check(work, ours, theirs),
        "weight_difference": _weight_difference(ours, theirs),
    }


def _pooled(work: JobWork) -> Ours:
    found = {}
    for ended in train(work.base, work.jobs, work.recipe):
        if not isinstance(ended, TrainedAdapter):
            raise ended.error
        found[ended.key] = ended
    synchronise(work.base.device)
    return found


def _growth(work: JobWork, counts: Sequence[int], repeats: int) -> dict[str, float]:
    """Seconds per step of each adapter, with different numbers of adapters to train."""
    rows = 2 * work.recipe.rows_per_step
    dealt = {}
    for count in counts:
        jobs = [_short(work.jobs[i % len(work.jobs)], str(i), rows) for i in range(count)]
        dealt[f"step_seconds_{count}_adapters"] = replace(work, jobs=tuple(jobs))
    first = {name: timed(lambda w=one: _pooled(w))[1] for name, one in dealt.items()}
    works = {name: lambda w=one: _pooled(w) for name, one in dealt.items()}
    times = alternate(works, repeats, first)
    return {
        name: time.seconds / (len(dealt[name].jobs) * dealt[name].steps)
        for name, time in times.items()
    }


def _short(job: AdapterJob, key: str, rows: int) -> AdapterJob:
    return replace(job, key=key, examples=job.examples[:rows])


def _check(work: JobWork, ours: Ours, theirs: Mapping[str, TrlAdapter]) -> float:
    """Largest difference of a step's loss.

    Raises:
        ModelError: It is beyond the tolerance, or the peer took another number of steps.
    """
    early, late = TOLERANCES.get(work.base.dtype, HALF_TOLERANCES)
    worst = 0.0
    for key, mine in ours.items():
        other = theirs[key].losses
        if len(other) != len(mine.losses):
            raise ModelError(f"{key}: {len(other)} steps by TRL, ours took {len(mine.losses)}")
        for step, (a, b) in enumerate(zip(mine.losses, other, strict=True)):
            limit = early if step < FIRST_STEPS else late
            if not abs(a - b) <= limit:
                raise ModelError(
                    f"{key}, step {step + 1}: TRL's loss is {b:.5f}, ours {a:.5f}; more than"
                    f" {limit:g} apart"
                )
            worst = max(worst, abs(a - b))
    return worst


def _weight_difference(ours: Ours, theirs: Mapping[str, TrlAdapter]) -> float:
    """Largest distance of an adapter from the peer's, relative to its own norm."""
    worst = 0.0
    for key, mine in ours.items():
        pairs = [
            (t.double(), theirs[key].tensors[n].double()) for n, t in mine.weights.tensors.items()
        ]
        far = sum(float((a - b).square().sum()) for a, b in pairs)
        size = sum(float(a.square().sum()) for a, _ in pairs)
        worst = max(worst, (far / size) ** 0.5)
    return worst


def _title(work: JobWork) -> str:
    base, jobs = work.base, work.jobs
    return (
        f"{len(jobs)} adapters of rank {work.recipe.lora.rank}, {work.steps} steps of"
        f" {work.recipe.rows_per_step} rows each, {type(base.model).__name__} of width"
        f" {base.hidden_size} on {base.device} in {str(base.dtype).removeprefix('torch.')},"
        f" {torch.get_num_threads()} threads; differences are of a step's loss, nats"
    )
