"""A base over several GPUs of one host: its blocks dealt to them in stretches, all else at home.

The first GPU is the base's home: embeddings, last norm and head are there, with the first blocks.
So ids, logits and losses are there too, and whoever works on these need not know of other GPUs. A
hook before each block elsewhere moves what the block is given, another brings back what modules at
home are given. A token goes from GPU to GPU, and only one of them computes at a time: what is split
is memory, not work.

On one device there are no hooks, and a `Spread` gives back what it was made of.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from steerproof.errors import ModelError

T = TypeVar("T")


def devices_named(device: str) -> tuple[torch.device, ...]:
    """The devices that a text names: `cuda:0+1` two GPUs, anything else one device of torch's.

    Raises:
        ModelError: It is none of these, or names a GPU twice.
    """
    kind, _, numbers = device.partition(":")
    names = [f"{kind}:{number}" for number in numbers.split("+")] if numbers else [device]
    try:
        found = tuple(torch.device(name) for name in names)
    except RuntimeError as error:
        raise ModelError(
            f"device {device!r} is none: cpu, cuda, cuda:1, or cuda:0+1 for a model over two GPUs"
        ) from error
    if len(set(found)) < len(found):
        raise ModelError(f"device {device!r} names a GPU twice")
    return found


def stretches(sizes: Sequence[int], rest: int, devices: int) -> list[int]:
    """Which device each block is on: neighbours together, the bytes shared evenly.

    A block is where its middle falls when everything is laid out in one line, the rest first, and
    the line is cut into equal pieces. So no device has more than its piece, and what is larger than
    that of the rest, and half a block at each end.

    Args:
        sizes: Bytes of each block.
        rest: Bytes of everything else, on device 0.
        devices: How many there are.

    Returns:
        For each block the number of its device, never falling.
    """
    total, before, places = rest + sum(sizes), rest, []
    for size in sizes:
        places.append(min(devices - 1, (2 * before + size) * devices // max(1, 2 * total)))
        before += size
    return places


def placement(
    model: nn.Module, blocks: nn.ModuleList, devices: Sequence[torch.device]
) -> list[torch.device]:
    """The device of each block, by the bytes of its weights; what is on the meta device counts too.

    Raises:
        ModelError: There are more devices than blocks to deal out.
    """
    sizes = [_bytes(block) for block in blocks]
    places = stretches(sizes, _bytes(model) - sum(sizes), len(devices))
    idle = set(range(1, len(devices))) - set(places)
    if idle:
        raise ModelError(
            f"{len(blocks)} blocks over {len(devices)} GPUs leave {len(idle)} without one: name"
            " fewer GPUs"
        )
    return [devices[place] for place in places]


def deal_out(model: nn.Module, blocks: nn.ModuleList, devices: Sequence[torch.device]) -> None:
    """Move a model to its devices in place, block by block: no more than a block is there twice.

    Raises:
        ModelError: As `placement`.
    """
    for block, device in zip(blocks, placement(model, blocks, devices), strict=True):
        block.to(device)
    for module in _outside(model, blocks):
        for weight in module.parameters(recurse=False):
            weight.data = weight.data.to(devices[0])
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer.to(devices[0]), name in _kept(module))


def devices_of(model: nn.Module) -> tuple[torch.device, ...]:
    """The devices that a model's weights are on, home first."""
    return tuple(dict.fromkeys(weight.device for weight in model.parameters()))


def join(model: nn.Module, path: str, blocks: nn.ModuleList, home: torch.device) -> None:
    """Make a model whose blocks are on several devices compute as one that is at home.

    Args:
        model: The whole model.
        path: Of its blocks.
        blocks: They.
        home: Where everything else is.
    """
    places = [next(block.parameters()).device for block in blocks]
    crossings = {device: _Crossing(device) for device in dict.fromkeys([home, *places])}
    if len(crossings) == 1:
        return
    for block, place, before in zip(blocks, places, [home, *places], strict=False):
        if place != before:
            block.register_forward_pre_hook(crossings[place].begin)
        block.register_forward_pre_hook(crossings[place].cross, with_kwargs=True)
    back = crossings[home]
    for module in _outside(model, blocks):
        if module._parameters:
            module.register_forward_pre_hook(back.begin)
            module.register_forward_pre_hook(back.cross, with_kwargs=True)
    # Also after an error in a block: what comes next is launched at home.
    decoder = model.get_submodule(path.rpartition(".")[0])
    for end in (*(crossing.end for crossing in crossings.values()), back.begin):
        decoder.register_forward_hook(end, always_call=True)


class _Crossing:
    """Moves what modules on one device are given there; what is given to several of them, once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def begin(self, *_: Any) -> None:
        """A pass comes to this device: its kernels are launched here from now on."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # Triton launches on the current device.

    def end(self, *_: Any) -> None:
        """The pass is over, perhaps by an error: what was moved is forgotten."""
        self._copies.clear()

    def cross(self, _module: nn.Module, args: Any, inputs: Any) -> tuple[Any, Any]:
        """A module's arguments, on its device."""
        return self._here(args), self._here(inputs)

    def _here(self, given: Any) -> Any:
        if isinstance(given, Tensor):
            if given.device == self._device:
                return given
            if given.requires_grad:
                return given.to(self._device)
            if id(given) not in self._copies:
                # With its source, so that its identity stays its own.
                self._copies[id(given)] = given, given.to(self._device)
            return self._copies[id(given)][1]
        if isinstance(given, dict):
            return {name: self._here(one) for name, one in given.items()}
        return tuple(map(self._here, given)) if type(given) is tuple else given


class Spread(Generic[T]):
    """What blocks on several devices read in a pass: a tensor, or a dataclass that holds some.

    It is copied to another device when it is first asked for there. Whoever writes into what it was
    made of makes a new one.
    """

    __slots__ = ("_copies", "_home", "_value")

    def __init__(self, value: T, home: torch.device) -> None:
        """Nothing is copied yet.

        Args:
            value: On the device `home`.
            home: Where it is given back as it is.
        """
        self._value, self._home = value, home
        self._copies: dict[torch.device, T] = {}

    def on(self, device: torch.device) -> T:
        """The value on a device."""
        if device == self._home:
            return self._value
        if device not in self._copies:
            with torch.inference_mode(False):
                self._copies[device] = _copied(self._value, device)
        return self._copies[device]


def _copied(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    given = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    return replace(value, **{name: _copied(one, device) for name, one in given.items()})


def _outside(model: nn.Module, blocks: nn.ModuleList) -> Iterator[nn.Module]:
    """The modules that are in no block."""
    inside = {id(module) for module in blocks.modules()}
    return (module for module in model.modules() if id(module) not in inside)


def _bytes(module: nn.Module) -> int:
    return sum(weight.nbytes for weight in module.parameters())


def _kept(module: nn.Module) -> set[str]:
    """The buffers that a checkpoint holds."""
    return set(module._buffers) - module._non_persistent_buffers_set
