"""Packing keeps the weights that it promises to keep, where it promises to lay them."""

import pytest
import torch
from torch import Tensor

from redraft.kernels.int4 import GROUP
from redraft.kernels.packed import BLOCK, FORMATS, PANEL, Format, PackedMatrix, pack, pack_gated
from tests.kernels.quantised import random

# Outputs and inputs: below, at and above the sizes of panels, blocks and groups.
SHAPES = [(1, 1), (1, 129), (5, 33), (16, 128), (31, 5), (32, 64), (33, 31), (129, 1), (129, 257)]
LOSSY: list[Format] = ["int8", "int4"]


def ranges_of_each(packed: PackedMatrix) -> Tensor:
    """The scale and the minimum of every weight of the first matrix in int4: [2, outputs, inputs]."""
    found = torch.empty(2, packed.outputs, packed.inputs)
    for output in range(packed.outputs):
        for start in range(0, packed.inputs, GROUP):
            own = packed.scales[0, output // BLOCK, start // GROUP, :, output % BLOCK]
            found[:, output, start : start + GROUP] = own[:, None].float()
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_keeps_every_weight(shape):
    weight = random(*shape)
    assert torch.equal(pack(weight, "float32").unpacked()[0], weight)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bfloat16_keeps_every_weight_rounded(shape):
    weight = random(*shape)
    assert torch.equal(pack(weight, "bfloat16").unpacked()[0], weight.bfloat16().float())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int8_is_within_half_a_step_of_its_outputs_scale(shape):
    weight, packed = random(*shape), pack(random(*shape), "int8")
    torch.testing.assert_close(packed.scales[0, : shape[0]], weight.abs().amax(-1) / 127)
    assert ((packed.unpacked()[0] - weight).abs() <= 0.50001 * packed.scales[0, : shape[0], None]).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_int4_is_within_half_a_step_of_its_groups_scale_or_at_an_end_of_its_range(shape):
    weight, packed = random(*shape), pack(random(*shape), "int4")
    scale, minimum = ranges_of_each(packed)
    step = torch.where(scale == 0, 1.0, scale)
    steps, kept = (weight - minimum) / step, (packed.unpacked()[0] - minimum) / step
    inside = (steps > -0.5) & (steps < 15.5)
    # A group of one weight has no step; its minimum is that weight in float16.
    assert ((kept - steps).abs() <= 0.501)[inside].all()
    torch.testing.assert_close(kept[~inside], torch.where(steps > 8, 15.0, 0.0)[~inside], atol=1e-4, rtol=0)
    assert inside.float().mean() > 0.8


@pytest.mark.parametrize("inputs", [1, 9, 33])
def test_the_padding_of_a_group_in_int4_does_not_widen_its_range(inputs):
    """Weights far from zero are as near as those of a whole group."""
    weight = random(64, inputs) + 100
    error = (pack(weight, "int4").unpacked()[0] - weight).abs()
    widths = torch.stack([part.amax(-1) - part.amin(-1) for part in weight.split(GROUP, dim=1)])
    # Half a step, and half of float16's at 100.
    assert error.max() <= widths.max() / 15 + 100 * 2.0**-11


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("outputs", [1, 5, 16, 17, 129])
def test_a_gated_matrix_keeps_gates_and_gated_as_two_matrices_would(format: Format, outputs: int):
    gate, up = random(outputs, 40, seed=1), random(outputs, 40, seed=2)
    packed = pack_gated(torch.cat((gate, up)), format)
    assert (packed.outputs, packed.inputs, packed.gated) == (outputs, 40, True)
    alone = torch.cat((pack(gate, format).unpacked()[0], pack(up, format).unpacked()[0]))
    assert torch.equal(packed.unpacked()[0], alone)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("packing", [pack, pack_gated])
def test_several_matrices_are_packed_as_each_alone(packing, format: Format):
    weights = random(3, 34, 50)
    packed = packing(weights, format)
    assert packed.count == 3
    for index in range(3):
        alone = packing(weights[index], format)
        assert torch.equal(packed.data[index], alone.data[0])
        assert torch.equal(packed.scales[index], alone.scales[0])
        assert torch.equal(packed.unpacked()[index], alone.unpacked()[0])


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_checkpoint_stores_in_bfloat16_is_packed_as_its_float32_copy(format: Format):
    weight = random(33, 70).bfloat16()
    half, full = pack(weight, format), pack(weight.float(), format)
    assert torch.equal(half.data, full.data)
    assert torch.equal(half.scales, full.scales)


@pytest.mark.parametrize("format", FORMATS)
def test_zeros_stay_zeros_beside_other_outputs_and_alone(format: Format):
    weight = random(40, 200)
    weight[7] = 0
    weight[:, 128:] = 0
    kept = pack(weight, format).unpacked()[0]
    assert torch.equal(kept[7], torch.zeros(200))
    assert torch.equal(kept[:, 128:], torch.zeros(40, 72))
    assert torch.equal(pack(torch.zeros(3, 5), format).unpacked()[0], torch.zeros(3, 5))


@pytest.mark.parametrize("format", LOSSY)
def test_a_weight_that_is_not_finite_does_not_become_a_number(format: Format):
    for damage in (float("nan"), float("inf")):
        weight = random(3, 5)
        weight[1, 2] = damage
        kept = pack(weight, format).unpacked()[0]
        assert not kept[1].isfinite().all()
        assert kept[[0, 2]].isfinite().all()


def test_a_panel_holds_one_input_of_its_sixteen_outputs_side_by_side_in_float32():
    packed = pack(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "float32")
    assert packed.data.shape == (1, 1, 2, 32, 16, 1)
    flat = packed.data.flatten().tolist()
    assert flat[:32] == [1, 3] + [0] * 14 + [2, 4] + [0] * 14
    assert not any(flat[32:])


def test_a_panel_holds_two_inputs_of_its_sixteen_outputs_side_by_side_in_bfloat16():
    packed = pack(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), "bfloat16")
    assert packed.data.shape == (1, 1, 2, 16, 16, 2)
    flat = packed.data.flatten().tolist()
    assert flat[:64] == [1, 2, 4, 5] + [0] * 28 + [3, 0, 6, 0] + [0] * 28
    assert not any(flat[64:])


def test_a_panel_holds_four_inputs_of_its_sixteen_outputs_as_q_plus_128_in_int8():
    packed = pack(torch.tensor([[127.0, -1, 2, -3, 4], [5.0, -127, 6, 7, 8]]), "int8")
    assert packed.data.shape == (1, 1, 2, 16, 16, 4)
    assert packed.scales[0, :3].tolist() == [1, 1, 0]
    flat = packed.data.flatten().tolist()
    assert flat[:8] == [255, 127, 130, 125, 133, 1, 134, 135]
    assert flat[64:72] == [132, 128, 128, 128, 136, 128, 128, 128]
    assert set(flat[8:64] + flat[72:]) == {128}


def test_a_panel_holds_eight_inputs_in_four_bytes_low_nibbles_first_in_int4():
    packed = pack(torch.tensor([[0.0, 1, 2, 3, 15, 14, 13, 12, 5]]), "int4")
    assert packed.data.shape == (1, 1, 2, 4, 16, 4)
    assert packed.scales.shape == (1, 1, 1, 2, 32)
    assert packed.scales.dtype == torch.float16
    assert packed.scales[0, 0, 0, :, 0].tolist() == [1, 0]
    flat = packed.data.flatten().tolist()
    assert flat[:4] == [0 | 15 << 4, 1 | 14 << 4, 2 | 13 << 4, 3 | 12 << 4]
    # The ninth weight stands in the places of those that there are not.
    assert flat[64:68] == flat[128:132] == flat[192:196] == [5 | 5 << 4] * 4
    assert not any(flat[4:64] + flat[68:128] + flat[132:192] + flat[196:])


def test_the_seventeenth_output_starts_the_second_panel_and_the_thirty_third_the_second_block():
    packed = pack(torch.arange(40.0)[:, None] + 1, "float32")
    assert packed.data[0, 0, 0, 0, :, 0].tolist() == list(range(1, 17))
    assert packed.data[0, 0, 1, 0, :, 0].tolist() == list(range(17, 33))
    assert packed.data[0, 1, 0, 0, :, 0].tolist() == [*range(33, 41), *[0] * 8]


def test_a_gated_block_is_a_panel_of_gates_and_the_panel_of_what_they_gate():
    packed = pack_gated(torch.arange(2.0 * 20)[:, None] + 1, "float32")
    assert packed.padded_outputs == 2 * BLOCK
    blocks = packed.data[0, :, :, 0, :, 0].tolist()
    assert blocks[0] == [list(range(1, 17)), list(range(21, 37))]
    padding = [0] * (PANEL - 4)
    assert blocks[1] == [[17, 18, 19, 20, *padding], [37, 38, 39, 40, *padding]]


@pytest.mark.parametrize("format", FORMATS)
def test_packing_weights_in_training_keeps_none_of_their_gradients(format: Format) -> None:
    """What a gradient would need of the experts of a large layer is ten times as much as they are."""
    packed = pack(torch.nn.Parameter(torch.randn(3, 40, 50)), format)
    assert not packed.data.requires_grad
    assert not packed.scales.requires_grad
