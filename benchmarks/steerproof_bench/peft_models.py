"""A copy of the base with adapters on it by PEFT, and a plain forward hook: what others use."""

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steerproof.engine.lora.peft_files import write_peft
from steerproof.engine.lora.weights import LoraWeights
from steerproof.errors import MachineError
from steerproof.model.base import Base, find_blocks


def needed(name: str) -> Any:
    """Import a library that only benchmarks use.

    Raises:
        MachineError: It is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MachineError(
            f"the peers of this benchmark need {name}: pip install 'steerproof[bench]'"
        ) from error


def copied_model(base: Base) -> nn.Module:
    """A copy for a peer to change; its attention is the one the base was loaded with."""
    return copy.deepcopy(base.model)


def with_adapters(
    base: Base, model: nn.Module, adapters: Mapping[str, LoraWeights], *, trainable: bool = False
) -> Any:
    """Put adapters on a model with PEFT, through PEFT's own files; by name.

    Args:
        base: What the adapters were made for.
        model: A copy of its model; PEFT changes it in place.
        adapters: By the names that they get.
        trainable: Whether the weights require gradients.
    """
    peft = needed("peft")
    wrapped: Any = None
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        # PEFT asks transformers by a name that transformers has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        for own_name, weights in adapters.items():
            directory = Path(place) / own_name
            directory.mkdir()
            for name, content in write_peft(base, weights, "base").items():
                (directory / name).write_bytes(content)
            if wrapped is None:
                wrapped = peft.PeftModel.from_pretrained(
                    model, directory, adapter_name=own_name, is_trainable=trainable
                )
            else:
                wrapped.load_adapter(directory, adapter_name=own_name)
    return wrapped


@contextmanager
def hooked(model: nn.Module, layer: int, added: Callable[[], Tensor]) -> Iterator[None]:
    """Add something to a block's output with a forward hook until left.

    Args:
        model: Whose blocks.
        layer: 0-based index of the block.
        added: Gives what to add, at every forward pass.
    """

    def add(_module: nn.Module, _args: Any, output: Any) -> Any:
        change = added()
        if isinstance(output, Tensor):
            return output + change
        return (output[0] + change, *output[1:])

    handle = find_blocks(model)[1][layer].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Peers draw from torch's global generators: seed them inside, and leave them as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.random.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        if device.type == "cuda":
            state = torch.Generator(device).manual_seed(seed).get_state()
            torch.cuda.set_rng_state(state, device)
        yield
