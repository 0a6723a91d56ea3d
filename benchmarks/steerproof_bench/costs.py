"""What the work costs at least, and how near to the machine's limits it was done.

Training takes `4 N T + 6 P T` floating-point operations: the forward pass and the gradient of the
inputs for the frozen N, and for the P adapter weights the gradient of the weights too. Generation
takes `2 N` a token, and reads every weight once a step and every key and value once a token; what
several rows have in common counts once.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from steerproof.engine.jobs import AdapterJob
from steerproof.engine.lora.weights import LoraSpec, lora_sites
from steerproof.engine.memory import bytes_per_token
from steerproof.model.base import Base
from steerproof_bench.cells import CellWork
from steerproof_bench.limits import copy_bandwidth, matrix_peak
from steerproof_bench.models import matrix_parameters


def generation_limit(
    work: CellWork, drawn: Mapping[str, Sequence[tuple[int, ...]]], seconds: float
) -> dict[str, float]:
    """Shares of the measured matrix peak and copy bandwidth that a generation reached.

    Attention's products are left out: they are a few per cent. The fewest steps are those of the
    longest row.
    """
    base = work.base
    prompts: dict[Any, set[tuple[int, ...]]] = defaultdict(set)
    answers: dict[Any, list[tuple[int, ...]]] = defaultdict(list)
    lengths: dict[Any, int] = {}
    most = work.settings.max_new_tokens
    for name in work.names:
        for tokens, row in zip(drawn[name], work.rows[name], strict=True):
            prompts[row.adapter, row.push].add(row.prompt_ids[:-1])
            # The last token drawn is not fed; the one that ends a row is not in its text.
            answers[row.group].append(tokens[: most - 1])
            lengths[row.group] = len(row.prompt_ids)
    # Each step reads its prompt, the prompt's last token and the past of the answer.
    steps = [
        lengths[family] + past
        for family, texts in answers.items()
        for past in (0, *distinct_pasts(texts))
    ]
    once = sum(len(distinct_pasts(each)) for each in prompts.values())
    parameters = matrix_parameters(base)
    flops = 2.0 * parameters * (len(steps) + once)
    read = sum(bytes_per_token(base, base.chat.context).values()) * float(sum(steps))
    longest = max(len(tokens) for texts in answers.values() for tokens in texts) + 1
    read += longest * parameters * base.dtype.itemsize
    peak = matrix_peak(base.device, base.dtype)
    bandwidth = copy_bandwidth(base.device)
    return {
        "matrix_peak_flops": peak,
        "copy_bandwidth_bytes": bandwidth,
        "share_of_matrix_peak": flops / seconds / peak,
        "share_of_copy_bandwidth": read / seconds / bandwidth,
        "limit_seconds": max(flops / peak, read / bandwidth),
    }


def distinct_pasts(sequences: Iterable[Sequence[int]]) -> list[int]:
    """The length of everything that a sequence begins with, each beginning once."""
    nodes: dict[tuple[int, int], int] = {}
    lengths = []
    for tokens in sequences:
        node = -1
        for length, token in enumerate(tokens, start=1):
            node = nodes.setdefault((node, token), len(nodes))
            if node == len(lengths):
                lengths.append(length)
    return lengths


def training_limit(
    base: Base, spec: LoraSpec, jobs: Sequence[AdapterJob], epochs: int, seconds: float
) -> dict[str, float]:
    """Share of the measured matrix peak that a training reached, pads not counted."""
    tokens = epochs * sum(example.length for job in jobs for example in job.examples)
    adapter = spec.rank * sum(site.inputs + site.outputs for site in lora_sites(base))
    flops = (4.0 * matrix_parameters(base) + 6.0 * adapter) * tokens
    peak = matrix_peak(base.device, base.dtype)
    return {
        "tokens": float(tokens),
        "tokens_per_second": tokens / seconds,
        "matrix_peak_flops": peak,
        "share_of_matrix_peak": flops / seconds / peak,
        "limit_seconds": flops / peak,
    }
