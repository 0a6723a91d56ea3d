"""What is done to the residual stream, at one block or several: a value to compute with."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerproof.errors import SteeringError

Tokens = Literal["all", "prompt", "generated", "last_prompt"]
Where = Literal["prompt", "last_prompt", "generated"]
"""Where a token stands: in the prompt before its last token, there, or after it."""
_WHERE: dict[Tokens, tuple[Where, ...]] = {
    "all": ("prompt", "last_prompt", "generated"),
    "prompt": ("prompt", "last_prompt"),
    "generated": ("generated",),
    "last_prompt": ("last_prompt",),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Push:
    """A direction times its coefficient, added to the output of one block; known by identity.

    Pushes are scaled, turned round and added: `2 * push`, `-push`, `push_a + push_b`. A sum over
    several layers adds each part at its own layer, in the same forward pass.
    """

    layer: int
    """0-based index of the decoder block (index in `hidden_states` minus one)."""
    vector: Float[Tensor, "hidden"]
    """The direction, already multiplied by the coefficient."""
    removes: float = 0.0
    """Share of the residual's component along `vector` that is taken away; 0 adds `vector`."""
    tokens: Tokens = "all"
    """Where it acts; whoever routes rows sends other positions to slot 0."""
    coefficient: float | None = None
    """What the direction was multiplied by; None for a sum, or where no direction is known."""
    ratio: float | None = None
    """`c ||v|| / h_bar`, with the sign of the coefficient; None where `h_bar` is not known."""
    also: "tuple[Push, ...]" = ()
    """What is done at other layers, one push a layer."""
    name: str = ""
    """Whose direction it is along; empty where that is not known."""

    def acts(self, where: Where) -> bool:
        """Whether it acts on tokens that stand there."""
        return where in _WHERE[self.tokens]

    def mask(self, prompt: int, length: int) -> Bool[Tensor, " length"]:
        """Where it acts in a row of so many prompt tokens and so many tokens in all."""
        acting = [self.acts(w) for w in ("prompt", "last_prompt", "generated")]
        counts = torch.tensor([prompt - 1, 1, length - prompt])
        return torch.tensor(acting).repeat_interleave(counts)

    @property
    def axis(self) -> Float[Tensor, " hidden"] | None:
        """`sqrt(share) v / ||v||`, float64, if it removes; None if it adds."""
        if not self.removes:
            return None
        vector = self.vector.detach().double().cpu()
        return self.removes**0.5 * vector / vector.norm()

    @property
    def parts(self) -> "tuple[Push, ...]":
        """One push a layer, in order of layers; this one alone if it is at one layer."""
        if not self.also:
            return (self,)
        return tuple(sorted((replace(self, also=()), *self.also), key=lambda part: part.layer))

    def __mul__(self, factor: float | int) -> "Push":
        """The same push, so many times as hard.

        Raises:
            SteeringError: It removes, which is a share and has no sign.
        """
        if any(part.removes for part in self.parts):
            raise SteeringError("a push that removes is not scaled; remove another share instead")
        return replace(
            self,
            vector=self.vector * factor,
            coefficient=None if self.coefficient is None else self.coefficient * factor,
            ratio=None if self.ratio is None else self.ratio * factor,
            also=tuple(part * factor for part in self.also),
        )

    __rmul__ = __mul__

    def __neg__(self) -> "Push":
        """The same push the other way."""
        return self * -1.0

    def __add__(self, other: "Push") -> "Push":
        """Both at once: one vector where they share a layer.

        Raises:
            SteeringError: They are of different widths, act on other tokens, or one of two at a
                layer removes.
        """
        if self.tokens != other.tokens:
            raise SteeringError(
                f"pushes at {self.tokens} and at {other.tokens} tokens have no sum; give both the "
                "same tokens"
            )
        by_layer: dict[int, Push] = {}
        for part in (*self.parts, *other.parts):
            earlier = by_layer.get(part.layer)
            by_layer[part.layer] = part if earlier is None else _added(earlier, part)
        first, *rest = by_layer.values()
        names = dict.fromkeys(name for name in (self.name, other.name) if name)
        return replace(first, also=tuple(rest), name="+".join(names))

    def __sub__(self, other: "Push") -> "Push":
        """This one without the other."""
        return self + -other


def _added(a: Push, b: Push) -> Push:
    """The sum of two pushes at one layer; its ratio is on the scale of theirs."""
    if a.vector.shape != b.vector.shape:
        raise SteeringError(f"pushes of widths {len(a.vector)} and {len(b.vector)} have no sum")
    if a.removes or b.removes:
        raise SteeringError(f"a push that removes has no sum with another at layer {a.layer}")
    vector = a.vector + b.vector
    ratio = None
    if a.ratio and b.ratio:  # Of either, `h_bar` is what its norm and ratio say.
        ratio = float(vector.double().norm() / a.vector.double().norm()) * abs(a.ratio)
    return Push(layer=a.layer, vector=vector, tokens=a.tokens, ratio=ratio)
