"""Each format read to a push that does to the logits what its own library would, and back."""

import base64
import json
import pickle  # noqa: TID251 - what is refused has to be written first
import random
from dataclasses import dataclass, replace

import gguf
import numpy as np
import pyarrow
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from steerproof.errors import ModelError, SteeringError, SteerproofError
from steerproof.exchange.direction import Direction, Provenance, pick
from steerproof.exchange.files import export, read_directions
from steerproof.exchange.shape import Shape, shape_of
from steerproof.spec.strength import Strength
from tests.exchange import reference
from tests.tiny import HIDDEN, LAYERS, tiny_base

SHAPE = Shape(model="tiny", model_type="qwen2", blocks=LAYERS, hidden_size=HIDDEN)
C2 = Strength(kind="c", number=2.0)


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture
def rows():
    return torch.randn(LAYERS + 1, HIDDEN, generator=torch.Generator().manual_seed(3))


def read_one(path, layer, **how):
    (one,) = pick(read_directions(path, SHAPE, **how), layer=layer)
    return one


def same_effect(base, direction, vectors, coefficient=2.0):
    """The push moves the logits, and exactly as the reference does."""
    mine = reference.pushed(base, direction.push(Strength(kind="c", number=coefficient)))
    theirs = reference.added(base, vectors)
    assert not torch.allclose(mine, reference.plain(base), atol=1e-3)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def written(directions, form, path, coefficient=1.0):
    for place, content in export(directions, form, path, coefficient).items():
        place.write_bytes(content)
    return path


# --- persona_vectors: hook on `model.layers[layer - 1]`, `steering_coef * tensor[layer]` ---------


def test_a_persona_vector_is_added_where_its_own_code_adds_it_and_comes_back(tmp_path, base, rows):
    rows[0] = 0.5  # the embedding's row, which is no direction
    path = tmp_path / "evil_response_avg_diff.pt"
    torch.save(rows.bfloat16(), path)  # noqa: TID251 - as the field writes it
    layer, coefficient = 3, 2.0
    direction = read_one(path, layer - 1)
    same_effect(base, direction, {layer - 1: coefficient * rows.bfloat16().float()[layer]})
    assert (direction.name, direction.provenance.position) == ("evil", "mean of the response")
    assert direction.provenance.dtype == "bfloat16"
    assert direction.provenance.source.place == f"row 3 of {LAYERS + 1}, as in hidden_states"
    back = written(read_directions(path, SHAPE), "persona-vectors", tmp_path / "back.pt")
    again = torch.load(back, weights_only=True)  # noqa: TID251 - a plain tensor
    assert again.shape == rows.shape
    assert torch.equal(again[1:], rows.bfloat16().float()[1:])
    assert not again[0].any()


def test_a_table_with_one_row_fewer_is_the_other_convention(tmp_path, base, rows):
    path = tmp_path / "axis.pt"
    torch.save(rows[1:].clone(), path)  # noqa: TID251 - as the field writes it
    direction = read_one(path, 3)
    same_effect(base, direction, {3: 2.0 * rows[1:][3]})
    assert direction.provenance.sign is None
    assert "sign" in direction.provenance.unknown()


# --- repeng: `block_output + coeff * directions[layer]`, layer a 0-based block -------------------


def repeng_file(path, directions, architecture="controlvector", hint="qwen2"):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string(f"{architecture}.model_hint", hint)
    writer.add_uint32(f"{architecture}.layer_count", len(directions))
    for layer, vector in directions.items():
        writer.add_tensor(f"direction.{layer}", vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def repeng_read(path):
    """`ControlVector.import_gguf`, from its description: a hint, and arrays by layer."""
    file = gguf.GGUFReader(path)
    hint = bytes(file.get_field("controlvector.model_hint").parts[-1]).decode()
    architecture = bytes(file.get_field("general.architecture").parts[-1]).decode()
    assert architecture == "controlvector"
    return hint, {int(t.name.split(".")[1]): np.array(t.data) for t in file.tensors}


def test_a_control_vector_is_added_where_repeng_adds_it_and_comes_back(tmp_path, base, rows):
    path = tmp_path / "happy.gguf"
    vectors = {layer: rows[layer].numpy() for layer in (1, 3)}
    repeng_file(path, vectors)
    found = read_directions(path, SHAPE)
    assert [one.layer for one in found] == [1, 3]
    mine = reference.pushed(base, *(one.push(C2) for one in found))
    theirs = reference.added(base, {n: 2.0 * torch.from_numpy(v) for n, v in vectors.items()})
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    hint, back = repeng_read(written(found, "gguf", tmp_path / "back.gguf"))
    assert hint == "qwen2"
    assert list(back) == [1, 3]
    assert all(np.array_equal(back[n], vectors[n]) for n in back)


def test_a_control_vector_says_whether_a_coefficient_is_in_it(tmp_path, rows):
    one = Direction(name="x", layer=1, vector=rows[1], provenance=Provenance(model_type="qwen2"))
    raw = read_one(written([one], "gguf", tmp_path / "raw.gguf"), 1)
    scaled = read_one(written([one], "gguf", tmp_path / "scaled.gguf", coefficient=-3.0), 1)
    assert (raw.provenance.scaled, scaled.provenance.scaled) == (None, True)
    assert torch.equal(scaled.vector, -3.0 * rows[1])


# --- steering-lite: `y + coeff * v` at the block's output ----------------------------------------


def steering_lite_file(path, vectors, **more):
    config = {"method": "mean_diff", "target": "residual", "target_submodule": None, "coeff": 4.0}
    metadata = {"cfg": json.dumps({**config, **more})}
    save_file({f"layer{n}.v": v for n, v in vectors.items()}, path, metadata=metadata)


def test_a_steering_lite_vector_is_added_as_steering_lite_adds_it(tmp_path, base, rows):
    path = tmp_path / "honesty.safetensors"
    steering_lite_file(path, {2: rows[2].clone()})
    direction = read_one(path, 2)
    assert direction.provenance.coefficient == 4.0
    same_effect(base, direction, {2: 4.0 * rows[2]}, coefficient=direction.provenance.coefficient)


@pytest.mark.parametrize(
    "more", [{"method": "spherical"}, {"target_submodule": "mlp"}, {"target": "mlp_out"}]
)
def test_what_steering_lite_does_otherwise_is_refused(tmp_path, rows, more):
    path = tmp_path / "honesty.safetensors"
    steering_lite_file(path, {2: rows[2].clone()}, **more)
    with pytest.raises(ModelError, match="importable"):
        read_directions(path, SHAPE)


# --- vllm-lens: `hidden + scale * activations[i]` at `layer_indices[i]` --------------------------


@dataclass
class SteeringVector:
    """vllm-lens' schema, from its description."""

    activations: dict
    layer_indices: list[int]
    scale: float = 1.0
    norm_match: bool = False
    position_indices: list[int] | None = None

    def tensor(self):
        values = np.frombuffer(
            base64.b64decode(self.activations["data"]), self.activations["dtype"]
        )
        return torch.from_numpy(values.copy()).reshape(self.activations["shape"])


def test_a_vector_for_vllm_lens_does_there_what_it_does_here_and_comes_back(tmp_path, base, rows):
    one = Direction(name="villain", layer=2, vector=rows[2])
    path = written([one], "vllm-lens", tmp_path / "villain.json", coefficient=2.0)
    theirs = SteeringVector(**json.loads(path.read_text()))
    assert theirs.tensor().shape == (len(theirs.layer_indices), HIDDEN)
    added = {
        layer: theirs.scale * row
        for layer, row in zip(theirs.layer_indices, theirs.tensor(), strict=True)
    }
    same_effect(base, one, added)
    back = read_one(path, 2)
    assert torch.equal(back.vector, one.vector)
    assert back.provenance.coefficient == 2.0


def test_a_vector_as_vllm_lens_itself_writes_it_is_read_and_a_broken_one_is_refused(tmp_path, rows):
    one = Direction(name="villain", layer=2, vector=rows[2])
    path = written([one], "vllm-lens", tmp_path / "villain.json")
    told = json.loads(path.read_text())
    half = rows[2].bfloat16()[None]
    packed = pyarrow.compress(half.view(torch.int16).numpy().tobytes(), codec="zstd", asbytes=True)
    told["activations"] = {
        "data": base64.b64encode(packed).decode(),
        "dtype": "int16",
        "original_dtype": "torch.bfloat16",
        "shape": [1, HIDDEN],
        "compression": "zstd",
    }
    path.write_text(json.dumps(told))
    assert torch.equal(read_one(path, 2).vector, half[0].float())
    for wrong in ({"shape": [1, 2 * HIDDEN]}, {"shape": [2**20, 2**20]}, {"compression": "xz"}):
        path.write_text(json.dumps({**told, "activations": {**told["activations"], **wrong}}))
        with pytest.raises(ModelError, match="no SteeringVector"):
            read_directions(path, SHAPE)


def test_a_vllm_lens_vector_that_does_more_than_add_is_refused(tmp_path, rows):
    one = Direction(name="villain", layer=2, vector=rows[2])
    path = written([one], "vllm-lens", tmp_path / "villain.json")
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "norm_match": True}))
    with pytest.raises(ModelError, match="added as they are"):
        read_directions(path, SHAPE)


# --- plain tensors, steerproof's own file, EasySteer ---------------------------------------------


def test_tensors_by_module_path_are_added_to_those_modules(tmp_path, base, rows):
    path = tmp_path / "plain.safetensors"
    save_file({"model.layers.1": rows[1].clone(), "model.layers.2": rows[2].clone()}, path)
    same_effect(base, read_one(path, 2), {2: 2.0 * rows[2]})


@pytest.mark.parametrize(
    ("keys", "blocks"),
    [
        (range(LAYERS), [0, 1, 2, 3]),
        (range(1, LAYERS + 1), [0, 1, 2, 3]),
        (range(LAYERS + 1), [0, 1, 2, 3]),
        ([2, LAYERS], [1, 3]),
    ],
)
def test_layer_numbers_that_can_mean_one_thing_only_are_read_so(tmp_path, rows, keys, blocks):
    path = tmp_path / "vectors.pt"
    torch.save({n: rows[n] for n in keys}, path)  # noqa: TID251 - as the field writes it
    found = read_directions(path, SHAPE)
    assert [one.layer for one in found] == blocks
    shift = 0 if list(keys) == list(range(LAYERS)) else 1
    assert all(torch.equal(one.vector, rows[one.layer + shift]) for one in found)


def test_layer_numbers_that_can_mean_two_things_have_to_be_said(tmp_path, rows):
    path = tmp_path / "vectors.pt"
    torch.save({"layer_2": rows[2]}, path)  # noqa: TID251 - as the field writes it
    with pytest.raises(SteeringError, match="--rows"):
        read_directions(path, SHAPE)
    assert read_directions(path, SHAPE, rows="block")[0].layer == 2
    assert read_directions(path, SHAPE, rows="hidden_states")[0].layer == 1


def test_names_in_a_file_become_names_and_a_lone_vector_needs_its_block(tmp_path, rows):
    path = tmp_path / "concepts.pt"
    torch.save({"dust": rows[0], "cats": rows[1]}, path)  # noqa: TID251 - as the field writes it
    with pytest.raises(SteeringError, match="--layer"):
        read_directions(path, SHAPE)
    found = read_directions(path, SHAPE, layer=2)
    assert [(one.name, one.layer) for one in found] == [("dust", 2), ("cats", 2)]


def test_steerproofs_own_file_says_everything_and_gives_the_same_bytes_again(tmp_path, rows):
    known = Provenance(
        model="organism", model_type="qwen2", blocks=LAYERS, scaled=False, h_bar=3.5,
        position="last prompt token", centred_on=("villain", "librarian"), questions="ab" * 32,
        sign="towards the persona", dtype="float32",
    )  # fmt: skip
    wrote = [
        Direction(name=name, layer=layer, vector=rows[layer], provenance=known)
        for name in ("villain", "naïve Übel")
        for layer in (1, 3)
    ]
    path = written(wrote, "steerproof", tmp_path / "own.safetensors")
    read = read_directions(path)
    for one, other in zip(wrote, read, strict=True):
        assert torch.equal(one.vector, other.vector)
        assert (one.name, one.layer, one.provenance) == (other.name, other.layer, other.provenance)
    assert export(read, "steerproof", path)[path] == path.read_bytes()
    with safe_open(path, framework="pt") as file:
        said = json.loads(file.metadata()["steerproof"])
    assert (said["hook"], said["layer_base"], said["operation"]) == ("block output", 0, "add")
    with pytest.raises(SteeringError, match="32 wide"):
        read_directions(path, replace(SHAPE, hidden_size=64))


def test_a_ratio_needs_the_baseline_norm(rows):
    one = Direction(name="x", layer=1, vector=rows[1])
    ratio = Strength(kind="ratio", number=0.2)
    with pytest.raises(SteeringError, match="baseline norm of block 1 is unknown"):
        one.push(ratio)
    calibrated = replace(one, provenance=Provenance(h_bar=5.0))
    assert calibrated.push(ratio).vector.norm().item() == pytest.approx(1.0)


def test_easysteer_gets_a_specification_beside_a_control_vector(tmp_path, rows):
    one = Direction(name="x", layer=1, vector=rows[1], provenance=Provenance(model_type="qwen2"))
    path = written([one], "easysteer", tmp_path / "x.json", coefficient=2.0)
    (spec,) = json.loads(path.read_text())["vectors"]
    assert (spec["algorithm"], spec["scale"], spec["layers"]) == ("direct", 2.0, [1])
    _, vectors = repeng_read(tmp_path / spec["source"])
    assert np.array_equal(vectors[1], rows[1].numpy())


# --- refusals ------------------------------------------------------------------------------------


@dataclass
class Hostile:
    """What a library's own class looks like in a pickle."""

    layer_activations: dict


def test_a_pickle_of_objects_is_refused_and_says_the_way_out(tmp_path, rows):
    path = tmp_path / "vector.pt"
    torch.save(Hostile({1: rows[1]}), path)  # noqa: TID251 - as the field writes it
    with pytest.raises(ModelError, match=r"would run code.*save_file"):
        read_directions(path, SHAPE)
    path.write_bytes(pickle.dumps(Hostile({})))
    with pytest.raises(ModelError):
        read_directions(path, SHAPE)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (torch.zeros(LAYERS + 1, HIDDEN), "not zero"),
        (torch.ones(LAYERS + 2, HIDDEN), "6 rows do not fit tiny"),
        (torch.ones(LAYERS, HIDDEN + 1), "33 wide"),
        (torch.ones(2, 3, HIDDEN), "allowed are"),
        (torch.full((LAYERS, HIDDEN), torch.nan), "finite"),
        ([torch.ones(HIDDEN)], "a list"),
        ({"x": "text"}, "a str"),
        ({"villain": torch.ones(2, HIDDEN)}, "2 rows do not fit"),
        ({9: torch.ones(HIDDEN)}, "--rows"),
        ({"model.layers.9": torch.ones(HIDDEN)}, "block 9 is not one of the blocks 0 to 3"),
        ({"model.layers.1": torch.full((HIDDEN,), torch.nan)}, "32 of 32 numbers .* NaN"),
        ({"model.layers.1": torch.ones(HIDDEN).cfloat()}, "complex64 .* is no direction"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, content, says):
    path = tmp_path / "wrong.pt"
    torch.save(content, path)  # noqa: TID251 - as the field writes it
    with pytest.raises(SteerproofError, match=says):
        read_directions(path, SHAPE)


def test_a_control_vector_for_another_architecture_is_refused(tmp_path, rows):
    path = tmp_path / "happy.gguf"
    repeng_file(path, {1: rows[1].numpy()}, hint="llama")
    with pytest.raises(ModelError, match="for a llama model"):
        read_directions(path, SHAPE)
    repeng_file(path, {1: rows[1].numpy()}, architecture="llama")
    with pytest.raises(ModelError, match="control vector has"):
        read_directions(path, SHAPE)


@pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors", "cut.gguf", "cut.json", "cut.txt"])
def test_a_damaged_file_is_an_error_of_its_own(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match="cut"):
        read_directions(path, SHAPE)


def damaged_everywhere(content, tries=60):
    """Copies of a file, each with a byte of its head changed or cut short there."""
    chance = random.Random(5)
    for _ in range(tries):
        at = chance.randrange(min(len(content), 400))
        changed = content[:at] + chance.randbytes(1) + content[at + 1 :]
        yield changed if chance.random() < 0.7 else content[:at]


@pytest.mark.parametrize(
    ("form", "file"),
    [
        ("steerproof", "x.safetensors"),
        ("gguf", "x.gguf"),
        ("persona-vectors", "x.pt"),
        ("vllm-lens", "x.json"),
    ],
)
def test_a_file_that_is_damaged_anywhere_is_read_or_refused(tmp_path, rows, form, file):
    known = Provenance(model_type="qwen2", blocks=LAYERS)
    one = Direction(name="x", layer=1, vector=rows[1], provenance=known)
    path = written([one], form, tmp_path / file)
    refused = 0
    for content in damaged_everywhere(path.read_bytes()):
        path.write_bytes(content)
        try:
            read_directions(path, SHAPE)
        except SteerproofError:
            refused += 1
    assert refused > 15


@pytest.mark.parametrize(
    ("scale", "says"),
    [("", "no SteeringVector"), ("nan", "nan, which is no number"), (1e999, "inf")],
)
def test_a_scale_that_is_no_number_is_refused(tmp_path, rows, scale, says):
    one = Direction(name="x", layer=1, vector=rows[1], provenance=Provenance(model_type="qwen2"))
    path = written([one], "vllm-lens", tmp_path / "x.json")
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"scale": scale}))
    with pytest.raises(SteerproofError, match=says):
        read_directions(path, SHAPE)


def test_a_file_that_does_not_say_its_model_asks_for_it(tmp_path):
    path = tmp_path / "evil_response_avg_diff.pt"
    torch.save(torch.ones(LAYERS, HIDDEN), path)  # noqa: TID251 - as the field writes it
    with pytest.raises(ModelError, match="--model"):
        read_directions(path)


def test_the_shape_of_a_model_is_read_without_its_weights():
    shape = shape_of("organism")
    assert (shape.model_type, shape.blocks, shape.hidden_size) == ("qwen2", 6, 128)
