"""A copy that is damaged, mixed up or of another kind is refused by its headers, naming the tensor or the key."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats import source
from tests.quantised_copies import CONFIG, WEIGHTS, Copy, change_config, change_weights

CopyOf = Callable[[str], Copy]
State = dict[str, Tensor]
Q = "model.decoder.layers.0.self_attn.q_proj"
EXPERT = "model.decoder.layers.0.experts.1.up_proj"


def drop(name: str) -> Callable[[State], object]:
    return lambda state: state.pop(name)


def put(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[State], object]:
    return lambda state: state.update({name: change(state[name]).contiguous()})


def group(**weights: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["quantization_config"]["config_groups"]["group_0"]["weights"].update(weights)


def whole(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["quantization_config"].update(fields)


# Of which kind, what is changed of its weights, and what is said: the tensor, what was found, what was expected.
STORED: dict[str, tuple[str, Callable[[State], object], str]] = {
    "no scale": ("FP8", drop(f"{Q}.weight_scale"), f"module {Q} has weight and no weight_scale, which .* needs"),
    "no weight": ("W4A16", drop(f"{Q}.weight_packed"), f"module {Q} has .* and no weight_packed"),
    "no shape": ("W4A16", drop(f"{Q}.weight_shape"), f"module {Q} has .* and no weight_shape"),
    "no overall scale": ("NVFP4", drop(f"{EXPERT}.weight_global_scale"), f"module {EXPERT} .* no weight_global_scale"),
    "no overall scale, modelopt": ("modelopt NVFP4", drop(f"{EXPERT}.weight_scale_2"), "no weight_scale_2"),
    "no zero points": ("W4A16 with zero points", drop(f"{Q}.weight_zero_point"), "no weight_zero_point"),
    "no biases": ("MLX 4-bit", drop(f"{Q}.biases"), "no biases, which quantization.* needs"),
    "no scales, MLX": ("MLX 4-bit", drop(f"{Q}.scales"), "no scales, which quantization.* needs"),
    "an expert is missing": (
        "FP8",
        lambda state: [state.pop(f"{EXPERT}.{one}") for one in ("weight", "weight_scale")],
        f"tensor {EXPERT}.weight is missing, and experts go up to 3",
    ),
    "an expert of another shape": (
        "bfloat16, experts one by one",
        put(f"{EXPERT}.weight", lambda one: one[:8]),
        rf"tensor {EXPERT}.weight has shape \[8, 64\], and that of expert 0 has \[64, 64\]",
    ),
    "scales of another shape": (
        "FP8",
        put(f"{Q}.weight_scale", lambda one: one[:8]),
        rf"tensor {Q}.weight_scale has shape \[8, 1\], and by .* a matrix \[64, 64\] must have \[64, 1\]",
    ),
    "scales of other groups": (
        "NVFP4",
        put(f"{Q}.weight_scale", lambda one: one[:, :2]),
        rf"tensor {Q}.weight_scale has shape \[64, 2\], and by .* must have \[64, 4\]",
    ),
    "an overall scale of many": (
        "NVFP4",
        put(f"{Q}.weight_global_scale", lambda one: one.repeat(3)),
        rf"tensor {Q}.weight_global_scale has shape \[3\], and must be one number",
    ),
    "biases of another shape": ("MLX 4-bit", put(f"{Q}.biases", lambda one: one[:3]), r"biases has shape \[3, 1\]"),
    "a weight of another width": (
        "W4A16",
        put(f"{Q}.weight_packed", lambda one: one[:, :4]),
        rf"tensor {Q}.weight_packed has shape \[64, 4\], and rows of 64 values take 8",
    ),
    "another shape than is said": (
        "W4A16",
        put(f"{Q}.weight_shape", lambda one: one + 32),
        rf"tensor {Q}.weight_shape says \[96, 96\], and the tensors beside it are of a matrix \[64, 64\]",
    ),
    "another dtype of weights": (
        "FP8",
        put(f"{Q}.weight", lambda one: one.to(torch.int8)),
        f"tensor {Q}.weight is stored as I8, and by .* it must be F8_E4M3",
    ),
    "another dtype of scales": (
        "NVFP4",
        put(f"{Q}.weight_scale", lambda one: one.float()),
        f"tensor {Q}.weight_scale is stored as F32, and by .* it must be F8_E4M3",
    ),
    "weights that are not rounded beside scales": (
        "FP8",
        put(f"{Q}.weight", lambda one: one.to(torch.bfloat16)),
        f"tensor {Q}.weight is stored as BF16, and by .* it must be F8_E4M3",
    ),
    "a part that nothing is known of": (
        "W4A16",
        lambda state: state.update({f"{Q}.weight_g_idx": torch.zeros(64, dtype=torch.int32)}),
        f"tensor {Q}.weight_g_idx has no place in",
    ),
    "zero points of symmetric numbers": (
        "INT8",
        lambda state: state.update({f"{Q}.weight_zero_point": torch.zeros(64, 1, dtype=torch.int8)}),
        f"tensor {Q}.weight_zero_point has no place in .*int-quantized",
    ),
    "both weights": (
        "W4A16",
        lambda state: state.update({f"{Q}.weight": torch.zeros(64, 64)}),
        f"tensor {Q}.weight has no place in .*pack-quantized",
    ),
    "an overall scale of FP8": (
        "modelopt FP8",
        lambda state: state.update({f"{Q}.weight_scale_2": torch.tensor(2.0)}),
        f"tensor {Q}.weight_scale_2 has no place in quant_algo FP8",
    ),
    "a scale that inputs are multiplied by": (
        "modelopt NVFP4",
        lambda state: state.update({f"{EXPERT}.pre_quant_scale": torch.ones(64)}),
        f"tensor {EXPERT}.pre_quant_scale has no place in quant_algo NVFP4",
    ),
    "biases where a mode has none": (
        "MLX mxfp4",
        lambda state: state.update({f"{Q}.biases": torch.zeros(64, 2)}),
        f"tensor {Q}.biases has no place in",
    ),
    "a dtype of nothing": (
        "FP8",
        lambda state: state.update({"model.decoder.layers.0.layer_scalar": torch.ones(1, dtype=torch.int32)}),
        "layer_scalar is stored as I32, and that is no part that compressed-tensors writes; supported are F32",
    ),
}
SAID: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "unknown format": (
        "FP8",
        lambda config: [
            whole(format="marlin-24")(config),
            config["quantization_config"]["config_groups"]["group_0"].pop("format"),
        ],
        "quantization_config.format = 'marlin-24' is not read; read are pack-quantized, .*Take a copy in one of those",
    ),
    "unknown format of a group": (
        "FP8",
        lambda config: config["quantization_config"]["config_groups"]["group_0"].update(format="mxfp6-pack-quantized"),
        "config_groups.group_0.format = 'mxfp6-pack-quantized' is not read",
    ),
    "unknown algorithm": (
        "modelopt NVFP4",
        whole(quant_algo="W4A8_AWQ"),
        "quant_algo = 'W4A8_AWQ' is not read; read are NVFP4, FP8",
    ),
    "unknown mode": ("MLX 4-bit", whole(mode="nvfp4"), "quantization.mode = 'nvfp4' is not read; read are affine"),
    "bits that a mode has not": ("MLX 4-bit", whole(bits=7), "quantization has 7 bits in groups of 64, which affine"),
    "bits that a format has not": ("FP8", group(num_bits=4), "'float' of 4 bits is none of what float-quantized has"),
    "a group that does not divide": (
        "W4A16",
        group(group_size=48),
        r"has shape \[\d+, \d+\], and rows of 96 values take 12",
    ),
    "a group that does not divide a row": (
        "INT8",
        group(strategy="group", group_size=48),
        "weight_scale: 64 inputs are no whole groups of 48, which is the size in",
    ),
    "a group size of nothing": (
        "W4A16",
        group(group_size=0),
        "weights.group_size = 0 must be a whole number, 1 or more",
    ),
    "groups that NVFP4 has not": ("NVFP4", group(group_size=32), "nvfp4-pack-quantized has groups of 16, not"),
    "an unknown strategy": (
        "INT8",
        group(strategy="token"),
        "strategy = 'token' is not read; read are tensor, channel",
    ),
    "an order of activations": (
        "W4A16",
        group(actorder="group"),
        "weights.actorder = 'group' is not read; take a copy without it",
    ),
    "ignored, and stored quantised": (
        "FP8",
        whole(ignore=["re:.*q_proj"]),
        f"module {Q} is stored quantised .* and quantization_config.ignore of config.json has 're:.\\*q_proj'",
    ),
    "ignored, and stored quantised, modelopt": ("modelopt NVFP4", whole(ignore=["*experts*"]), r"has '\*experts\*'"),
    "named, and stored as it is": (
        "bfloat16, experts one by one",
        lambda config: config.update(
            quantization_config={
                "quant_method": "compressed-tensors",
                "format": "float-quantized",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}, "targets": [Q]}},
            }
        ),
        f"tensor {Q}.weight is stored as BF16 without scales, and .* names it as quantised",
    ),
    "an override, and stored as it is": (
        "MLX 4-bit",
        whole(**{"model.decoder.layers.0.router.proj": {"bits": 4, "group_size": 64}}),
        "module model.decoder.layers.0.router.proj is stored without scales, and config.json has",
    ),
    "left out, and stored quantised": (
        "MLX 4-bit",
        whole(**{Q: False}),
        f"module {Q} is stored with scales, and config.json has quantization.{Q} = false",
    ),
    "nothing that targets it": (
        "FP8",
        lambda config: config["quantization_config"]["config_groups"]["group_0"].update(targets=["model.other"]),
        "is stored quantised, and no target of quantization_config.config_groups is its name",
    ),
    "no groups": ("FP8", whole(config_groups={}), "quantization_config has no 'config_groups'"),
    "rotations": (
        "W4A16",
        whole(transform_config={"config_groups": {"u": {}}}),
        "transform_config asks for rotations .* which is not read; take a copy without them",
    ),
    "sparsity": ("W4A16", whole(sparsity_config={"format": "sparse-24-bitmask"}), "sparsity_config asks for format"),
    "no regular expression": ("FP8", whole(ignore=["re:(("]), "'re:\\(\\(' is no regular expression"),
}
# What cannot be seen without reading numbers is found where they are decoded, before anything is computed of them.
NUMBERS: dict[str, tuple[str, Callable[[State], object], str]] = {
    "a scale that is no number": (
        "FP8",
        put(f"{Q}.weight_scale", lambda one: one.index_fill(0, torch.tensor([5]), torch.nan)),
        f"tensor {Q}.weight_scale has scales that are no finite numbers",
    ),
    "a scale in e4m3 that is no number": (
        "NVFP4",
        put(f"{Q}.weight_scale", lambda one: torch.full_like(one.float(), torch.nan).to(one.dtype)),
        f"tensor {Q}.weight_scale has scales that are no finite numbers",
    ),
    "a power that is no number": (
        "MXFP4",
        put(f"{Q}.weight_scale", lambda one: torch.full_like(one, 255)),
        f"tensor {Q}.weight_scale has scales that are no finite numbers",
    ),
    "an overall scale of zero": (
        "NVFP4",
        put(f"{Q}.weight_global_scale", torch.zeros_like),
        f"tensor {Q}.weight_global_scale is 0.0, and must be a finite number above 0",
    ),
    "biases that are no numbers": (
        "MLX 4-bit",
        put(f"{Q}.biases", lambda one: torch.full_like(one, torch.inf)),
        f"tensor {Q}.biases has numbers that are not finite",
    ),
}


@pytest.fixture
def copied(copy_of: CopyOf, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(copy_of(name).folder, tmp_path / "copy"))


@pytest.mark.parametrize("fault", STORED)
def test_parts_that_do_not_belong_together_are_told_from_headers(fault: str, copied: Callable[[str], Path]):
    kind, change, message = STORED[fault]
    folder = copied(kind)
    change_weights(folder, change)
    with pytest.raises(CheckpointError, match=message) as raised:
        source.stored_tensors(folder)
    assert str(folder) in str(raised.value), "the message does not say where"


@pytest.mark.parametrize("fault", SAID)
def test_a_configuration_that_is_not_read_or_contradicts_is_told_by_its_key(fault: str, copied: Callable[[str], Path]):
    kind, change, message = SAID[fault]
    folder = copied(kind)
    change_config(folder, change)
    with pytest.raises(CheckpointError, match=message):
        source.stored_tensors(folder)


@pytest.mark.parametrize("fault", NUMBERS)
def test_numbers_that_cannot_be_are_told_when_they_are_decoded(fault: str, copied: Callable[[str], Path]):
    kind, change, message = NUMBERS[fault]
    folder = copied(kind)
    change_weights(folder, change)
    stored = source.stored_tensors(folder)
    with source.reading(stored) as read:
        with pytest.raises(CheckpointError, match=message):
            read(f"{Q}.weight")
        with pytest.raises(CheckpointError, match=message):
            read.rows(f"{Q}.weight", 0, slice(4, 6))


def test_a_shape_of_zeros_is_told_when_its_matrix_is_decoded(copied: Callable[[str], Path]):
    """Where only the headers of a file were fetched all numbers are zeros, so that a header alone cannot tell."""
    folder = copied("W4A16")
    change_weights(folder, put(f"{Q}.weight_shape", torch.zeros_like))
    with source.reading(source.stored_tensors(folder)) as read, pytest.raises(CheckpointError, match=r"says \[0, 0\]"):
        read(f"{Q}.weight")


def test_a_file_that_is_cut_short_is_told_before_anything_is_read(copied: Callable[[str], Path]):
    folder = copied("NVFP4")
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))} is damaged or cut short"):
        source.stored_tensors(folder)


def test_another_method_is_refused_by_name_with_those_that_are_read(copied: Callable[[str], Path]):
    from redraft.models import checkpoint

    folder = copied("FP8")
    change_config(folder, whole(quant_method="gptq"))
    with pytest.raises(CheckpointError, match=r"quantised by 'gptq' .* read are compressed-tensors, modelopt, mlx"):
        checkpoint.read(folder)
    assert json.loads((folder / CONFIG).read_text())["quantization_config"]["quant_method"] == "gptq"
