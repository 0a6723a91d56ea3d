"""Tiny random models of thirteen architectures, built from configurations: no network, no files."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from steerproof.model.base import Base, base_of

ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gpt_neox", "gpt2")
LAYERS = 4
HIDDEN = 32
CONTEXT = 256
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_COMMON = {
    "vocab_size": 260,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": None,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}


FURTHER: dict[str, dict[str, object]] = {
    "phi": {}, "phi3": {}, "olmo2": {}, "granite": {}, "smollm3": {},
    "gemma3_text": {"head_dim": 8, "sliding_window": CONTEXT},
}  # fmt: skip
"""More architectures, for tests that ask of each only whether it works."""


def tiny_config(architecture: str) -> PreTrainedConfig:
    """The configuration of a four-block model, hidden width 32."""
    if architecture == "gpt2":
        return GPT2Config(
            vocab_size=260, n_embd=HIDDEN, n_layer=LAYERS, n_head=4, n_positions=CONTEXT,
            n_inner=48, bos_token_id=256, eos_token_id=256,
        )  # fmt: skip
    if architecture == "gpt_neox":
        return GPTNeoXConfig(**_COMMON)
    if architecture in FURTHER:
        return AutoConfig.for_model(architecture, **{**_GROUPED, **FURTHER[architecture]})
    classes = {
        "llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config, "mistral": MistralConfig,
        "gemma": GemmaConfig,
    }  # fmt: skip
    extra = {"head_dim": 8} if architecture in ("qwen3", "gemma") else {}
    return classes[architecture](**_GROUPED, **extra)


def tiny_tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """One token per byte, three special tokens, ChatML."""
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[0],
        chat_template=chat_template, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def tiny_model(
    architecture: str = "qwen2",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **overrides: object,
) -> PreTrainedModel:
    """A random model; large weights, so that every layer matters to the logits."""
    config = tiny_config(architecture)
    for name, value in overrides.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = 0.1 if "norm" in name or parameter.ndim < 2 else 0.25
            centre = (
                1.0
                if "norm" in name and name.endswith("weight") and "gemma" not in architecture
                else 0.0
            )
            parameter.copy_(centre + scale * noise)
    return model.eval()


def tiny_base(
    architecture: str = "qwen2", *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Base:
    """A random model as a `Base`."""
    return base_of(tiny_model(architecture, seed=seed, dtype=dtype), tiny_tokenizer())


def save_tiny(directory: Path, architecture: str = "qwen2") -> Path:
    """A random model as a checkpoint directory."""
    tiny_model(architecture).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    """Token ids without special tokens."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
