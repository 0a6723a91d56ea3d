"""PEFT's adapter files, `adapter_config.json` and `adapter_model.safetensors`, read and written.

What is written here loads in PEFT with equal logits, and the other way round. Whatever a PEFT
configuration can ask for that `LoraPool` cannot do is refused by name.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from steerproof.engine.lora.weights import (
    LoraSpec,
    LoraWeights,
    Site,
    check_keys,
    lora_sites,
    not_finite,
)
from steerproof.errors import ModelError
from steerproof.limits import Pattern, TooMuchError
from steerproof.model.base import Base
from steerproof.model.files import check_pointers, small_file

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_MAX_RANK = 1 << 16
"""Largest rank that is taken for one."""
_MAX_ALPHA = 1e6
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Fields that do not change what a trained adapter computes, or that are read below.
_UNDERSTOOD = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version"),
        *("revision", "task_type", "megatron_core", "qalora_group_size", "layers_pattern"),
        *("bias", "fan_in_fan_out", "init_lora_weights", "lora_alpha", "lora_dropout", "r"),
        *("target_modules", "use_rslora", "eva_config"),
    }
)
# Initialisations that leave the base as it is; others (PiSSA, OLoRA, ...) change its weights.
_PLAIN_INIT = (True, False, None, "gaussian", "eva", "orthogonal")


def write_peft(base: Base, weights: LoraWeights, base_name: str) -> dict[str, bytes]:
    """The two files of an adapter, as bytes: the caller writes them.

    Args:
        base: The model it belongs to.
        weights: The adapter.
        base_name: What `base_model_name_or_path` says.

    Returns:
        File name -> content; the same adapter gives the same bytes.

    Raises:
        ModelError: The adapter does not fit the model.
    """
    sites = lora_sites(base)
    check_keys(sites, weights)
    targets = [s for s in sites if weights.spec.targets is None or s.path in weights.spec.targets]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": all(isinstance(site.module, Conv1D) for site in targets),
        "inference_mode": True,
        "lora_alpha": weights.spec.alpha,
        "lora_dropout": 0.0,
        "r": weights.spec.rank,
        "target_modules": _short_names(base, targets),
        "use_rslora": weights.spec.rslora,
    }
    tensors = {key: weights.tensors[key].contiguous() for key in sorted(weights.tensors)}
    return {
        CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        WEIGHTS: save(tensors, metadata={"format": "pt"}),
    }


def read_peft(directory: Path, base: Base) -> LoraWeights:
    """Read an adapter that PEFT, or `write_peft`, wrote.

    Raises:
        ModelError: A file is missing or damaged, it is not a plain LoRA, or its tensors are not
            exactly those that its configuration asks for on this base.
    """
    config = _read_config(directory)
    sites = lora_sites(base)
    targets = _targets(base, sites, config)
    spec = LoraSpec(
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        rslora=bool(config.get("use_rslora", False)),
        targets=None if len(targets) == len(sites) else targets,
    )
    path = directory / WEIGHTS
    if not path.is_file():
        raise ModelError(_no_weights(directory))
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, MemoryError) as error:
        raise ModelError(f"cannot read {str(path)!r}: {error}") from error
    weights = LoraWeights(spec=spec, tensors=tensors)
    check_keys(sites, weights)
    odd = [key for key, value in tensors.items() if value.dtype not in _NUMBERS]
    bad = odd or not_finite(weights)
    if bad:
        raise ModelError(f"{str(path)!r} holds what is no finite number: {', '.join(bad[:3])}")
    return weights


def import_peft(directory: Path, base: Base) -> LoraWeights:
    """Read an adapter that was trained elsewhere; it has to change something.

    Raises:
        ModelError: As `read_peft`; or every one of its products is zero.
    """
    weights = read_peft(directory, base)
    sites = [site for site in lora_sites(base) if site.a_key in weights.tensors]
    if not any(weights.tensors[s.a_key].any() and weights.tensors[s.b_key].any() for s in sites):
        raise ModelError(
            f"the adapter in {str(directory)!r} changes nothing: its A or B is zero in every layer,"
            " as before training"
        )
    return weights


def check_adapter_files(directory: Path) -> None:
    """Refuse a directory that cannot hold a plain LoRA, without reading its tensors.

    Raises:
        ModelError: It holds no adapter, a pointer of Git LFS, or one that is no plain LoRA.
    """
    if not directory.is_dir():
        raise ModelError(f"no adapter directory {str(directory)!r}")
    check_pointers(directory)
    _read_config(directory)
    if not (directory / WEIGHTS).is_file():
        raise ModelError(_no_weights(directory))


def _no_weights(directory: Path) -> str:
    names = ", ".join(sorted(p.name for p in directory.iterdir()))
    return f"no {WEIGHTS} in {str(directory)!r} (pickles are not read): {names}"


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    if not path.is_file():
        below = sorted(p.parent.name for p in directory.glob(f"*/{CONFIG}"))
        hint = f"; its subfolder {', '.join(below)} is one: move its files up" if below else ""
        raise ModelError(f"no {CONFIG} in {str(directory)!r}: not an adapter directory{hint}")
    try:
        config = json.loads(small_file(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(
            f"{str(path)!r} holds no JSON object, but {str(config)[:60]!r}; save the adapter again"
        )
    lacking = {"peft_type", "r", "lora_alpha", "target_modules"} - set(config)
    if lacking:
        raise ModelError(f"{str(path)!r} lacks {sorted(lacking)}; save the adapter again with PEFT")
    refused = [_field(k, v) for k, v in config.items() if k not in _UNDERSTOOD and v]
    wanted = {"peft_type": ("LORA",), "bias": ("none",), "init_lora_weights": _PLAIN_INIT}
    for name, allowed in wanted.items():
        if name in config and config[name] not in allowed:
            refused.append(_field(name, config[name]))
    if refused:
        raise ModelError(
            f"{str(path)!r} asks for what a plain LoRA pool cannot do:"
            f" {', '.join(sorted(refused))}; train it with peft_type LORA, bias none and none of"
            " PEFT's variants, or take out a field that means nothing"
        )
    _check_values(path, config)
    return config


def _field(name: str, value: object) -> str:
    """A field as a message shows it; either may be long, and somebody else's."""
    return f"{name[:60]}={_short(value)}"


def _short(value: object) -> str:
    return repr(value)[:60]


def _check_values(path: Path, config: Mapping[str, Any]) -> None:
    """The fields that are read below are of the kind that they should be.

    Raises:
        ModelError: One is not.
    """
    rank, alpha, target = (config[name] for name in ("r", "lora_alpha", "target_modules"))
    if type(rank) not in (int, float) or not 1 <= rank <= _MAX_RANK or rank != int(rank):
        raise ModelError(
            f"{str(path)!r}: r is {_short(rank)}; a whole number from 1 to {_MAX_RANK}"
        )
    if type(alpha) not in (int, float) or not 0 < abs(alpha) <= _MAX_ALPHA:
        raise ModelError(
            f"{str(path)!r}: lora_alpha is {_short(alpha)}; a number, not 0, of at most"
            f" {_MAX_ALPHA:g}"
        )
    listed = isinstance(target, list) and all(isinstance(one, str) for one in target)
    if not listed and not isinstance(target, str):
        raise ModelError(
            f"{str(path)!r}: target_modules is {str(target)[:60]!r}; a list of names, one regular"
            " expression, or all-linear"
        )
    if not isinstance(config.get("use_rslora", False), bool | None):
        raise ModelError(
            f"{str(path)!r}: use_rslora is {_short(config['use_rslora'])}; true or false"
        )


def _targets(base: Base, sites: Sequence[Site], config: Mapping[str, Any]) -> tuple[str, ...]:
    """Module paths the configuration selects, by PEFT's rule."""
    target = config["target_modules"]
    linear = [p for p, m in base.model.named_modules() if isinstance(m, (nn.Linear, Conv1D))]
    if target == "all-linear":
        return tuple(site.path for site in sites)
    if isinstance(target, str):
        chosen = _matching(target, linear)
    else:
        chosen = [p for p in linear if any(p == t or p.endswith(f".{t}") for t in target)]
    if not chosen:
        raise ModelError(f"target_modules {target!r} matches no linear layer of the model")
    return tuple(chosen)


def _matching(target: str, paths: Sequence[str]) -> list[str]:
    """The paths that a regular expression matches from end to end.

    Raises:
        ModelError: It is none, or is not through in its time.
    """
    try:
        pattern = Pattern(target)
        return [path for path in paths if pattern.is_all_of(path)]
    except (ValueError, TooMuchError) as error:
        raise ModelError(f"target_modules {target[:60]!r}: {error}") from None


def _short_names(base: Base, targets: Sequence[Site]) -> list[str]:
    """Last names of the targets when those select exactly them in the whole model, else paths."""
    paths = {site.path for site in targets}
    short = {path.rpartition(".")[2] for path in paths}
    selected = {p for p, _ in base.model.named_modules() if p.rpartition(".")[2] in short}
    return sorted(short if selected == paths else paths)
