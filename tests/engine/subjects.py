"""A tiny model with random adapters and pushes, rows that mix them, and a slow oracle."""

import warnings
from functools import cache
from pathlib import Path

import torch
from peft import PeftModel

from steerproof.engine.lora.peft_files import write_peft
from steerproof.engine.lora.weights import LoraSpec, LoraWeights, fresh_weights, lora_sites
from steerproof.engine.rows import Row
from steerproof.engine.sampling import row_seed, sample
from steerproof.engine.subject import subject_of
from steerproof.model.steering import Push
from steerproof.spec.experiment import Generation
from tests.tiny import HIDDEN, LAYERS, tiny_base

SPEC = LoraSpec(rank=3, alpha=6.0, rslora=True)
ADAPTERS, PUSHES = 3, 4
SETTINGS = Generation(temperature=0.7, top_p=0.95, max_new_tokens=16)


def weights_of(base, slot):
    """A random adapter, large enough to change every token."""
    generator = torch.Generator().manual_seed(slot)
    fresh = fresh_weights(lora_sites(base), SPEC, slot)
    tensors = {
        name: torch.randn(old.shape, generator=generator) * 0.15 if "lora_B" in name else old
        for name, old in fresh.tensors.items()
    }
    return LoraWeights(spec=SPEC, tensors=tensors)


def push_of(slot, width):
    """A random push; the slots differ in layer and size."""
    generator = torch.Generator().manual_seed(100 + slot)
    return Push(layer=slot % LAYERS, vector=torch.randn(width, generator=generator) * slot)


@cache
def base_of(architecture, dtype=torch.float32):
    """One base per architecture and type."""
    return tiny_base(architecture, dtype=dtype)


@cache
def adapters(architecture):
    """None and the random adapters: an adapter's place is its number."""
    return (None, *(weights_of(base_of(architecture), slot) for slot in range(1, ADAPTERS + 1)))


PUSHED = (None, *(push_of(slot, HIDDEN) for slot in range(1, PUSHES + 1)))
"""None and the random pushes: a push's place is its number."""


def subject(architecture, dtype=torch.float32):
    """The base with its adapters, in the slots that are their numbers, and its pushes."""
    return subject_of(base_of(architecture, dtype), mixed_rows(architecture), audit_every=1)


def mixed_rows(architecture="qwen2", cells=6, questions=2, samples=2):
    """Rows of cells that differ in adapter, push and prompts."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for c in range(cells):
        for q in range(questions):
            length = int(torch.randint(1, 20, (1,), generator=generator))
            prompt = tuple(torch.randint(0, 256, (length,), generator=generator).tolist())
            rows += [
                Row(cell=f"c{c}", question=q, sample=s, seed=row_seed(0, f"c{c}", q, s),
                    prompt_ids=prompt, adapter=adapters(architecture)[c % (ADAPTERS + 1)],
                    push=PUSHED[2 * c % (PUSHES + 1)])
                for s in range(samples)
            ]  # fmt: skip
    return rows


class Oracle:
    """One row at a time: PEFT's adapter, a plain hook, a full forward pass for every token."""

    def __init__(self, architecture, directory: Path):
        plain = tiny_base(architecture)
        for slot in range(1, ADAPTERS + 1):
            (directory / str(slot)).mkdir()
            for name, content in write_peft(plain, weights_of(plain, slot), "tiny").items():
                (directory / str(slot) / name).write_bytes(content)
        with warnings.catch_warnings():
            # PEFT asks transformers by a name that transformers has deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            self.model = PeftModel.from_pretrained(plain.model, directory / "1", adapter_name="1")
            for slot in range(2, ADAPTERS + 1):
                self.model.load_adapter(directory / str(slot), adapter_name=str(slot))
        self.model.eval()
        self.base = plain
        self.adapters = adapters(architecture)

    @torch.no_grad()
    def logits(self, row, ids):
        """`[seq, vocab]` under the row's adapter and push."""
        adapter, number = self.adapters.index(row.adapter), PUSHED.index(row.push)
        pushed = self.base.blocks[number % LAYERS]
        if number:
            vector = push_of(number, self.base.hidden_size).vector

            def add(_module, _args, output):
                if isinstance(output, torch.Tensor):
                    return output + vector
                return (output[0] + vector, *output[1:])

            handle = pushed.register_forward_hook(add)
        try:
            if adapter == 0:
                with self.model.disable_adapter():
                    return self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            self.model.set_adapter(str(adapter))
            return self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        finally:
            if number:
                handle.remove()

    def complete(self, row, settings):
        """Token ids and finish reason."""
        drawn = []
        while len(drawn) < settings.max_new_tokens:
            logits = self.logits(row, [*row.prompt_ids, *drawn])[-1:]
            seed, step = torch.tensor([row.seed]), torch.tensor([len(drawn)])
            token = int(sample(logits, seed, step, settings.temperature, settings.top_p))
            if token in self.base.eos_ids:
                return tuple(drawn), "eos"
            drawn.append(token)
        return tuple(drawn), "length"
