"""How cells are measured elsewhere: one after another, with Hugging Face's `generate` and PEFT.

Each cell is one batch that runs until its slowest row ends. The base stays in memory and every
adapter is loaded beforehand, so neither is timed.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from steerproof.engine.rows import Row
from steerproof_bench.cells import CellWork
from steerproof_bench.peft_models import copied_model, global_seed, hooked, with_adapters


class PeftCells:
    """The peer's model: the base with every adapter of the work."""

    def __init__(self, work: CellWork, dtype: torch.dtype | None = None) -> None:
        """Copy the base and load the adapters.

        Args:
            work: What is to be done.
            dtype: To compute in; None for the base's.

        Raises:
            MachineError: PEFT is not installed.
        """
        self.work = work
        self.base = work.base
        self._dtype = dtype or self.base.dtype
        self._copy = copied_model(self.base).to(self._dtype)
        names = {weights: str(i) for i, weights in enumerate(work.adapters)}
        self._names = names
        self.model = with_adapters(self.base, self._copy, {n: w for w, n in names.items()})
        self.model.eval()

    def generate(self, *, merged: bool, seed: int = 0) -> dict[str, list[tuple[int, ...]]]:
        """Complete every cell; returns its rows' tokens without the one that ended them.

        Args:
            merged: Merge the cell's adapter into the weights first, as `merge_and_unload` does.
            seed: Of torch's global generator.
        """
        with global_seed(seed, self.base.device):
            return {name: self._cell(name, merged) for name in self.work.names}

    def log_probs(self, name: str, *, merged: bool) -> Tensor:
        """Log-probabilities of the work's fixed text after a cell's first prompt, float32."""
        with self._as_cell(self.work.rows[name][0], merged):
            return self._log_probs(name)

    def bare_log_probs(self, name: str) -> Tensor:
        """The same of the bare base: without the cell's adapter and push."""
        with self.model.disable_adapter():
            return self._log_probs(name)

    @torch.no_grad()
    def _log_probs(self, name: str) -> Tensor:
        row, text = self.work.rows[name][0], self.work.text
        ids = torch.tensor([[*row.prompt_ids, *text]], device=self.base.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0]
        at = logits[len(row.prompt_ids) - 1 : -1].float().log_softmax(dim=1)
        return at.gather(1, torch.tensor(text, device=at.device)[:, None])[:, 0].cpu()

    @torch.no_grad()
    def _cell(self, name: str, merged: bool) -> list[tuple[int, ...]]:
        rows = self.work.rows[name]
        width = max(len(row.prompt_ids) for row in rows)
        pad = self.base.pad_id
        ids = torch.tensor([[pad] * (width - len(r.prompt_ids)) + [*r.prompt_ids] for r in rows])
        real = (
            torch.arange(width) >= torch.tensor([width - len(r.prompt_ids) for r in rows])[:, None]
        )
        with self._as_cell(rows[0], merged):
            drawn: Any = self.model.generate(
                input_ids=ids.to(self.base.device),
                attention_mask=real.long().to(self.base.device),
                generation_config=self._settings(),
            )
        return [_ended(tokens, self.base.eos_ids) for tokens in drawn[:, width:].tolist()]

    def _settings(self) -> GenerationConfig:
        asked = self.work.settings
        return GenerationConfig(
            do_sample=True,
            temperature=asked.temperature,
            top_p=asked.top_p,
            top_k=0,
            max_new_tokens=asked.max_new_tokens,
            eos_token_id=sorted(self.base.eos_ids),
            pad_token_id=self.base.pad_id,
        )

    @contextmanager
    def _as_cell(self, row: Row, merged: bool) -> Iterator[None]:
        """The model as a cell has it: its adapter, merged or not, and its push."""
        assert row.adapter is not None
        self.model.set_adapter(self._names[row.adapter])
        with ExitStack() as stack:
            if merged:
                self.model.merge_adapter()
                stack.callback(self._restore)
            if row.push is not None:
                vector = row.push.vector.to(self.base.device, self._dtype)
                stack.enter_context(hooked(self._copy, row.push.layer, lambda: vector))
            yield

    def _restore(self) -> None:
        """Unmerge, and put the very weights back: a subtraction would leave rounding behind."""
        self.model.unmerge_adapter()
        own = dict(self.base.model.named_parameters())
        for name, parameter in self._copy.named_parameters():
            plain = name.replace(".base_layer.", ".")
            if ".base_layer." in name and name.endswith("weight"):
                parameter.data.copy_(own[plain])


def _ended(tokens: list[int], ends: frozenset[int]) -> tuple[int, ...]:
    last = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tuple(tokens[:last])
