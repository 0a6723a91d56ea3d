"""The types and shapes that signatures name are checked in every call that a test makes."""

from dataclasses import dataclass

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from steerproof.engine.norm_kernels import rms_norm
from steerproof.spec.strength import Strength
from tests.typechecks import checked

check = checked(typechecker=beartype)


def test_the_package_is_checked_in_arguments_fields_and_shapes():
    assert str(Strength.parse("c=+2")) == "c=+2"
    with pytest.raises(BeartypeCallHintViolation):
        Strength.parse(2)
    with pytest.raises(BeartypeCallHintViolation):
        Strength(kind="c", number="2")
    assert rms_norm(torch.ones(2, 3), torch.ones(3), 1e-6).shape == (2, 3)
    with pytest.raises(TypeCheckError):
        rms_norm(torch.ones(2, 3), torch.ones(4), 1e-6)


@check
def lengths(texts: list[str]) -> list[int]:
    return [text if text == "bad" else len(text) for text in texts]


@check
def doubled(x: list[Float[Tensor, " n"]]) -> Float[Tensor, " n"]:
    return torch.cat([x[0], x[0]])


def quoted(x: "Float[Tensor, 'n n']", y: "unknown" = None) -> None:
    """Its annotations are strings, as they may be in a module."""


@check
@dataclass(frozen=True, slots=True)
class Row:
    name: str

    @property
    @check
    def size(self) -> str:
        return len(self.name)

    @staticmethod
    @check
    def of(number: int) -> "Row":
        return Row(str(number))


def test_what_is_given_back_is_checked_too():
    assert lengths(["a", "bc"]) == [1, 2]
    with pytest.raises(BeartypeCallHintViolation):
        lengths(["bad"])
    with pytest.raises(TypeCheckError):
        doubled([torch.ones(2)])
    with pytest.raises(TypeCheckError):
        check(quoted)(torch.ones(2, 3))


def test_records_methods_and_properties_are_checked():
    assert Row.of(3) == Row("3")
    for wrong in (lambda: Row(3), lambda: Row("a").size):
        with pytest.raises(BeartypeCallHintViolation):
            wrong()
    with pytest.raises(BeartypeCallHintViolation):
        Row.of("3")
