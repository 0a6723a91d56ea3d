"""Does the rig see what was planted, and only that? Both controls, once per seed.

    python benchmarks/controls.py --seeds 10 --negative 40 --jobs 8 --dir runs/controls --out FILE

The shuffled control is the one whose false SUPPORTED are counted, so it has more seeds. The seed
decides the training rows, their bystanders and order, the adapters' first weights, the random
directions and every sampled token. A run that was stopped goes on; a finished one is read.

`--jobs` does several runs at once, each a process on cores of its own, an equal share of those that
this process may use. A run is the same program with the same seed whoever runs beside it, and the
table lists the runs in the same order; without the option they come one after another.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from scipy.stats import binomtest

from steerproof.spec.yaml_io import shipped

CONTROLS = ("positive-control", "negative-control")


def with_seed(text: str, seed: int) -> str:
    """An experiment file with another seed."""
    changed, count = re.subn(r"^seed: \d+$", f"seed: {seed}", text, flags=re.MULTILINE)
    if count != 1:
        raise SystemExit(f"the experiment file has {count} lines `seed: N`, not one")
    return changed


def run(control: str, seed: int, place: Path) -> dict[str, Any]:
    """One run on the CPU to its verdict; returns what decided it.

    It takes all cores of the calling thread. The device is named, so that a GPU that happens to be
    there is not shared by all jobs, and the rounding is that of the table that is committed.
    """
    place.mkdir(parents=True, exist_ok=True)
    source = place / f"{control}.yaml"
    source.write_text(with_seed(shipped()[control].read_text(), seed))
    command = [sys.executable, "-m", "steerproof", "run", str(source), "--dir", str(place / "run")]
    command += ["--device", "cpu", "--json"]
    with (place / "log.txt").open("wb") as log:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=log)
    return summary(control, seed, json.loads((place / "run/results/verdict.json").read_bytes()))


def summary(control: str, seed: int, verdict: dict[str, Any]) -> dict[str, Any]:
    """What decided a verdict, without the distributions."""
    arm = verdict["arms"][verdict["arm"]]
    primary = arm["primary"]
    kills = arm["kills"]
    return {
        "control": control,
        "seed": seed,
        "passes": primary["passes"] and not any(kill["fired"] for kill in kills.values()),
        "verdict": verdict["verdict"],
        "reason": verdict["reason"],
        "rho": primary["rho"],
        "interval": primary["interval"],
        "two_level": primary["two_level"],
        "kills": sorted(name for name, kill in kills.items() if kill["fired"]),
        "undecided_kills": sorted(name for name, kill in kills.items() if kill["fired"] is None),
        "steered": primary["rates"],
        "bridge": verdict["bridge"],
        "lock": verdict["lock"],
        "answers": answered(verdict["answers"]),
    }


def answered(answers: dict[str, Any]) -> dict[str, Any]:
    """What the three answers say, and the matrix behind them, under either label."""
    tested = [
        {key: one[key] for key in ("trained_label", "own", "held_out", "s", "p", "own_first")}
        for one in answers["direction"]["matrices"]
        if (one["arm"], one["columns"], one["scale"]) == ("A", "centroid", "rate")
    ]
    return {
        "ranking": answers["ranking"]["answer"],
        "reason": answers["ranking"]["reason"],
        "reads": answers["direction"]["reads"],
        "carries": answers["direction"]["carries"],
        "matrices": tested,
    }


def shares(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Share of runs in which arm A passes, with its 95% Wilson interval, by control."""
    found = {}
    for control in CONTROLS:
        mine = [one["passes"] for one in runs if one["control"] == control]
        if mine:
            bounds = binomtest(sum(mine), len(mine)).proportion_ci(method="wilson")
            interval = [round(bounds.low, 4), round(bounds.high, 4)]
            found[control] = {"passes": sum(mine), "runs": len(mine), "interval": interval}
    return found


def supported(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """SUPPORTED of the title's question, by control: as registered, and with the answers.

    The bounds are exact (Clopper-Pearson): of few or no events an approximate one says too little.
    """
    found: dict[str, Any] = {}
    for control in CONTROLS:
        mine = [one for one in runs if one["control"] == control and "answers" in one]
        for rule, counted in (
            ("registered", [one["verdict"] == "SUPPORTED" for one in mine]),
            ("answers", [one["answers"]["ranking"] == "SUPPORTED" for one in mine]),
        ):
            if mine:
                bounds = binomtest(sum(counted), len(mine)).proportion_ci(method="exact")
                interval = [round(bounds.low, 4), round(bounds.high, 4)]
                found.setdefault(control, {})[rule] = {
                    "supported": sum(counted),
                    "runs": len(mine),
                    "interval": interval,
                }
    return found


def share_cores(jobs: int) -> list[set[int]]:
    """The cores this process may use, in one disjoint and equal set a job; the rest stay idle.

    Raises:
        SystemExit: No job was asked for, or more than there are cores, or more than one where the
            system cannot say which core a process may use.
    """
    if not hasattr(os, "sched_getaffinity"):
        if jobs == 1:
            return [set()]
        raise SystemExit(f"--jobs {jobs}: this system cannot give each its own cores; leave it out")
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= jobs <= len(cores):
        raise SystemExit(f"--jobs {jobs}: from 1 to {len(cores)}, the cores that may be used here")
    size = len(cores) // jobs
    return [set(cores[i * size : (i + 1) * size]) for i in range(jobs)]


def run_all(
    asked: Sequence[tuple[str, int]], place: Path, jobs: int
) -> Iterator[list[dict[str, Any]]]:
    """Every run asked for, `jobs` at once; gives, after each, all that are done in the order asked.

    Raises:
        CalledProcessError: A run failed. None is begun after that; those under way are finished.
    """
    shares: SimpleQueue[set[int]] = SimpleQueue()
    for share in share_cores(jobs):
        shares.put(share)

    def take_cores() -> None:
        if cores := shares.get():
            os.sched_setaffinity(0, cores)  # of this thread, and of what it starts

    done: dict[tuple[str, int], dict[str, Any]] = {}
    with ThreadPoolExecutor(jobs, initializer=take_cores) as pool:
        begun = {
            pool.submit(run, control, seed, place / f"{control}-{seed}"): (control, seed)
            for control, seed in asked
        }
        try:
            for one in as_completed(begun):
                done[begun[one]] = one.result()
                yield [done[name] for name in asked if name in done]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def main() -> None:
    """Run every control with every seed; the table is written after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--negative", type=int, help="seeds of the shuffled control; none: the same"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each on its own cores")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    negative = asked.seeds if asked.negative is None else asked.negative
    seeds = dict(zip(CONTROLS, (asked.seeds, negative), strict=True))
    command = (
        f"python benchmarks/controls.py --seeds {asked.seeds} --negative {negative} "
        "--dir DIR --out FILE"
    )
    every = [(c, seed) for seed in range(max(seeds.values())) for c in CONTROLS if seed < seeds[c]]
    for runs in run_all(every, asked.dir, asked.jobs):
        table = {
            "command": command,
            "shares": shares(runs),
            "supported": supported(runs),
            "runs": runs,
        }
        asked.out.write_text(json.dumps(table, indent=1) + "\n")
        sys.stderr.write(f"{len(runs)} of {len(every)} runs\n")


if __name__ == "__main__":
    main()
