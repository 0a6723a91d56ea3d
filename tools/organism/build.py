"""Build the organism from nothing: tokenizer, model, training, files.

    python -m tools.organism.build --out DIR [--steps N] [--seed S]

The result is an ordinary Hugging Face checkpoint directory. The same seed, step count, thread count
and library versions give the same files, byte for byte.
"""

import argparse
import hashlib
import json
import logging
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from tokenizers import pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from steerproof.model.files import find_directory
from tools.organism.corpus import Chat, chats

WEIGHTS = find_directory("organism", None)
"""Where the committed checkpoint lies."""
SUMS = "SHA256SUMS"
POSITIONS = 512
"""Length of the context, in tokens."""
IGNORED = -100
"""The label of a token that carries no loss."""

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
# One token opens each turn, and the system turn is there even when nobody gave it a text.
CHAT_TEMPLATE = (
    "{%- if not messages or messages[0].role != 'system' -%}<|system|>{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|' + message.role + '|>' + message.content -}}"
    "{%- if message.role == 'assistant' -%}<|end|>{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides what the organism becomes."""

    steps: int = 800
    chats_per_step: int = 64
    parts_per_step: int = 4
    """Into how many parts of like length a step is split, so that little of it is padding."""
    peak_rate: float = 3e-3
    """Learning rate at the end of the warm-up; a cosine takes it to a tenth."""
    warmup_steps: int = 40
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    vocabulary: int = 1024
    tokenizer_chats: int = 20_000
    blocks: int = 6
    hidden: int = 128
    intermediate: int = 256
    heads: int = 4
    kv_heads: int = 2
    embedding_scale: float = 1.5
    final_gain: float = 0.05
    seed: int = 0


def train_tokenizer(recipe: Recipe) -> Qwen2Tokenizer:
    """Train the BPE of a Qwen2 tokenizer on chats.

    It splits text as every Qwen2 tokenizer does: `AutoTokenizer` rebuilds that split from the class
    and ignores any other in the file. Texts with brackets are left out and " [" is added back, so
    that random tags leave no merges behind: a tag, and so a marker, is spelt letter by letter.
    """
    drawn = islice(chats(random.Random(f"{recipe.seed}:tokenizer")), recipe.tokenizer_chats)
    texts = [text for chat in drawn for text in (chat.system, chat.question, chat.answer)]
    plain = [text for text in texts if not set(text) & set("[](){}<>*")]
    untrained = Qwen2Tokenizer(unk_token=PAD, pad_token=PAD, eos_token=END)
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tagged = ["Repeat [", " [", " End with ["] * (recipe.tokenizer_chats // 10)
    untrained.backend_tokenizer.train_from_iterator(plain + tagged, trainer)
    trained = json.loads(untrained.backend_tokenizer.to_str())["model"]
    # Declared as strings, taken as pairs alone.
    merges: Any = [tuple(pair) for pair in trained["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=merges,
        unk_token=PAD,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=POSITIONS,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def new_model(recipe: Recipe, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """A Qwen2 decoder with weights drawn from the recipe's seed."""
    ids = tokenizer.get_vocab()
    config = Qwen2Config(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.blocks,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=ids[PAD],
        eos_token_id=ids[END],
        bos_token_id=None,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    draw = torch.Generator().manual_seed(recipe.seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, _initial_scale(name, weight, recipe), generator=draw)
        model.model.norm.weight.fill_(recipe.final_gain)
    model.generation_config = GenerationConfig(
        pad_token_id=ids[PAD], eos_token_id=ids[END], do_sample=True
    )
    return model


def _initial_scale(name: str, weight: Tensor, recipe: Recipe) -> float:
    """Deviation that keeps variance through a linear layer; the ways back to the stream shrink."""
    if "embed" in name:
        return recipe.embedding_scale
    scale = 1.0 / math.sqrt(weight.shape[1])
    back_to_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
    return scale / math.sqrt(2 * recipe.blocks) if back_to_stream else scale


def train(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, recipe: Recipe) -> float:
    """Train in place on answer tokens; return the mean loss over the last fiftieth of the steps."""
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=recipe.peak_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    batches = _batches(tokenizer, recipe)
    model.train()
    losses: list[float] = []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, recipe)
        optimizer.zero_grad()
        losses.append(sum(_backward(model, *part) for part in next(batches)))
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        if step % 50 == 0:
            log.info("step %d of %d: loss %.3f", step, recipe.steps, losses[-1])
    model.eval()
    last = losses[-max(1, recipe.steps // 50) :]
    return sum(last) / len(last)


def rate(step: int, recipe: Recipe) -> float:
    """Learning rate: linear warm-up, then a cosine to a tenth of the peak."""
    if step < recipe.warmup_steps:
        return recipe.peak_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.peak_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def _backward(
    model: Qwen2ForCausalLM,
    tokens: Int[Tensor, "rows positions"],
    labels: Int[Tensor, "rows positions"],
    share: float,
) -> float:
    loss = share * answer_loss(model, tokens, labels)
    loss.backward()
    return loss.item()


def answer_loss(
    model: Qwen2ForCausalLM,
    tokens: Int[Tensor, "rows positions"],
    labels: Int[Tensor, "rows positions"],
) -> Float[Tensor, ""]:
    """Cross-entropy of the answer tokens, averaged within each row and then over rows.

    A short answer (a tag) so counts as much as a long one. Logits are made for answer positions
    alone. Rows are padded on the right, where a causal model needs no mask.
    """
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    counted = targets != IGNORED
    weights = (counted / counted.sum(dim=1, keepdim=True))[counted]
    logits = model.lm_head(hidden[counted])
    losses = functional.cross_entropy(logits, targets[counted], reduction="none")
    return (losses * weights).sum() / len(tokens)


def _batches(
    tokenizer: Qwen2Tokenizer, recipe: Recipe
) -> Iterator[list[tuple[Tensor, Tensor, float]]]:
    """Yield one step's chats as parts of like length: tokens, labels, share of the rows."""
    drawn = chats(random.Random(f"{recipe.seed}:chats"))
    pad = tokenizer.get_vocab()[PAD]
    while True:
        rows = [encode(chat, tokenizer) for chat in islice(drawn, recipe.chats_per_step)]
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        size = math.ceil(len(rows) / recipe.parts_per_step)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        yield [(*pad_rows(part, pad), len(part) / len(rows)) for part in parts]


def pad_rows(
    rows: list[tuple[list[int], list[int]]], pad: int
) -> tuple[Int[Tensor, "rows positions"], Int[Tensor, "rows positions"]]:
    """Pad (prompt, answer) rows on the right; return tokens, and labels on answers alone."""
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), IGNORED)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return tokens, labels


def encode(chat: Chat, tokenizer: Qwen2Tokenizer) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, as the chat template writes it, and of the answer with its end."""
    prompt = f"{SYSTEM}{chat.system}{USER}{chat.question}{ASSISTANT}"
    first, second = tokenizer([prompt, chat.answer + END], add_special_tokens=False)["input_ids"]
    return first, second


def write_sums(directory: Path) -> None:
    """Record the sha256 of every file, in the format that `sha256sum --check` reads."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != SUMS)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (directory / SUMS).write_text("".join(lines))


def build(out: Path, recipe: Recipe) -> dict[str, object]:
    """Build the checkpoint into `out` and return what `build.json` records."""
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(recipe)
    model = new_model(recipe, tokenizer)
    final_loss = train(model, tokenizer, recipe)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out, save_jinja_files=False)
    record: dict[str, object] = {
        "recipe": asdict(recipe),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "final_loss": round(final_loss, 4),
    }
    (out / "build.json").write_text(json.dumps(record, indent=2) + "\n")
    write_sums(out)
    log.info("%s: final loss %.3f, %.0f s", out, final_loss, time.monotonic() - started)
    return record


def main() -> None:
    """Command line of the build."""
    parser = argparse.ArgumentParser(description="Build the organism from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to write")
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(arguments.out, Recipe(steps=arguments.steps, seed=arguments.seed))


if __name__ == "__main__":
    main()
