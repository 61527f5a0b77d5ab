"""What is written as compressed-tensors is read by its own library and by ``transformers``, and comes back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats.safetensors import WEIGHTS_FILE
from redraft.kernels.int4 import GROUP, round_symmetric
from redraft.kernels.packed import Format
from redraft.models import checkpoint
from redraft.models.quantize import quantize
from tests.conftest import WriteCheckpoint
from tests.kernels.quantised import random
from tests.quantised_copies import SHAPE

FORMATS: tuple[Format, ...] = ("int4", "int8")


@pytest.fixture(scope="module")
def copies(checkpoint_of: WriteCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[Format, Path]:
    """A DiffusionGemma, quantised both ways."""
    found, made = checkpoint.read(checkpoint_of(**SHAPE)), dict[Format, Path]()
    for format in FORMATS:
        made[format] = tmp_path_factory.mktemp("compressed") / format
        quantize(found, made[format], format, file_format="compressed-tensors")
    return made


@pytest.mark.parametrize("format", FORMATS)
def test_names_dtypes_and_shapes_are_the_published_ones(copies: dict[Format, Path], format: Format):
    tensors = load_file(copies[format] / WEIGHTS_FILE)
    expert = "model.decoder.layers.1.experts.3.up_proj"
    scale = tensors[f"{expert}.weight_scale"]
    if format == "int4":
        outputs, inputs = tensors[f"{expert}.weight_shape"].tolist()
        packed = tensors[f"{expert}.weight_packed"]
        assert (packed.dtype, tuple(packed.shape)) == (torch.int32, (outputs, inputs // 8))
        assert tuple(scale.shape) == (outputs, inputs // GROUP)
        # What costs little at eight bits has them.
        query = tensors["model.decoder.layers.1.self_attn.q_proj.weight_packed"]
        told = tensors["model.decoder.layers.1.self_attn.q_proj.weight_shape"]
        assert tuple(query.shape) == (int(told[0]), int(told[1]) // 4)
    else:
        weight = tensors[f"{expert}.weight"]
        assert weight.dtype == torch.int8
        assert tuple(scale.shape) == (len(weight), 1)
    assert scale.dtype == torch.bfloat16
    layers = {name for name in tensors if name.startswith("model.decoder.layers.") and name.endswith("proj.weight")}
    assert {name.split(".", 4)[4] for name in layers if tensors[name].dtype == torch.bfloat16} == {"router.proj.weight"}
    assert tensors["model.decoder.self_conditioning.up_proj.weight"].dtype == torch.bfloat16
    assert any(".vision_tower." in name for name in tensors), "others have a use for it"


@pytest.mark.parametrize("format", FORMATS)
def test_it_comes_back_as_the_library_decompresses_it(copies: dict[Format, Path], format: Format):
    """Every quantised module by ``compressed_tensors`` itself, from what ``config.json`` says of it."""
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    tensors = load_file(copies[format] / WEIGHTS_FILE)
    mine = checkpoint.read(copies[format])
    state = mine.load("float32").state_dict()
    by_stored = {mine.family.stored_name(name): value for name, value in state.items()}
    seen = 0
    for name in [name for name in tensors if name.endswith(".weight_scale")]:
        module = name.removesuffix(".weight_scale")
        if f"{module}.weight_packed" in tensors:
            bits = 4 if tensors[name].shape[1] > 1 else 8
            shape = torch.Size(tensors[f"{module}.weight_shape"].tolist())
            whole = unpack_from_int32(tensors[f"{module}.weight_packed"], bits, shape)
        else:
            whole = tensors[f"{module}.weight"]
        scales = tensors[name].float()
        values = whole.float() * scales.repeat_interleave(whole.shape[1] // scales.shape[1], dim=1)
        assert torch.equal(_of(by_stored, module, values), values), module
        seen += 1
    assert seen > 30


def _of(by_stored: dict[str, Tensor], module: str, values: Tensor) -> Tensor:
    """The same rows in our model, where experts are fused."""
    if ".experts." not in module:
        return by_stored[f"{module}.weight"]
    prefix, number, part = module.rsplit(".", 2)
    if part == "down_proj":
        return by_stored[f"{prefix}.down_proj"][int(number)]
    half = by_stored[f"{prefix}.gate_up_proj"][int(number)].chunk(2)
    return half[0] if part == "gate_proj" else half[1]


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@torch.inference_mode()
def test_transformers_loads_a_gemma_and_computes_the_same(tmp_path: Path, format: Format):
    """Without a tensor that is missing or of no use to it. In int8 it rounds activations, too."""
    from transformers import AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

    shape: dict[str, Any] = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "sliding_window": 16}
    torch.manual_seed(0)
    Gemma3ForCausalLM(Gemma3TextConfig(**shape, **heads)).save_pretrained(tmp_path / "original")
    quantize(checkpoint.read(tmp_path / "original"), tmp_path / "copy", format, file_format="compressed-tensors")
    theirs, faults = AutoModelForCausalLM.from_pretrained(
        tmp_path / "copy", dtype=torch.float32, output_loading_info=True
    )
    assert not any(faults[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "original", dtype=torch.float32)
    copy = checkpoint.read(tmp_path / "copy")
    own = {copy.family.stored_name(name): value for name, value in copy.load("float32").state_dict().items()}
    reference.load_state_dict(own, strict=False)
    tokens = torch.arange(5, 45)[None]
    expected, found = reference(tokens).logits, theirs(tokens).logits
    error = (found - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < (1e-4 if format == "int4" else 0.03)


def test_a_group_that_does_not_divide_is_named(checkpoint_of: WriteCheckpoint, tmp_path: Path):
    found = checkpoint.read(checkpoint_of(**{**SHAPE, "moe_intermediate_size": 40}))
    with pytest.raises(
        CheckpointError, match=r"experts\.0\.down_proj has 40 inputs, and groups of 32 do not divide them"
    ):
        quantize(found, tmp_path / "copy", "int4", file_format="compressed-tensors")
    assert not (tmp_path / "copy").exists()


def test_symmetric_groups_that_were_rounded_before_keep_their_values():
    groups = random(64, 128).unflatten(1, (-1, GROUP))
    scale = (groups.abs().amax(-1, keepdim=True) / 7.5).bfloat16().float()
    weight = ((groups / scale).round().clamp(-8, 7) * scale).flatten(1)
    whole, scales = round_symmetric(weight, None, torch.bfloat16)
    assert [int(end) for end in whole.aminmax()] == [-8, 7]
    assert torch.equal(whole * scales.float().repeat_interleave(GROUP, 1), weight)


def test_symmetric_groups_are_no_worse_than_by_their_largest_weight():
    weight = random(64, 256)
    whole, scales = round_symmetric(weight, None, torch.float32)
    groups = weight.unflatten(1, (-1, GROUP))
    step = groups.abs().amax(-1, keepdim=True) / 7
    plain = ((groups / step).round().clamp(-8, 7) * step).flatten(1)
    error, theirs = ((one - weight).square().sum() for one in (whole * scales.repeat_interleave(GROUP, 1), plain))
    assert error < 0.95 * theirs


def test_the_configuration_says_what_is_not_quantised(copies: dict[Format, Path]):
    config = json.loads((copies["int4"] / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["format"]) == ("compressed-tensors", "pack-quantized")
    assert config["config_groups"]["group_0"]["weights"]["group_size"] == GROUP
    assert config["config_groups"]["group_1"]["weights"]["num_bits"] == 8
    assert "model.decoder.layers.0.router.proj" in config["ignore"]
    assert "model.decoder.self_conditioning.up_proj" in config["ignore"]
