"""Training's rate on a model of SmolLM2-135M's size with random weights, by adapters at once.

    python benchmarks/training_rate.py --device cuda

Rows are of 170 to 390 tokens, 16 a step, rank 32; the rate is over the second half of the steps, so
that what is done once (first shapes, captures of common ones) is mostly left out.
"""

import argparse
import random
import sys
import time

import torch
from transformers import LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from steerproof.engine.batches import Example
from steerproof.engine.jobs import AdapterJob, Recipe
from steerproof.engine.train import train
from steerproof.model.base import Base, base_of, load_base
from steerproof.model.push import Push

LAYER = 20


def model_of_that_size(device: str) -> Base:
    """30 blocks, width 576; bfloat16 on a GPU; the tokenizer of the organism stands in."""
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
        rms_norm_eps=1e-5, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
    )  # fmt: skip
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return base_of(model, load_base("organism").tokenizer)


def rate(base: Base, adapters: int, steps: int, rows: int) -> float:
    """Real tokens a second over the second half of the steps."""
    draw = random.Random(0)
    push = Push(layer=LAYER, vector=0.05 * torch.ones(base.hidden_size))

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1000) for _ in range(draw.randint(low, high)))

    jobs = [
        AdapterJob(
            key=f"adapter {i}",
            examples=tuple(
                Example(prompt_ids=ids(50, 70), completion_ids=ids(120, 320), push=push)
                for _ in range(rows * steps)
            ),
            seed=i,
        )
        for i in range(adapters)
    ]
    recipe = Recipe(
        rank=32, alpha=64.0, rslora=True, dropout=0.05, learning_rate=1e-4, warmup=0.05, epochs=1,
        rows_per_step=rows, weight_decay=0.0, max_grad_norm=1.0, max_length=1024,
    )  # fmt: skip
    ends: list[float] = []
    for ended in train(base, jobs, recipe, on_step=lambda *_: ends.append(time.perf_counter())):
        assert not hasattr(ended, "error"), ended
    half = steps // 2
    tokens = sum(example.length for job in jobs for example in job.examples) * (steps - half)
    return tokens / steps / (ends[-1] - ends[half * adapters - 1])


def main() -> None:
    """A line for each number of adapters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--adapters", type=int, nargs="+", default=[16, 4, 1])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rows", type=int, default=16)
    asked = parser.parse_args()
    base = model_of_that_size(asked.device)
    for adapters in asked.adapters:
        found = rate(base, adapters, asked.steps, asked.rows)
        sys.stdout.write(f"{adapters} adapters: {found:,.0f} tokens a second\n")


if __name__ == "__main__":
    main()
