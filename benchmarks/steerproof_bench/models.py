"""The model a benchmark runs on: a checkpoint, or a true size with weights drawn at random."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from steerproof.engine.lora.weights import lora_sites
from steerproof.errors import SteerproofError
from steerproof.model.base import Base, base_of, find_blocks, load_base
from steerproof.model.split import devices_named, placement
from steerproof.spec.experiment import Experiment, Layers
from steerproof.spec.yaml_io import load_experiment

SIZES: Mapping[str, Mapping[str, Any]] = {
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
        "rms_norm_eps": 1e-5,
        # The real one's are: a random model's would make it say its last token over and over.
        "tie_word_embeddings": False,
    },
    "qwen2.5-7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    "qwen2.5-32b": {
        "vocab_size": 152064,
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    "llama-70b": {
        "vocab_size": 128256,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
}
"""Configurations at their true size, by the name the command line gives them."""
_KINDS = {
    "smollm2-135m": LlamaConfig,
    "qwen2.5-7b": Qwen2Config,
    "qwen2.5-32b": Qwen2Config,
    "llama-70b": LlamaConfig,
}
_EXPERIMENTS = {"smollm2-135m": "zlt-smollm2", "qwen2.5-7b": "zlt-qwen2.5-7b"}
_SHIPPED = "organism"
_LOGIT_SPREAD = 4.0
"""Standard deviation of a random model's logits: an entropy of about 4 nats at 152,064 tokens."""


def bench_base(
    model: str | None, random_config: str | None, device: str, mean_tokens: int | None = None
) -> Base:
    """The frozen model: float32 on a CPU, bfloat16 on a GPU.

    Args:
        model: Directory of a checkpoint, or a shipped name; None for the organism.
        random_config: A name in `SIZES`, for weights drawn at random; the organism's tokenizer
            stands in.
        device: A torch device.
        mean_tokens: Mean length of a random model's answers; None for answers that never end.

    Raises:
        SteerproofError: Both are given, there is no such size, or `mean_tokens` without a size.
        ModelError: The checkpoint is unusable.
    """
    dtype = "bfloat16" if device.startswith("cuda") else "float32"
    if random_config is None:
        if mean_tokens is not None:
            raise SteerproofError("--mean-tokens is only for --random-config")
        return load_base(model or _SHIPPED, dtype=dtype, device=device)
    if model is not None:
        raise SteerproofError("give --model or --random-config, not both")
    if random_config not in SIZES:
        raise SteerproofError(f"no size {random_config!r}; there is: {', '.join(SIZES)}")
    config = _KINDS[random_config](**SIZES[random_config])
    return random_base(config, dtype=dtype, device=device, mean_tokens=mean_tokens)


def random_base(
    config: PretrainedConfig, *, dtype: str, device: str, mean_tokens: int | None = None
) -> Base:
    """A model of a configuration whose weights are drawn at random on the device.

    The head is drawn wide enough that the next token is no more uncertain than that of a real
    model: a flat distribution would burden every sampler with the whole vocabulary.

    Args:
        config: The architecture; embeddings not tied.
        dtype: Name of a torch type.
        device: A torch device, or several, as `load_base` takes them.
        mean_tokens: If given, the end of turn has about 1 chance in so many at every token.
    """
    model = _undrawn(config, getattr(torch, dtype), devices_named(device))
    generators: dict[torch.device, torch.Generator] = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            on = parameter.device
            generator = generators.setdefault(on, torch.Generator(on).manual_seed(0))
            if parameter.ndim < 2:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            else:
                parameter.normal_(0.0, config.initializer_range, generator=generator)
        head: Any = model.get_output_embeddings()
        head.weight.normal_(
            0.0, _LOGIT_SPREAD / config.hidden_size**0.5, generator=generators[head.weight.device]
        )
        base = base_of(model, load_base(_SHIPPED).tokenizer)
        if mean_tokens is not None:
            _end_after(head, base.chat.end_of_turn, mean_tokens)
    return base


def _undrawn(
    config: PretrainedConfig, dtype: torch.dtype, devices: Sequence[torch.device]
) -> PreTrainedModel:
    """A model of a configuration on its devices, whose weights are anything yet."""
    made = {"dtype": dtype, "attn_implementation": "sdpa"}
    if len(devices) == 1:
        with torch.device(devices[0]):
            return AutoModelForCausalLM.from_config(config, **made)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, **made)
    blocks = find_blocks(model)[1]
    for block, device in zip(blocks, placement(model, blocks, devices), strict=True):
        block.to_empty(device=device)
    inside = {id(module) for module in blocks.modules()}
    for module in model.modules():
        if id(module) not in inside:
            module.to_empty(device=devices[0], recurse=False)
    # Rotations are computed, not drawn; llama and qwen2 keep them in one module.
    decoder: Any = model.base_model
    decoder.rotary_emb = type(decoder.rotary_emb)(config=model.config).to(devices[0])
    return model


def _end_after(head: nn.Linear, end: int, mean_tokens: int) -> None:
    """Give one token the same probability everywhere.

    The other logits are normal, so their exponentials sum to `vocabulary * exp(spread^2 / 2)`.
    """
    total = math.log(head.out_features) + _LOGIT_SPREAD**2 / 2
    bias = torch.zeros(head.out_features, device=head.weight.device, dtype=head.weight.dtype)
    bias[end] = total - math.log(mean_tokens)
    head.weight[end] = 0.0
    head.bias = nn.Parameter(bias, requires_grad=False)


def bench_experiment(
    model: str | None, random_config: str | None, blocks: int | None = None
) -> Experiment:
    """The shipped experiment whose cells, rows and recipe are used, fitted to the model.

    Args:
        model: As of `bench_base`; the organism has its own, any other model that of a chat model.
        random_config: As of `bench_base`.
        blocks: Decoder blocks of the model; steered are those at the same share of the depth.
            None leaves the experiment's layers.
    """
    name = _EXPERIMENTS.get(random_config or "")
    if name is None:
        name = "zlt" if model in (None, _SHIPPED) else "zlt-smollm2"
    experiment = load_experiment(name).experiment
    depth = experiment.model.blocks
    if blocks is None or depth is None or blocks == depth:
        return experiment
    primary, contrast = experiment.layers.primary, experiment.layers.contrast
    layers = Layers(
        primary=primary * blocks // depth,
        contrast=None if contrast is None else contrast * blocks // depth,
    )
    return experiment.model_copy(update={"layers": layers})


def matrix_parameters(base: Base) -> int:
    """Weights that take part in a matrix product at every token: the blocks' and the head's."""
    head: Any = base.model.get_output_embeddings()
    return sum(site.inputs * site.outputs for site in lora_sites(base)) + head.weight.numel()
