"""Training's rate on a model of SmolLM2-135M's size with random weights, by adapters at once.

    python benchmarks/training_rate.py --device cuda

Rows are of 170 to 390 tokens, 16 a step, rank 32; the rate is over the second half of the steps, so
that what is done once (first shapes, captures of common ones) is mostly left out. `--profile` tells
what the GPU did in two steps instead, by kernel and by kind.
"""

import argparse
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from steerproof.engine import train as training
from steerproof.engine.batches import Example
from steerproof.engine.jobs import AdapterJob, Pooling, Recipe
from steerproof.engine.lora.weights import LoraSpec
from steerproof.model.base import Base
from steerproof.model.push import Push
from steerproof_bench.models import bench_base

LAYER, ROWS = 20, 16
KINDS = {
    "attention": ("flash", "fmha", "attention", "softmax", "_attend", "_queries_", "_keys_back"),
    "dropout": ("_kept", "_add_kept"),
    "adapters": ("_thin", "_widen", "_outputs_back", "_inputs_back"),
    "products": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "splitk"),
    "norms": ("norm", "_gradient_of_norm"),
    "rotation, gate": ("_rotate", "_gate"),
    "loss": ("_losses", "_gradient"),
    "optimiser": ("adam", "multi_tensor"),
    "copies": ("memcpy", "memset", "copy"),
}
"""Parts of kernels' names by what the kernels are for; the first kind that has one counts."""


def rate(
    base: Base,
    adapters: int,
    steps: int,
    on_step: Callable[[int], None] | None = None,
    pooling: Pooling | None = None,
    push: Push | None = None,
) -> tuple[float, float]:
    """Real tokens a second, over the second half of the steps and over all."""
    draw = random.Random(0)
    push = push or Push(layer=LAYER, vector=0.05 * torch.ones(base.hidden_size))

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1000) for _ in range(draw.randint(low, high)))

    jobs = [
        AdapterJob(
            key=f"adapter {i}",
            examples=tuple(
                Example(prompt_ids=ids(50, 70), completion_ids=ids(120, 320), push=push)
                for _ in range(ROWS * steps)
            ),
            seed=i,
        )
        for i in range(adapters)
    ]
    recipe = Recipe(
        lora=LoraSpec(rank=32, alpha=64.0, rslora=True), dropout=0.05, learning_rate=1e-4,
        warmup=0.05, epochs=1, rows_per_step=ROWS, weight_decay=0.0,
        max_grad_norm=1.0, max_length=1024,
    )  # fmt: skip
    ends: list[float] = []

    def step(*_: object) -> None:
        ends.append(time.perf_counter())
        if on_step is not None and len(ends) % adapters == 0:
            on_step(len(ends) // adapters)

    began = time.perf_counter()
    for ended in training.train(base, jobs, recipe, pooling, on_step=step):
        assert not hasattr(ended, "error"), ended
    half = steps // 2
    tokens = sum(example.length for job in jobs for example in job.examples)
    late = ends[-1] - ends[half * adapters - 1]
    return tokens * (steps - half) / steps / late, tokens / (ends[-1] - began)


def kind_of(kernel: str) -> str:
    """What a kernel is for."""
    low = kernel.lower()
    return next((k for k, parts in KINDS.items() if any(p in low for p in parts)), "elementwise")


def profiled(base: Base, adapters: int) -> str:
    """Two late steps: kernels, kinds, and the time in which nothing ran."""
    seen = profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU])
    times: list[float] = []

    def watch(step: int) -> None:
        if step in (13, 15):
            torch.cuda.synchronize()
            times.append(time.perf_counter())
            seen.start() if step == 13 else seen.stop()

    rate(base, adapters, 16, watch)
    kinds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    kernels: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    launches, spans = 0, []
    for event in seen.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            spans.append((event.time_range.start, event.time_range.end))
            for table, name in ((kinds, kind_of(event.name)), (kernels, event.name[:90])):
                table[name][0] += event.time_range.elapsed_us() / 1e3
                table[name][1] += 1
        elif event.name in ("cudaLaunchKernel", "cuLaunchKernel", "cuLaunchKernelEx",
                            "cudaLaunchKernelExC", "cudaGraphLaunch"):  # fmt: skip
            launches += 1
    busy = sum(spent for spent, _ in kinds.values())
    lines = [
        f"{adapters} adapters, two steps: {1e3 * (times[1] - times[0]):.1f} ms, kernels"
        f" {busy:.1f} ms, {sum(int(n) for _, n in kinds.values())} of them, {launches} launches",
        f"  nothing ran: {idle(spans)}",
    ]
    for table, most in ((kinds, 20), (kernels, 32)):
        ranked = sorted(table.items(), key=lambda pair: -pair[1][0])[:most]
        lines += [f"  {spent:9.2f} ms {int(n):7d}  {name}" for name, (spent, n) in ranked]
    return "\n".join(lines)


def idle(spans: list[tuple[float, float]]) -> str:
    """Milliseconds between kernels, by how long a pause is; spans are in microseconds."""
    pauses: dict[str, list[float]] = defaultdict(list)
    until = None
    for start, end in sorted(spans):
        if until is not None and start > until:
            length = start - until
            pauses["to 10 us" if length < 10 else "to 1 ms" if length < 1e3 else "above"].append(
                length
            )
        until = end if until is None else max(until, end)
    return ", ".join(f"{sum(p) / 1e3:.1f} ms in {len(p)} pauses {k}" for k, p in pauses.items())


def main() -> None:
    """A line for each number of adapters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--adapters", type=int, nargs="+", default=[16, 4, 1])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--size", default="smollm2-135m", help="as of bench --random-config")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--padded", action="store_true", help="rows padded, not packed")
    asked = parser.parse_args()
    if asked.padded:
        training.packs = lambda _base: False
    base = bench_base(None, asked.size, asked.device)
    for adapters in asked.adapters:
        if asked.profile:
            sys.stdout.write(profiled(base, adapters) + "\n")
            continue
        late, whole = rate(base, adapters, asked.steps)
        found = f"{late:,.0f} tokens a second, {whole:,.0f} from the start"
        sys.stdout.write(f"{adapters} adapters: {found}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
