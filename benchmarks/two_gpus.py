"""A model of a true size with random weights, its blocks over several GPUs of one host.

    python benchmarks/two_gpus.py --size qwen2.5-32b --device cuda:0+1

Directions, a canary, generation and training are measured one after the other, each by itself: what
one ends with is told and the next goes on. What is found is one JSON on standard output. With
`--device cuda:0` the same is done on one GPU.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch

from steerproof.engine.generate import Engine, Limits
from steerproof.engine.jobs import Pooling
from steerproof.engine.lora.weights import LoraSpec, LoraWeights, fresh_weights, lora_sites
from steerproof.engine.rows import Row
from steerproof.model.base import Base
from steerproof.model.chat import chat_ids
from steerproof.model.push import Push
from steerproof.model.split import devices_of
from steerproof.spec.experiment import Generation
from steerproof.study.directions import Prompts, extract
from steerproof_bench.models import bench_base
from training_rate import rate

_GIB = 2**30
_LAST_START = 130
"""Seconds after which nothing more is begun."""


def _told(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()


class Measured:
    """What was found so far, and how it is found."""

    def __init__(self, gpus: int) -> None:
        self.found: dict[str, Any] = {}
        torch.cuda.init()
        self._gpus, self._began = range(gpus), time.perf_counter()

    def step(self, name: str, work: Callable[[], Mapping[str, Any]]) -> None:
        """Do a piece of work; its seconds, the peak of every GPU, and what it tells, or its end."""
        if time.perf_counter() - self._began > _LAST_START:
            self.found[name] = {"error": "no time left"}
            return
        _told(f"{name} begins")
        torch.cuda.empty_cache()
        for gpu in self._gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        began = time.perf_counter()
        try:
            told = dict(work())
        except Exception as error:  # noqa: BLE001  the other steps are still to be seen
            traceback.print_exc()
            told = {"error": f"{type(error).__name__}: {error}"[:500]}
        for gpu in self._gpus:
            torch.cuda.synchronize(gpu)
        told["seconds"] = round(time.perf_counter() - began, 2)
        told["peak_gib"] = [
            round(torch.cuda.max_memory_allocated(gpu) / _GIB, 2) for gpu in self._gpus
        ]
        self.found[name] = told
        _told(f"{name}: {told}")


def model_of(base: Base) -> Mapping[str, Any]:
    """What was built."""
    blocks = [str(next(block.parameters()).device) for block in base.blocks]
    return {
        "parameters": sum(weight.numel() for weight in base.model.parameters()),
        "blocks": {device: blocks.count(device) for device in dict.fromkeys(blocks)},
        "devices": [str(device) for device in devices_of(base.model)],
    }


def directions(base: Base) -> Mapping[str, Any]:
    """Residuals of eight personas and sixteen questions; tokens a second the second time."""
    personas = {f"p{i}": f"You are persona number {i}, and you like long walks." for i in range(8)}
    questions = tuple(f"What do you do on day {i} of your holidays?" for i in range(16))
    prompts = Prompts(
        personas=personas, neutral="Answer.", questions=questions, headline=tuple(personas),
        reference="p0",
    )  # fmt: skip
    layers = [0, len(base.blocks) // 2, len(base.blocks) - 1]
    extract(base, prompts, layers)
    began = time.perf_counter()
    found = extract(base, prompts, layers)
    seconds = time.perf_counter() - began
    tokens = sum(
        len(chat_ids(base.chat, system=system, user=question))
        for system in (*personas.values(), prompts.neutral)
        for question in questions
    )
    norms = {layer: float(one.by_persona.norm(dim=-1).mean()) for layer, one in found.items()}
    assert all(norm > 0 and norm < float("inf") for norm in norms.values()), norms
    return {"tokens": tokens, "tokens_per_second": round(tokens / seconds), "norms": norms}


def _rows(base: Base, count: int, adapters: list[LoraWeights | None]) -> list[Row]:
    """Rows of adapter after adapter; every other cell is pushed at the first or the last block."""
    pushes = [
        None,
        *(
            Push(layer=layer, vector=0.05 * torch.ones(base.hidden_size))
            for layer in (0, len(base.blocks) - 1)
        ),
    ]
    return [
        Row(
            cell=f"a{adapters.index(adapter)}p{i % 3}", question=i, sample=0, seed=1000 * place + i,
            prompt_ids=tuple(range(10 + i % 7, 60 + i % 11)), adapter=adapter, push=pushes[i % 3],
        )
        for place, adapter in enumerate(adapters)
        for i in range(count // len(adapters))
    ]  # fmt: skip


def _adapters(base: Base) -> list[LoraWeights | None]:
    """None, and two at random, of rank 32."""
    made: list[LoraWeights | None] = [None]
    for seed in (1, 2):
        fresh = fresh_weights(lora_sites(base), LoraSpec(rank=32, alpha=64.0, rslora=True), seed)
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in fresh.tensors.items():
            if "lora_B" in name:
                tensor.normal_(0.0, 0.002, generator=generator)
        made.append(fresh)
    return made


def canary(base: Base, adapters: list[LoraWeights | None]) -> Mapping[str, Any]:
    """The pool against rows alone, and against float32."""
    engine = Engine(base, _rows(base, 9, adapters))
    seen = engine.canaries(tuple(range(100, 130)))
    wrong = [str(one) for one in seen.values() if isinstance(one, Exception)]
    told = {
        name: {"error": one.error, "rounding": one.rounding, "follows": one.follows}
        for name, one in seen.items()
        if not isinstance(one, Exception)
    }
    return {"cells": told, **({"error": wrong} if wrong else {})}


def generation(
    base: Base, adapters: list[LoraWeights | None], rows: int, tokens: int
) -> Mapping[str, Any]:
    """Drawn tokens a second, after a first short round."""
    engine = Engine(base, _rows(base, rows, adapters))

    def drawn(most: int) -> tuple[int, float]:
        began = time.perf_counter()
        settings = Generation(temperature=0.7, top_p=0.95, max_new_tokens=most)
        ended = list(engine.complete(settings, limits=Limits(max_rows=rows)))
        return sum(len(one.token_ids) for one in ended), time.perf_counter() - began

    drawn(4)
    count, seconds = drawn(tokens)
    return {
        "rows": len(engine.rows),
        "tokens": count,
        "tokens_per_second": round(count / seconds),
        "step_ms": round(1e3 * seconds / tokens, 2),
    }


def trained(
    base: Base, adapters: int, steps: int, checkpointing: bool, norm: float
) -> Mapping[str, Any]:
    """Real tokens a second in training, over the second half of the steps and over all.

    The push is a fifth of the residual, whose norm is that after the middle block.
    """
    even = torch.ones(base.hidden_size) / base.hidden_size**0.5
    push = Push(layer=len(base.blocks) // 2, vector=0.2 * norm * even)
    pooling = Pooling(checkpointing=checkpointing)
    late, whole = rate(base, adapters, steps, pooling=pooling, push=push)
    return {
        "adapters": adapters,
        "tokens_per_second": round(late),
        "from_the_start": round(whole),
    }


def main() -> None:
    """Everything, and one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="qwen2.5-32b", help="as of bench --random-config")
    parser.add_argument("--device", default="cuda:0+1")
    parser.add_argument("--adapters", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=258, help="in generation, of three adapters")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--checkpointing", action="store_true")
    asked = parser.parse_args()
    measured = Measured(torch.cuda.device_count())
    bases: list[Base] = []

    def build() -> Mapping[str, Any]:
        bases.append(bench_base(None, asked.size, asked.device))
        return model_of(bases[0])

    measured.step("model", build)
    if bases:
        (base,) = bases
        made: list[LoraWeights | None] = []
        measured.step("directions", lambda: directions(base))
        measured.step("adapters drawn", lambda: {"drawn": made.extend(_adapters(base))})
        norms = measured.found["directions"].get("norms") or {}
        checks = asked.adapters, asked.steps, asked.checkpointing, norms[len(base.blocks) // 2]
        measured.step("generation, bare", lambda: generation(base, [None], 96, asked.tokens))
        measured.step("generation", lambda: generation(base, made, asked.rows, asked.tokens))
        measured.step("training", lambda: trained(base, *checks))
        measured.step("canary", lambda: canary(base, made))
    gpus = torch.cuda.device_count()
    told = {
        "size": asked.size,
        "device": asked.device,
        "gpus": [torch.cuda.get_device_name(gpu) for gpu in range(gpus)],
        "peers": gpus > 1 and torch.cuda.can_device_access_peer(0, 1),
        "torch": torch.__version__,
        **measured.found,
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
