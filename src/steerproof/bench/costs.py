"""What the work costs at least, and how near to the machine's limits it was done.

Training takes `4 N T + 6 P T` floating-point operations: the forward pass and the gradient of the
inputs for the frozen N, and for the P adapter weights the gradient of the weights too. Generation
takes `2 N` a token, and reads every weight once a step and every key and value once a token.
"""

from collections.abc import Mapping, Sequence

from steerproof.adapt.jobs import AdapterJob
from steerproof.bench.cells import CellWork
from steerproof.bench.limits import copy_bandwidth, matrix_peak
from steerproof.bench.models import matrix_parameters
from steerproof.collect.memory import bytes_per_token
from steerproof.model.base import Base
from steerproof.model.lora import LoraSpec, lora_sites


def generation_limit(
    work: CellWork, drawn: Mapping[str, Sequence[tuple[int, ...]]], seconds: float
) -> dict[str, float]:
    """Shares of the measured matrix peak and copy bandwidth that a generation reached.

    The prompt of a question is counted once a cell. Attention's products are left out: they are
    a few per cent. The fewest steps are those of the longest row.
    """
    base = work.subject.base
    longest = work.settings.max_new_tokens
    prompts = {row.family: len(row.prompt_ids) for row in work.all_rows}
    steps = [
        (min(len(tokens) + 1, longest), len(row.prompt_ids))
        for name in work.names
        for tokens, row in zip(drawn[name], work.rows[name], strict=True)
    ]
    parameters = matrix_parameters(base)
    flops = 2.0 * parameters * (sum(n for n, _ in steps) + sum(n - 1 for n in prompts.values()))
    keys = bytes_per_token(work.subject, base.context)
    read = keys * sum(n * prompt + n * (n + 1) / 2 for n, prompt in steps)
    read += max(n for n, _ in steps) * parameters * base.dtype.itemsize
    peak = matrix_peak(base.device, base.dtype)
    bandwidth = copy_bandwidth(base.device)
    return {
        "matrix_peak_flops": peak,
        "copy_bandwidth_bytes": bandwidth,
        "share_of_matrix_peak": flops / seconds / peak,
        "share_of_copy_bandwidth": read / seconds / bandwidth,
        "limit_seconds": max(flops / peak, read / bandwidth),
    }


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
