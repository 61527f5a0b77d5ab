"""Quantised copies of tiny checkpoints, as they are published: experts one by one, other matrices in bfloat16.

compressed-tensors' numbers are its own: what it writes, and what it says that it wrote. Model Optimizer and MLX do not
run where the tests do; their layouts are written here, by other code than what reads them.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_EXPERTS = re.compile(r"(.*\.experts)\.(gate_up_proj|down_proj)")
# What published copies quantise of a DiffusionGemma; all else stays in sixteen bits.
ALL = r".*\.decoder\.layers\.\d+\.(self_attn|mlp|experts\.\d+)\..*_proj\.weight"
EXPERTS_AND_ATTENTION = r".*\.decoder\.layers\.\d+\.(self_attn|experts\.\d+)\..*_proj\.weight"
EXPERTS = r".*\.decoder\.layers\.\d+\.experts\.\d+\..*_proj\.weight"

Written = tuple[dict[str, Tensor], Tensor]
"""The parts of a matrix in files, by suffix, and what they stand for, float32."""
Writer = Callable[[Tensor], Written]


@dataclass(frozen=True)
class Copy:
    """A quantised copy, and a plain checkpoint of the numbers that it stands for."""

    folder: Path
    dense: Path
    """Fused, in float32, as ``transformers`` loads it."""
    quantised: tuple[str, ...]
    """The dense names of what is quantised, experts one by one."""


def split_experts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Store experts one by one, as ``nn.Linear`` would."""
    found = {}
    for name, tensor in state.items():
        fused = _EXPERTS.fullmatch(name)
        if fused is None:
            found[name] = tensor
            continue
        for number, one in enumerate(tensor):
            halves = dict(zip(("gate_proj", "up_proj"), one.chunk(2), strict=True))
            projections = halves if fused[2] == "gate_up_proj" else {"down_proj": one}
            found |= {f"{fused[1]}.{number}.{key}.weight": value.clone() for key, value in projections.items()}
    return found


def fuse_experts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``split_experts``."""
    found, layers = {}, set()
    for name, tensor in state.items():
        if own := re.fullmatch(r"(.*\.experts)\.\d+\.\w+_proj\.weight", name):
            layers.add(own[1])
        else:
            found[name] = tensor
    for layer in layers:
        count = len([name for name in state if name.startswith(f"{layer}.") and name.endswith("down_proj.weight")])
        each = [{key: state[f"{layer}.{n}.{key}_proj.weight"] for key in ("gate", "up", "down")} for n in range(count)]
        found[f"{layer}.gate_up_proj"] = torch.stack([torch.cat((one["gate"], one["up"])) for one in each])
        found[f"{layer}.down_proj"] = torch.stack([one["down"] for one in each])
    return found


def write_copy(
    source: Path,
    folder: Path,
    writer: Writer,
    quantization: Mapping[str, Any] | None,
    *,
    chosen: str = ALL,
    dtype: torch.dtype = torch.bfloat16,
    split: bool = True,
) -> Copy:
    """Quantise the matrices of ``source`` whose names match ``chosen``; others are stored in ``dtype``."""
    state = load_file(source / WEIGHTS)
    state = split_experts(state) if split else state
    parts, stands_for, quantised = {}, {}, []
    for name, tensor in state.items():
        stored = tensor.to(dtype)
        if re.fullmatch(chosen, name) is None:
            parts[name], stands_for[name] = stored, stored.float()
            continue
        own, stands_for[name] = writer(stored)
        quantised.append(name)
        parts |= {f"{name.removesuffix('.weight')}.{suffix}": part.contiguous() for suffix, part in own.items()}
    _write(source, folder, parts, {} if quantization is None else {"quantization_config": dict(quantization)})
    dense = folder.with_name(f"{folder.name}-dense")
    _write(source, dense, fuse_experts(stands_for) if split else stands_for, {})
    return Copy(folder, dense, tuple(quantised))


def _write(source: Path, folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS, {"format": "pt"})
    change_config(folder, lambda known: known.update(config))


def change_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a folder's ``config.json``."""
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change a folder's only weight file."""
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS, {"format": "pt"})


def compressed_tensors(preset: str, **weights: Any) -> tuple[Writer, dict[str, Any]]:
    """Return what writes as compressed-tensors does by one of its presets, changed by ``weights``, and its
    ``quantization_config``, without what is ignored."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, preset_name_to_scheme

    named = preset_name_to_scheme(preset, ["Linear"]).model_dump()
    named["weights"] |= weights
    scheme = QuantizationScheme(**named)
    format = infer_module_format(torch.nn.Linear, scheme)
    compressor = BaseCompressor.get_value_from_registry(format.value)

    def write(weight: Tensor) -> Written:
        parts = compressor.compress({"weight": weight, **_ranges(weight, scheme.weights)}, scheme)
        parts = {suffix: part for suffix, part in parts.items() if part is not None}
        return parts, _decompressed(parts, scheme, compressor)

    config = QuantizationConfig(config_groups={"group_0": scheme}, format=format, quantization_status="compressed")
    return write, config.model_dump(mode="json")


def _ranges(weight: Tensor, args: Any) -> dict[str, Tensor]:
    """Return the scales, and whatever else belongs to them, that the library computes of the smallest and the largest
    weight of each group."""
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    shaped, dims = weight, [-1]
    if args.strategy == "tensor":
        shaped = weight.reshape(1, -1)
    elif args.group_size:
        shaped = weight.unflatten(-1, (-1, args.group_size))
    elif args.strategy == "block":
        rows, columns = args.block_structure
        padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % columns, 0, -weight.shape[0] % rows))
        shaped, dims = padded.unflatten(0, (-1, rows)).unflatten(2, (-1, columns)), [1, 3]
    keep = args.strategy in ("channel",)
    lowest, highest = (each(dim=dims, keepdim=keep) for each in (shaped.amin, shaped.amax))
    found = {}
    if args.strategy == "tensor_group":
        found["weight_global_scale"] = generate_gparam(weight.amin().float(), weight.amax().float())
        lowest, highest = lowest.float(), highest.float()
    scale, zero = calculate_qparams(lowest, highest, args, found.get("weight_global_scale"))
    return {"weight_scale": scale, "weight_zero_point": zero, **found}


def _decompressed(parts: dict[str, Tensor], scheme: Any, compressor: Any) -> Tensor:
    """Return what the library says that it wrote, in float32 where it would compute in fewer bits."""
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    if scheme.weights.num_bits == 4 and scheme.weights.type == "float":
        packed, scale = parts["weight_packed"], parts["weight_scale"]
        values = unpack_fp4_from_uint8(packed, packed.shape[0], packed.shape[1] * 2).float()
        scale = scale.float() if scheme.weights.scale_dtype != torch.uint8 else torch.exp2(scale.float() - 127)
        whole = parts.get("weight_global_scale")
        return dequantize(values, scale, args=scheme.weights, global_scale=whole, dtype=torch.float32)
    scale = parts["weight_scale"]
    exact = scale if scale.dtype == torch.uint8 else scale.float()
    return compressor.decompress({**parts, "weight_scale": exact}, scheme)["weight"].float()


@torch.no_grad()
def compressed_by_library(source: Path, folder: Path, preset: str, ignore: Sequence[str], **weights: Any) -> Any:
    """Let compressed-tensors quantise and write a whole model of ``transformers``, as llm-compressor does: its names,
    its configuration, nothing of them written here. Returns the model as the library decompresses it."""
    import transformers
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
        preset_name_to_scheme,
    )

    named = preset_name_to_scheme(preset, ["Linear"]).model_dump()
    named["weights"] |= weights
    scheme = QuantizationScheme(**named)
    known = json.loads((source / CONFIG).read_text())["architectures"][0]
    model = getattr(transformers, known).from_pretrained(source)
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=list(ignore)))
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            for name, value in _ranges(module.weight, scheme.weights).items():
                getattr(module, name).copy_(value.view(getattr(module, name).shape))
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    compressor.decompress_model(model)
    for module in model.modules():
        # It would round activations too, where a scheme says so; what is compared are the weights.
        if (own := getattr(module, "quantization_scheme", None)) is not None:
            own.input_activations = None
    return model.eval()


_MAGNITUDES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def modelopt_nvfp4(weight: Tensor) -> Written:
    """NVFP4 as Model Optimizer lays it: two codes a byte, the even one below; values are multiplied by both scales."""
    groups = weight.float().unflatten(-1, (-1, 16))
    overall = groups.abs().max() / (6 * 448)
    scale = (groups.abs().amax(-1) / 6 / overall).to(torch.float8_e4m3fn)
    step = (scale.float() * overall)[..., None]
    distance = (groups.abs() / step.clamp(min=1e-30) - _MAGNITUDES[:, None, None, None]).abs()
    codes = distance.argmin(0)
    values = (_MAGNITUDES[codes] * groups.sign() * step).flatten(-2)
    nibbles = (codes + 8 * (groups < 0)).flatten(-2).to(torch.uint8)
    parts = {
        "weight": nibbles[:, 0::2] + 16 * nibbles[:, 1::2],
        "weight_scale": scale,
        "weight_scale_2": overall,
        "input_scale": torch.tensor(0.25),
    }
    return parts, values


MODELOPT_NVFP4: dict[str, Any] = {
    "quant_method": "modelopt",
    "quant_algo": "NVFP4",
    "config_groups": {
        "group_0": {
            "input_activations": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
            "weights": {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16},
            "targets": ["Linear"],
        }
    },
    "ignore": [
        *("lm_head", "*embed_vision*", "*mlp*", "*router*"),
        *("*self_attn*", "*self_conditioning*", "*vision_tower*"),
    ],
    "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
    "producer": {"name": "modelopt", "version": "0.45.0.dev127"},
}


def modelopt_fp8(weight: Tensor) -> Written:
    """FP8 as Model Optimizer lays it: one scale a matrix."""
    scale = weight.float().abs().max() / 448
    stored = (weight.float() / scale).to(torch.float8_e4m3fn)
    return {"weight": stored, "weight_scale": scale, "input_scale": torch.tensor(0.25)}, stored.float() * scale


def mlx_affine(bits: int, group: int) -> Writer:
    """MLX's words: q * scale + bias, the lowest bits first, spelled here as one whole number of Python a row."""

    def write(weight: Tensor) -> Written:
        groups = weight.float().unflatten(-1, (-1, group))
        lowest, highest = groups.aminmax(dim=-1)
        scale = ((highest - lowest) / ((1 << bits) - 1)).clamp(min=1e-7).to(weight.dtype)
        bias = lowest.to(weight.dtype)
        wide, low = scale.float()[..., None], bias.float()[..., None]
        whole = ((groups - low) / wide).round().clamp(0, (1 << bits) - 1)
        return {
            "weight": _words(whole.flatten(-2).long(), bits),
            "scales": scale,
            "biases": bias,
        }, (whole * wide + low).flatten(-2)

    return write


def _words(codes: Tensor, bits: int) -> Tensor:
    rows = codes.reshape(-1, codes.shape[-1])
    words = []
    for row in rows.tolist():
        number = sum(code << (bits * place) for place, code in enumerate(row))
        words.append([number >> (32 * word) & 0xFFFFFFFF for word in range(len(row) * bits // 32)])
    return torch.tensor(words, dtype=torch.int64).to(torch.uint32).view(*codes.shape[:-1], -1)


def mlx_microscaled(bits: int) -> Writer:
    """MLX's modes mxfp4 and mxfp8: groups of 32 with a power of two, codes four or eight to a word."""
    largest = 6.0 if bits == 4 else 448.0

    def write(weight: Tensor) -> Written:
        groups = weight.float().unflatten(-1, (-1, 32))
        power = (groups.abs().amax(-1).clamp(min=1e-30) / largest).log2().ceil()
        scaled = groups / torch.exp2(power)[..., None]
        if bits == 8:
            stored = scaled.to(torch.float8_e4m3fn)
            codes, values = stored.view(torch.uint8).long(), stored.float()
        else:
            nearest = (scaled.abs()[None] - _MAGNITUDES.view(-1, *(1,) * scaled.ndim)).abs().argmin(0)
            codes, values = nearest + 8 * (scaled < 0), _MAGNITUDES[nearest] * scaled.sign()
        parts = {"weight": _words(codes.flatten(-2), bits), "scales": (power + 127).to(torch.uint8)}
        return parts, (values * torch.exp2(power)[..., None]).flatten(-2)

    return write


SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "head_dim": 16,
    "global_head_dim": 32,
    "layer_types": ("sliding_attention", "full_attention"),
    "query_scale": 0.03,
}
"""Of the checkpoint that copies are made of: all groups divide its matrices."""
IGNORED = ["lm_head", "re:.*router.*", "re:.*self_conditioning.*", "re:.*vision.*"]


@dataclass(frozen=True)
class Kind:
    """A kind of copy, and what is said of it."""

    preset: str | None = None
    """A preset of compressed-tensors, changed by ``weights``; None for another writer."""
    weights: tuple[tuple[str, Any], ...] = ()
    writer: Writer | None = None
    quantization: tuple[tuple[str, Any], ...] | None = None
    chosen: str = ALL
    dtype: torch.dtype = torch.bfloat16
    split: bool = True
    label: str | None = None
    kept_as: Literal["int8", "int4"] | None = None
    exact: bool = False

    def write(self, source: Path, folder: Path) -> Copy:
        writer, quantization = self.writer, None if self.quantization is None else dict(self.quantization)
        if self.preset is not None:
            writer, quantization = compressed_tensors(self.preset, **dict(self.weights))
            quantization["ignore"] = IGNORED if self.chosen == ALL else [*IGNORED, "re:.*mlp.*"]
        assert writer is not None
        return write_copy(source, folder, writer, quantization, chosen=self.chosen, dtype=self.dtype, split=self.split)


def _mlx(bits: int, mode: str = "affine", **overrides: Any) -> tuple[tuple[str, Any], ...]:
    return (("group_size", 64 if mode == "affine" else 32), ("bits", bits), ("mode", mode), *overrides.items())


_FUSED = r".*\.decoder\..*(_proj|_proj\.weight|embed_tokens\.weight)"
_GROUPS = (("group_size", 32),)
KINDS = {
    "FP8": Kind("FP8_DYNAMIC", label="FP8"),
    "FP8 in blocks": Kind("FP8_BLOCK", label="FP8, blocks of 128 x 128"),
    "FP8 by tensor": Kind("FP8", label="FP8"),
    "INT8": Kind("W8A8", label="INT8", kept_as="int8", exact=True),
    "INT8 packed": Kind(
        "W8A16", (("strategy", "channel"), ("group_size", None)), label="INT8", kept_as="int8", exact=True
    ),
    "W4A16": Kind(
        "W4A16",
        _GROUPS,
        chosen=EXPERTS_AND_ATTENTION,
        dtype=torch.float16,
        label="INT4, groups of 32",
        kept_as="int4",
        exact=True,
    ),
    "W4A16 with zero points": Kind("W4A16_ASYM", _GROUPS, label="INT4, groups of 32, with zero points", kept_as="int4"),
    "W3A16": Kind("W4A16", (*_GROUPS, ("num_bits", 3)), label="INT3, groups of 32", kept_as="int4", exact=True),
    "NVFP4": Kind("NVFP4", label="NVFP4"),
    "MXFP4": Kind("MXFP4A16", label="MXFP4"),
    "MXFP8": Kind("MXFP8", label="MXFP8"),
    "modelopt NVFP4": Kind(
        writer=modelopt_nvfp4, quantization=tuple(MODELOPT_NVFP4.items()), chosen=EXPERTS, label="NVFP4"
    ),
    "modelopt FP8": Kind(
        writer=modelopt_fp8, quantization=(("quant_method", "modelopt"), ("quant_algo", "FP8")), label="FP8"
    ),
    "MLX 4-bit": Kind(
        writer=mlx_affine(4, 64),
        quantization=_mlx(4),
        chosen=_FUSED,
        split=False,
        label="MLX 4-bit, groups of 64",
        kept_as="int4",
        exact=True,
    ),
    "MLX 6-bit": Kind(
        writer=mlx_affine(6, 64), quantization=_mlx(6), chosen=_FUSED, split=False, label="MLX 6-bit, groups of 64"
    ),
    "MLX 8-bit": Kind(
        writer=mlx_affine(8, 64), quantization=_mlx(8), chosen=_FUSED, split=False, label="MLX 8-bit, groups of 64"
    ),
    "MLX mxfp4": Kind(
        writer=mlx_microscaled(4), quantization=_mlx(4, "mxfp4"), chosen=_FUSED, split=False, label="MLX MXFP4"
    ),
    "MLX mxfp8": Kind(
        writer=mlx_microscaled(8), quantization=_mlx(8, "mxfp8"), chosen=_FUSED, split=False, label="MLX MXFP8"
    ),
    "bfloat16, experts one by one": Kind(writer=lambda weight: ({}, weight), chosen=""),
}
"""All kinds of copies that are read, by name."""
