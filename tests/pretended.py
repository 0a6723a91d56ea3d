"""Two devices on a machine that has none: `cpu:0` and `cpu:1`, told apart by what was moved where.

PyTorch knows one CPU, whatever its number. In here tensors remember the number of the device that
they were made on or moved to, say so when they are asked, and an operation on tensors of different
numbers is an error, as it is on GPUs. What was made on no numbered device goes with any.
"""

from contextlib import contextmanager

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOME, AWAY = torch.device("cpu", 0), torch.device("cpu", 1)
_COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._copy_from.default)


class MixedDevicesError(AssertionError):
    """An operation was given tensors of both devices."""


class _Memory:
    """The number of each tensor's device, by the storage it shares with its views."""

    def __init__(self):
        # What a weak reference points to is not given away again, so a key stays its storage's.
        self._numbers: dict[int, tuple[StorageWeakRef, int | None]] = {}

    def of(self, tensor):
        return self._numbers.get(_key(tensor), (None, None))[1]

    def put(self, tensor, number):
        reference = StorageWeakRef(tensor.untyped_storage())
        self._numbers[reference.cdata] = reference, number


def _key(tensor):
    return StorageWeakRef(tensor.untyped_storage()).cdata


class _Operations(TorchDispatchMode):
    """Refuses mixtures; a result is where what it was computed from is, or where it was sent."""

    def __init__(self, memory):
        super().__init__()
        self.memory, self.moves = memory, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if "_foreach_" in func.name() or "_fused_adam" in func.name():
            return self._each(func, args, kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        numbers = {self.memory.of(x) for x in given} - {None}
        if len(numbers) > 1 and func not in _COPIES:
            shapes = [(self.memory.of(x), tuple(x.shape)) for x in given]
            raise MixedDevicesError(f"{func} of tensors on both devices: {shapes}")
        to = kwargs.get("device")
        number = to.index if to is not None and to.index is not None else next(iter(numbers), None)
        self.moves += func is torch.ops.aten._to_copy.default and number not in numbers
        before = {_key(x) for x in given}
        result = func(*args, **kwargs)
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and _key(made) not in before:
                self.memory.put(made, number)
        return result

    def _each(self, func, args, kwargs):
        """Lists of tensors: torch's own code takes them apart by their devices."""
        result = func(*args, **kwargs)
        for made, given in zip(result or (), args[0], strict=False):
            self.memory.put(made, self.memory.of(given))
        return result


def _answers(memory):
    """Tensors' own methods: where one is, and moves that torch takes for none."""
    device, to = torch.Tensor.device, torch.Tensor.to

    def where(self):
        number = memory.of(self)
        return device.__get__(self) if number is None else torch.device("cpu", number)

    def moved(self, *args, **kwargs):
        target = (
            torch.device(args[0]) if args and isinstance(args[0], (str, torch.device)) else None
        )
        if target is not None and target.index is not None and self.requires_grad:
            return _Hop.apply(self, target, memory)
        result = to(self, *args, **kwargs)
        if target is not None and target.index is None:  # to the host
            result = result.clone() if _key(result) == _key(self) else result
            memory.put(result, None)
        return result

    return {"device": property(where), "to": moved, "cpu": lambda self: moved(self, "cpu")}


class _Hop(torch.autograd.Function):
    """A move whose gradient comes back: torch's own goes nowhere, as it knows one CPU."""

    @staticmethod
    def forward(ctx, x, to, memory):
        ctx.came_from, ctx.memory = memory.of(x), memory
        return x.detach().to(to)

    @staticmethod
    def backward(ctx, grad):
        back = grad.clone()
        ctx.memory.put(back, ctx.came_from)
        return back, None, None


@contextmanager
def pretended_devices():
    """Until left there are two; yields what counts the moves."""
    memory = _Memory()
    answers = _answers(memory)
    for name, answer in answers.items():
        setattr(torch.Tensor, name, answer)  # what it inherits is hidden, and shows again below
    try:
        with _Operations(memory) as operations:
            yield operations
    finally:
        for name in answers:
            delattr(torch.Tensor, name)
