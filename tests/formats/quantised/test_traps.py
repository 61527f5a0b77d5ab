"""What other readers of quantised copies get wrong: each looks right, and gives another model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from redraft.formats import source
from redraft.kernels.whole_numbers import WholeNumbers
from tests.quantised_copies import EXPERTS, KINDS, WEIGHTS, Copy, modelopt_nvfp4, split_experts, write_copy

CopyOf = Callable[[str], Copy]
LAYER = "model.decoder.layers.0.experts"


def test_modelopt_multiplies_by_its_overall_scale_and_compressed_tensors_divides_by_it(copy_of: CopyOf):
    """Both copies are of the same weights: read with the other's rule they would be millions of times too large."""
    original = load_file(copy_of("bfloat16, experts one by one").dense / WEIGHTS)[f"{LAYER}.gate_up_proj"]
    for name, suffix in (("NVFP4", "weight_global_scale"), ("modelopt NVFP4", "weight_scale_2")):
        copy = copy_of(name)
        overall = load_file(copy.folder / WEIGHTS)[f"{LAYER}.0.gate_proj.{suffix}"]
        assert (overall > 100 if name == "NVFP4" else overall < 0.01).all(), "the two could not be told apart"
        with source.reading(source.stored_tensors(copy.folder)) as read:
            found = read(f"{LAYER}.gate_up_proj")
        # Half a step of e2m1 next to its largest value is a sixth of it; most are far nearer.
        assert (found - original).square().mean() < 0.02 * original.square().mean()


def test_a_gate_and_what_it_gates_keep_overall_scales_of_their_own(copy_of: CopyOf, tmp_path: Path):
    """Fused they lie in one tensor. One of the two is a thousand times smaller here, which the larger one's scale would
    make zero."""
    base = copy_of("modelopt NVFP4")
    source_folder = shutil.copytree(copy_of("bfloat16, experts one by one").dense, tmp_path / "base")
    state = load_file(source_folder / WEIGHTS)
    fused = state[f"{LAYER}.gate_up_proj"]
    gates = fused.shape[1] // 2
    fused[:, gates:] *= 1e-3
    save_file(state, source_folder / WEIGHTS, {"format": "pt"})
    quantization = dict(KINDS["modelopt NVFP4"].quantization or ())
    copy = write_copy(source_folder, tmp_path / "copy", modelopt_nvfp4, quantization, chosen=EXPERTS)
    assert copy.quantised == base.quantised
    with source.reading(source.stored_tensors(copy.folder)) as read:
        found = read(f"{LAYER}.gate_up_proj")
        rows = read.rows(f"{LAYER}.gate_up_proj", 1, torch.tensor([gates, 0, gates + 1]))
    for half in (slice(0, gates), slice(gates, None)):
        assert (found[:, half] - fused[:, half]).square().mean() < 0.02 * fused[:, half].square().mean()
    assert isinstance(rows, torch.Tensor)
    assert torch.equal(rows, found[1, [gates, 0, gates + 1]])


def test_even_columns_are_the_lower_halves_of_bytes(copy_of: CopyOf):
    """One code set by hand: 1.5 in the lower half of the first byte of a row, -6 in the upper one."""
    copy = copy_of("modelopt NVFP4")
    parts = load_file(copy.folder / WEIGHTS)
    name = f"{LAYER}.2.down_proj"
    byte = int(parts[f"{name}.weight"][0, 0])
    step = float(parts[f"{name}.weight_scale"][0, 0].float() * parts[f"{name}.weight_scale_2"])
    magnitudes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    expected = [magnitudes[code & 7] * (-1 if code & 8 else 1) * step for code in (byte & 15, byte >> 4)]
    with source.reading(source.stored_tensors(copy.folder)) as read:
        assert read(f"{LAYER}.down_proj")[2, 0, :2].tolist() == torch.tensor(expected).tolist()


def test_ignore_patterns_of_mlp_do_not_hold_experts_back(copy_of: CopyOf):
    """``*mlp*`` stands in the published list, and what is quantised are the experts: of this family they are no
    ``mlp.experts``."""
    stored = source.stored_tensors(copy_of("modelopt NVFP4").folder)
    assert stored[f"{LAYER}.gate_up_proj"].quantised == "NVFP4"
    assert stored["model.decoder.layers.0.mlp.gate_proj.weight"].quantised is None


def test_a_copy_whose_fused_experts_were_left_out_is_told_by_what_it_stores(copy_of: CopyOf, tmp_path: Path):
    """Tools that look for linear layers see no experts in fused tensors, and say nothing: the copy is hardly smaller.
    It loads, and what most of it is stored as is not what its configuration says."""
    kind = KINDS["FP8"]
    from tests.quantised_copies import compressed_tensors

    assert kind.preset is not None
    writer, quantization = compressed_tensors(kind.preset)
    skipped = r".*\.decoder\.layers\.\d+\.(self_attn|mlp)\..*_proj\.weight"
    folder = copy_of("bfloat16, experts one by one").dense
    copy = write_copy(folder, tmp_path / "copy", writer, quantization, chosen=skipped, split=False)
    stored = source.stored_tensors(copy.folder)
    sizes = {kind: sum(torch.Size(one.shape).numel() for one in stored.values() if one.quantised == kind)
             for kind in ("FP8", None)}  # fmt: skip
    assert sizes[None] > sizes["FP8"] > 0
    with source.reading(stored) as read:
        dense = load_file(copy.dense / WEIGHTS)
        assert torch.equal(read(f"{LAYER}.down_proj").float(), dense[f"{LAYER}.down_proj"])


def test_fp16_stands_beside_bfloat16(copy_of: CopyOf):
    """The published W4A16 copy keeps what it does not quantise in float16."""
    stored = source.stored_tensors(copy_of("W4A16").folder)
    assert stored["model.decoder.norm.weight"].dtype == torch.float16
    assert stored["model.decoder.layers.0.mlp.gate_proj.weight"].dtype == torch.float16


def test_all_whole_numbers_of_a_byte_are_there_in_int8(copy_of: CopyOf):
    """compressed-tensors divides by 127.5: the smallest weight of a row becomes -128, which symmetric formats of others
    do not have."""
    copy = copy_of("INT8")
    name = "model.decoder.layers.0.self_attn.q_proj.weight"
    assert int(load_file(copy.folder / WEIGHTS)[name].min()) == -128
    with source.reading(source.stored_tensors(copy.folder)) as read:
        numbers = read.rows(name, 0, slice(None))
    assert isinstance(numbers, WholeNumbers)
    assert int(numbers.whole.min()) == -128


def test_experts_are_stacked_by_their_numbers_and_not_by_their_names(tmp_path: Path, checkpoint_of):
    """ "10" stands before "2" in a file."""
    base = checkpoint_of(num_experts=12, layer_types=("full_attention",), seed=4)
    folder = shutil.copytree(base, tmp_path / "split", ignore=shutil.ignore_patterns("*.safetensors"))
    state = load_file(base / WEIGHTS)
    save_file(split_experts(state), folder / WEIGHTS, {"format": "pt"})
    with source.reading(source.stored_tensors(folder)) as read:
        for name in (f"{LAYER}.gate_up_proj", f"{LAYER}.down_proj"):
            assert torch.equal(read(name), state[name])
