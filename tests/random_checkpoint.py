"""Tiny DiffusionGemma checkpoints with random weights, written by ``transformers`` itself, for tests to load."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import Unigram, WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from tests.written_again import written_again

if TYPE_CHECKING:
    from transformers import DiffusionGemmaForBlockDiffusion

Dialect = Literal["per_layer_config", "global_head_dim"]

# Ids and texts of the markers; every other id i is the word "w<i>", except for the roles.
MARKERS = {0: "<pad>", 1: "<eos>", 2: "<bos>", 4: "<|turn>", 5: "<turn|>", 13: "<boi>", 14: "<eoi>", 15: "<image>"}
ROLES = {6: "user", 7: "model", 8: "system"}
END_TOKEN_IDS = (1, 5)
IMAGE_TOKEN_IDS = {"boi_token_id": 13, "eoi_token_id": 14, "image_token_id": 15}
CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
    {%- if message.role not in ("system", "user", "model") %}
        {{- raise_exception("unknown role " + message.role) }}
    {%- endif %}
<|turn>{{ message.role }}
{{ message.content }}<turn|>
{% endfor %}
{%- if add_generation_prompt %}
<|turn>model
{% endif %}
"""


@written_again
def random_checkpoint(
    folder: Path,
    *,
    vocab_size: int = 64,
    hidden_size: int = 32,
    intermediate_size: int = 48,
    layer_types: Sequence[str] = ("sliding_attention", "sliding_attention", "full_attention"),
    sliding_window: int = 8,
    num_attention_heads: int = 4,
    num_key_value_heads: int = 2,
    head_dim: int = 8,
    num_global_key_value_heads: int = 1,
    global_head_dim: int = 16,
    num_experts: int = 4,
    top_k: int = 2,
    moe_intermediate_size: int = 16,
    canvas_length: int = 8,
    context_length: int = 512,
    dialect: Dialect = "per_layer_config",
    generation: Mapping[str, Any] | None = None,
    shard_bytes: int | None = None,
    dtype: torch.dtype = torch.float32,
    query_scale: float = 0.1,
    seed: int = 0,
    letters: bool = False,
) -> Path:
    """Write a checkpoint with tokenizer and chat template into ``folder`` and return it.

    dialect: how config.json tells what full layers differ in; "per_layer_config" is what ``transformers`` saves.
    generation: fields of generation_config.json in place of what ``transformers`` saves. shard_bytes: at most so many
    bytes a weight file (a tensor is never split). query_scale: size of the query norms; with plain ones attention is
    so sharp that rounding alone changes what is attended to. letters: tokens that spell any text, from single bytes to
    whole words, in the place of words; there are LETTERS_SIZE of them at least. The weights depend on ``seed`` and the
    shape alone.
    """
    # Here, since it takes seconds, and most tests have need of one checkpoint or of none.
    from transformers import (
        DiffusionGemmaConfig,
        DiffusionGemmaForBlockDiffusion,
        DiffusionGemmaTextConfig,
        Gemma4VisionConfig,
    )

    text = DiffusionGemmaTextConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=len(layer_types),
        layer_types=list(layer_types),
        sliding_window=sliding_window,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=head_dim,
        num_global_key_value_heads=num_global_key_value_heads,
        global_head_dim=global_head_dim,
        num_experts=num_experts,
        top_k_experts=top_k,
        moe_intermediate_size=moe_intermediate_size,
        max_position_embeddings=context_length,
        eos_token_id=list(END_TOKEN_IDS),
    )
    vision = Gemma4VisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=16,
        position_embedding_size=16,
    )
    config = DiffusionGemmaConfig(
        text_config=text, vision_config=vision, canvas_length=canvas_length, **IMAGE_TOKEN_IDS
    )
    with torch.random.fork_rng(devices=[]):
        model = DiffusionGemmaForBlockDiffusion(config)
    _randomize(model, seed, query_scale)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_bytes or "5GB")
    if dialect == "global_head_dim":
        _use_global_head_dim(folder / "config.json", global_head_dim, num_global_key_value_heads)
    if generation is not None:
        path = folder / "generation_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **generation}))
    if letters:
        write_letters_tokenizer(folder, vocab_size)
    else:
        write_tokenizer(folder, vocab_size)
    return folder


def reference_model(folder: Path, dtype: torch.dtype = torch.float32) -> "DiffusionGemmaForBlockDiffusion":
    """The oracle: the checkpoint as ``transformers`` loads it, with its plain attention and plain loop over experts.

    Its grouped expert matmul strays further from float64 than the differences that parity tests allow.
    """
    from transformers import DiffusionGemmaForBlockDiffusion

    model = DiffusionGemmaForBlockDiffusion.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    model.set_experts_implementation("eager")
    return model


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A tokenizer of whole words: "w20" is token 20. It has no token for anything else."""
    words = {i: f"w{i}" for i in range(vocab_size)} | ROLES | MARKERS
    tokenizer = Tokenizer(WordLevel({word: i for i, word in words.items()}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in MARKERS.values()])
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


# Some pieces of what the tests write: JSON, digits, words.
PIECES = [
    "true",
    "false",
    "null",
    "name",
    "value",
    "yes",
    "no",
    '":',
    '","',
    '{"',
    '"}',
    "10",
    "20",
    "2026",
    "th",
    "he",
]
PIECES += [
    "the",
    " the",
    " a",
    "an",
    "and",
    "er",
    "in",
    "on",
    " is",
    "ing",
    "  ",
    "\n\n",
    "é",
    "ü",
    "日",
    "\\u",
    "\\n",
    "[]",
    # Without it a space would be spelled by the bytes of the mark that stands for it, and come back as the mark.
    " ",
]
THOUGHT = ("<|channel>", "<channel|>")
TOOLS = ("<|tool_call>", "<tool_call|>", '<|"|>', "<|tool_response>")
THOUGHT_IDS = (16 + 256 + len(PIECES), 16 + 256 + len(PIECES) + 1)
LETTERS_SIZE = 16 + 256 + len(PIECES) + len(THOUGHT) + len(TOOLS)
# What Gemma's own template says of tools and thinking, in short.
LETTERS_TEMPLATE = """\
{{ bos_token }}
{%- if tools or enable_thinking %}
<|turn>system
{% if enable_thinking %}think{% endif %}
{% for tool in tools or [] %}declaration:{{ tool.function.name }}{{ tool.function.parameters | tojson }}{% endfor %}
<turn|>
{% endif %}
{%- for message in messages %}
    {%- set role = "model" if message.role == "assistant" else message.role %}
    {%- if role not in ("system", "user", "model", "tool") %}
        {{- raise_exception("unknown role " + message.role) }}
    {%- endif %}
<|turn>{{ role }}
{% for call in message.tool_calls or [] -%}
<|tool_call>call:{{ call.function.name }}{{ call.function.arguments | tojson }}<tool_call|>
{%- endfor %}
{{ message.content }}<turn|>
{% endfor %}
{%- if add_generation_prompt %}
<|turn>model
{% endif %}
"""


def write_letters_tokenizer(folder: Path, vocab_size: int) -> None:
    """A tokenizer with byte fallback like Gemma's: special tokens, 256 bytes, pieces, and above them unused ids."""
    texts = {i: f"<unused{i}>" for i in range(vocab_size)} | MARKERS
    texts |= {16 + value: f"<0x{value:02X}>" for value in range(256)}
    texts |= dict(enumerate((piece.replace(" ", "\u2581") for piece in PIECES), 16 + 256))
    texts |= dict(enumerate((*THOUGHT, *TOOLS), 16 + 256 + len(PIECES)))
    ids = {text: i for i, text in texts.items()}
    tokenizer = Tokenizer(Unigram([(texts[i], -1.0) for i in range(vocab_size)], unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = [*MARKERS.values(), *THOUGHT, *TOOLS, *(text for text in ids if text.startswith("<unused"))]
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(LETTERS_TEMPLATE)


@torch.no_grad()
def _randomize(model: "DiffusionGemmaForBlockDiffusion", seed: int, query_scale: float) -> None:
    """Random values for every tensor, also for those that start as ones, so that none can stand for another."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        weight.normal_(generator=generator)
        if weight.ndim == 1:
            weight.mul_(0.2).add_(1.0)
        elif "embed_tokens" in name:
            weight.mul_(0.4)
        else:
            weight.mul_(weight.shape[-1] ** -0.5)
        if name.endswith("q_norm.weight"):
            weight.mul_(query_scale)
    for name, buffer in model.named_buffers():
        if name.endswith("layer_scalar"):
            buffer.uniform_(0.6, 1.2, generator=generator)


def _use_global_head_dim(path: Path, global_head_dim: int, num_global_key_value_heads: int) -> None:
    config = json.loads(path.read_text())
    text = config["text_config"]
    del text["per_layer_config"]
    text["global_head_dim"] = global_head_dim
    text["num_global_key_value_heads"] = num_global_key_value_heads
    text["attention_k_eq_v"] = True
    path.write_text(json.dumps(config, indent=2))
