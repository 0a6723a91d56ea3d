"""Requests for vLLM with vllm-lens, held to its published schema; no engine was asked."""

import base64
import json
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ConfigDict, model_validator

from steerproof.exchange.requests import (
    AskedDirection,
    Sampling,
    request_lines,
    vector_file,
    why_not,
)
from steerproof.model.push import Push

SAMPLING = Sampling(temperature=1.0, top_p=0.95, max_tokens=7, stop_token_ids=(3,))


class SteeringVector(BaseModel):
    """The fields and conditions that vllm-lens publishes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    activations: dict[str, Any]
    layer_indices: list[int]
    scale: float
    norm_match: bool
    position_indices: list[int] | None

    @property
    def tensor(self) -> torch.Tensor:
        told = self.activations
        assert set(told) <= {"data", "dtype", "original_dtype", "shape", "compression"}
        assert told.get("compression") is None
        raw = np.frombuffer(base64.b64decode(told["data"]), np.dtype(told["dtype"]))
        return torch.from_numpy(raw.copy()).reshape(told["shape"])

    @model_validator(mode="after")
    def _one_row_a_layer(self):
        assert self.tensor.dim() in (2, 3)
        assert len(self.tensor) == len(self.layer_indices)
        return self


def push(layer=2, **more):
    vector = torch.arange(4, dtype=torch.float32) + layer
    return Push(layer=layer, vector=vector, **more)


def test_a_push_is_a_vector_that_adds_the_same():
    both = push(2) + push(1)
    told = SteeringVector.model_validate_json(vector_file(both))
    assert (told.scale, told.norm_match, told.position_indices) == (1.0, False, None)
    added = dict(zip(told.layer_indices, told.scale * told.tensor, strict=True))
    assert set(added) == {1, 2}
    for part in both.parts:
        assert torch.equal(added[part.layer], part.vector)


@pytest.mark.parametrize("more", [{"tokens": "generated"}, {"removes": 1.0}])
def test_what_the_engine_cannot_do_is_refused(more):
    one = push(**more)
    assert "vllm-lens" in why_not(one)
    with pytest.raises(ValueError, match="vllm-lens"):
        vector_file(one)
    assert why_not(push()) is None


def test_a_line_names_adapter_vector_and_draw():
    shared = {"cell": "A.x", "question": 0, "prompt_ids": (5, 6)}
    asked = [
        AskedDirection(
            **shared, sample=0, seed=2**62, adapter="adapters/A.x", vector="vectors/v.json"
        ),
        AskedDirection(**shared, sample=1, seed=1, adapter="adapters/B.x"),
        AskedDirection(**shared, sample=2, seed=2, adapter="adapters/A.x"),
        AskedDirection(**shared, sample=3, seed=3),
    ]
    lines = [json.loads(line) for line in request_lines(asked, SAMPLING)]
    assert [line["lora_request"] and line["lora_request"]["lora_int_id"] for line in lines] == [
        1, 2, 1, None,
    ]  # fmt: skip
    assert lines[0]["apply_steering_vectors"] == ["vectors/v.json"]
    assert lines[3]["apply_steering_vectors"] == []
    assert lines[0]["prompt_token_ids"] == [5, 6]
    assert lines[0]["sampling_params"] == {
        "temperature": 1.0, "top_p": 0.95, "max_tokens": 7, "stop_token_ids": [3], "seed": 2**62,
    }  # fmt: skip
