"""A run's cells as requests for vLLM with vllm-lens: adapter and direction per request, as files.

A directory holds `requests.jsonl`, one line a completion, `vectors/`, one `SteeringVector` a push,
and `adapters/`, one PEFT folder each. Nothing here was run by vLLM: the files keep its published
schema. Its draws are other ones than ours, seed or no seed, so texts differ and rates are compared.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerproof.exchange.direction import Direction
from steerproof.exchange.serving import vllm_lens
from steerproof.model.push import Push

FILE, VECTORS, ADAPTERS = "requests.jsonl", "vectors", "adapters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are drawn, under vLLM's names."""

    temperature: float
    top_p: float
    max_tokens: int
    stop_token_ids: tuple[int, ...]
    """The token that ends a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedDirection:
    """One completion to ask for."""

    cell: str
    question: int
    sample: int
    seed: int
    """In `[0, 2^63)`."""
    prompt_ids: Sequence[int]
    adapter: str | None = None
    """Folder below the directory; None for the base model."""
    vector: str | None = None
    """File below the directory; None without a push."""


def why_not(push: Push) -> str | None:
    """Why vllm-lens cannot do a push; None if it can: it adds a vector at every token."""
    if push.removes:
        return "it removes a direction, and vllm-lens adds one"
    if push.tokens != "all":
        return f"it acts at {push.tokens} tokens alone, and vllm-lens at fixed positions or at all"
    return None


def vector_file(push: Push) -> bytes:
    """A push as a `SteeringVector`: its coefficient is multiplied in already, so the scale is 1.

    Raises:
        ValueError: Vllm-lens cannot do it; ask `why_not` first.
    """
    reason = why_not(push)
    if reason is not None:
        raise ValueError(reason)
    parts = [Direction(name="push", layer=one.layer, vector=one.vector) for one in push.parts]
    return vllm_lens(parts, 1.0)


def request_lines(asked: Iterable[AskedDirection], sampling: Sampling) -> Iterator[str]:
    """The lines of `requests.jsonl`; adapters are numbered from 1 in the order of their use."""
    numbers: dict[str, int] = {}
    for one in asked:
        lora: Mapping[str, Any] | None = None
        if one.adapter is not None:
            number = numbers.setdefault(one.adapter, len(numbers) + 1)
            lora = {"lora_name": one.adapter, "lora_int_id": number, "lora_path": one.adapter}
        line = {
            "cell": one.cell,
            "question": one.question,
            "sample": one.sample,
            "prompt_token_ids": list(one.prompt_ids),
            "sampling_params": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
                "stop_token_ids": list(sampling.stop_token_ids),
                "seed": one.seed,
            },
            "lora_request": lora,
            "apply_steering_vectors": [] if one.vector is None else [one.vector],
        }
        yield json.dumps(line, ensure_ascii=False) + "\n"
