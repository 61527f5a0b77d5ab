"""Numbers of a quantised copy that our formats can hold are the packed ones, and what becomes of others is said."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import redraft
from redraft.kernels.packed import Format, PackedMatrix
from redraft.models import checkpoint
from redraft.models.choice import choose
from redraft.models.kept import becomings
from redraft.models.packed import PackedModel
from redraft.models.packed_cache import load_packed
from redraft.models.quantize import quantize
from tests.quantised_copies import KINDS, SHAPE, WEIGHTS, Copy

CopyOf = Callable[[str], Copy]
EXACT: dict[str, Format] = {
    "W4A16": "int4",
    "MLX 4-bit": "int4",
    "W3A16": "int4",
    "INT8": "int8",
    "INT8 packed": "int8",
}
LAYER = "model.decoder.layers.1"


def loaded(folder: Path, format: Format) -> PackedModel:
    return load_packed(checkpoint.read(folder), format, pack_folder=None)


def packed_of(model: PackedModel, layer: int) -> dict[str, tuple[PackedMatrix, list[str]]]:
    """The packed matrices of a layer that copies quantise, and the names of what is stacked in each."""
    own, name = model.parts.layers[layer], f"model.decoder.layers.{layer}"
    attention = [f"{name}.self_attn.{one}_proj.weight" for one in ("q", "k", "v") if layer == 0 or one != "v"]
    assert own.experts_gate_up is not None
    assert own.experts_down is not None
    return {
        "attention": (own.qkv, attention),
        "output": (own.o, [f"{name}.self_attn.o_proj.weight"]),
        "experts": (own.experts_gate_up, [f"{name}.experts.gate_up_proj"]),
        "experts' outputs": (own.experts_down, [f"{name}.experts.down_proj"]),
    }


@pytest.mark.parametrize("name", EXACT)
def test_numbers_that_a_format_holds_are_moved_over_exactly(name: str, copy_of: CopyOf):
    """Each packed matrix stands for the very values that the writer of the copy says; in the format of its numbers."""
    copy, format = copy_of(name), EXACT[name]
    model, dense = loaded(copy.folder, format), load_file(copy.dense / WEIGHTS)
    for layer in (0, 1):
        for packed, names in packed_of(model, layer).values():
            expected = torch.cat([dense[one] for one in names], dim=-2)
            assert packed.format == format
            assert torch.equal(packed.unpacked(), expected.view(packed.unpacked().shape)), names


def test_packed_integers_and_scales_are_those_of_the_file(copy_of: CopyOf):
    """Not only their products: nibbles and float16 scales of W4A16, bytes and scales of INT8."""
    copy = copy_of("W4A16")
    parts, packed = load_file(copy.folder / WEIGHTS), loaded(copy.folder, "int4").parts.layers[1].experts_down
    assert packed is not None
    for expert in range(packed.count):
        name = f"{LAYER}.experts.{expert}.down_proj"
        words, scales = parts[f"{name}.weight_packed"], parts[f"{name}.weight_scale"]
        nibbles = torch.stack([words >> 4 * place & 15 for place in range(8)], dim=-1).flatten(1)
        whole, ranges = unpacked(packed, expert)
        assert torch.equal(whole, nibbles.to(torch.uint8))
        assert torch.equal(ranges[..., 0], scales.half())
        assert torch.equal(ranges[..., 1], -8 * scales.half())
    copy = copy_of("INT8")
    parts, output = load_file(copy.folder / WEIGHTS), loaded(copy.folder, "int8").parts.layers[1].o
    name = f"{LAYER}.self_attn.o_proj"
    whole, _ = unpacked(output, 0)
    assert torch.equal(whole.int() - 128, parts[f"{name}.weight"].int())
    assert torch.equal(output.scales[0, : output.outputs, None], parts[f"{name}.weight_scale"].float())


def unpacked(packed: PackedMatrix, number: int) -> tuple[Tensor, Tensor]:
    """One matrix's whole numbers [outputs, inputs], and int4's ranges [outputs, groups, 2], found one by one."""
    whole = torch.empty(packed.outputs, packed.inputs, dtype=torch.uint8)
    ranges = torch.empty(packed.outputs, packed.padded_inputs // 32, 2, dtype=torch.float16)
    side = 8 if packed.format == "int4" else 4
    for output in range(packed.outputs):
        own = packed.data[number, output // 32, output % 32 // 16, :, output % 16]
        for column in range(packed.inputs):
            place = column % side
            if packed.format == "int4":
                byte = int(own[column // side, place % 4])
                whole[output, column] = byte & 15 if place < 4 else byte >> 4
            else:
                whole[output, column] = own[column // side, place]
        if packed.format == "int4":
            ranges[output] = packed.scales[number, output // 32, :, :, output % 32]
    return whole, ranges


def test_what_a_copy_stores_in_more_bits_is_not_given_four(copy_of: CopyOf):
    """The published W4A16 copy keeps its dense branch in sixteen bits: it is int8 beside int4, and its router exact."""
    own = loaded(copy_of("W4A16").folder, "int4").parts.layers[0]
    assert own.gate_up is not None
    assert own.router is not None
    assert (own.qkv.format, own.gate_up.format, own.router.format) == ("int4", "int8", "float32")


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("W4A16", "int4", {"INT4, groups of 32": "kept exactly, as int4"}),
        ("W4A16", "int8", {"INT4, groups of 32": "requantised to int8"}),
        ("W4A16", "bfloat16", {"INT4, groups of 32": "dequantised to bfloat16"}),
        ("INT8", "int8", {"INT8": "kept exactly, as int8"}),
        ("INT8", "float32", {"INT8": "dequantised to float32"}),
        ("modelopt NVFP4", "int8", {"NVFP4": "requantised to int8"}),
        (
            "W4A16 with zero points",
            "int4",
            {"INT4, groups of 32, with zero points": "whole numbers kept, as int4, scales rounded to float16"},
        ),
    ],
)
def test_what_becomes_of_numbers_is_said_from_headers(name: str, format: Format, expected: dict[str, str], copy_of):
    found = checkpoint.read(copy_of(name).folder)
    listed = becomings(found, format)
    assert {one.stored: one.becomes for one in listed if one.stored is not None} == expected
    assert sum(one.weights for one in listed) == sum(tensor.shape.numel() for tensor in _shapes(found))
    assert listed[-1].stored is None


def _shapes(found: checkpoint.Checkpoint) -> list[Tensor]:
    return [torch.empty(tensor.shape, device="meta") for tensor in found.tensors.values()]


def test_an_embedding_that_is_quantised_too_is_told_from_the_matrices(copy_of: CopyOf):
    """MLX quantises it; it is int8 in every lossy format, which four bits with a bias a group are not."""
    listed = becomings(checkpoint.read(copy_of("MLX 4-bit").folder), "int4")
    assert [one.becomes for one in listed] == ["kept exactly, as int4", "requantised to int8", "not quantised"]


def test_zero_points_keep_their_whole_numbers(copy_of: CopyOf):
    """float16 rounds the minimum, which is the zero point times the scale: by less than one part in two thousand."""
    copy = copy_of("W4A16 with zero points")
    model, dense = loaded(copy.folder, "int4"), load_file(copy.dense / WEIGHTS)
    for packed, names in packed_of(model, 1).values():
        expected = torch.cat([dense[one] for one in names], dim=-2).view(packed.unpacked().shape)
        largest = expected.unflatten(-1, (-1, 32)).abs().amax(-1).repeat_interleave(32, -1)
        assert ((packed.unpacked() - expected).abs() <= largest * 2.0**-10).all()


@pytest.mark.parametrize(("name", "format"), [*EXACT.items(), ("FP8", "bfloat16"), ("NVFP4", "bfloat16")])
def test_auto_is_as_stored_where_the_numbers_can_be_kept(
    name: str, format: Format, copy_of: CopyOf, monkeypatch: pytest.MonkeyPatch
):
    """Of a model that is too large for float32, which keeps them all."""
    found = checkpoint.read(copy_of(name).folder)
    assert choose(found).format == "float32"
    for module in ("checkpoint", "choice"):
        monkeypatch.setattr(f"redraft.models.{module}.AUTO_FLOAT32", 0)
    assert choose(found).format == format


def test_gates_and_what_they_gate_are_padded_apart(checkpoint_of: Callable[..., Path], tmp_path: Path):
    """Experts as wide as no panel or block: in what is packed, no gate stands beside another's row."""
    base = checkpoint_of(**{**SHAPE, "moe_intermediate_size": 40})
    copy = KINDS["INT8"].write(base, tmp_path / "copy")
    model, dense = loaded(copy.folder, "int8"), load_file(copy.dense / WEIGHTS)
    experts = model.parts.layers[1].experts_gate_up
    assert experts is not None
    assert (experts.outputs, experts.padded_outputs) == (40, 96)
    assert torch.equal(experts.unpacked(), dense[f"{LAYER}.experts.gate_up_proj"])


def test_what_is_written_of_a_copy_has_its_numbers_and_is_no_such_copy(copy_of: CopyOf, tmp_path: Path):
    """Packed, and as a plain folder, each read without what the copy said of itself."""
    copy = copy_of("W4A16")
    found, dense = checkpoint.read(copy.folder), load_file(copy.dense / WEIGHTS)
    quantize(found, tmp_path / "packed", "int4")
    quantize(found, tmp_path / "plain", "bfloat16")
    again = load_packed(checkpoint.read(tmp_path / "packed"), "int4", pack_folder=None)
    for packed, names in packed_of(again, 1).values():
        expected = torch.cat([dense[one] for one in names], dim=-2)
        assert torch.equal(packed.unpacked(), expected.view(packed.unpacked().shape))
    plain = checkpoint.read(tmp_path / "plain")
    assert (plain.quantised, plain.stored) == (None, torch.bfloat16)
    with plain.stored_weights() as read:
        assert all(torch.equal(read(name), dense[name].bfloat16()) for name in plain.tensors)


def test_a_copy_answers_as_the_checkpoint_of_its_numbers_does(copy_of: CopyOf):
    """From its name to text, in Python's three lines."""
    copy = copy_of("modelopt NVFP4")
    answers = [redraft.load(folder).generate("w20 w21", max_tokens=8, seed=3) for folder in (copy.folder, copy.dense)]
    assert answers[0].token_ids == answers[1].token_ids


@pytest.mark.parametrize("name", ["FP8", "modelopt NVFP4", "MLX 8-bit"])
def test_others_are_rounded_from_the_values_that_they_stand_for(name: str, copy_of: CopyOf):
    """Once, not by way of bfloat16: as a plain checkpoint of those values is."""
    copy = copy_of(name)
    model, dense = loaded(copy.folder, "int8"), loaded(copy.dense, "int8")
    for layer in (0, 1):
        for (packed, names), (expected, _) in zip(
            packed_of(model, layer).values(), packed_of(dense, layer).values(), strict=True
        ):
            assert torch.equal(packed.data, expected.data), names
            assert torch.equal(packed.scales, expected.scales)
