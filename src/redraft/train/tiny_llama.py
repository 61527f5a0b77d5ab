"""Writes a tiny Llama with random weights, spelling byte by byte: a base to try ``redraft adapt`` and ``train`` with.

python -m redraft.train.tiny_llama FOLDER
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from redraft.files import write_text
from redraft.formats.json_objects import write_object

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 258,
}
MARKS = ["<|begin|>", "<|turn|>", "<|end|>"]
TEMPLATE = """\
{%- for message in messages %}<|turn|>{{ message.role }}
{{ message.content }}<|end|>{% endfor %}<|turn|>assistant
"""


def tensors() -> dict[str, torch.Tensor]:
    """Random weights by the names that Llama's files have."""
    torch.manual_seed(0)
    hidden, inner = 64, 128
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden // 2, hidden),
        "self_attn.v_proj": (hidden // 2, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    found = {"model.embed_tokens.weight": torch.randn(259, hidden) * 0.3, "model.norm.weight": torch.ones(hidden)}
    for layer in range(2):
        for name, (rows, columns) in shapes.items():
            found[f"model.layers.{layer}.{name}.weight"] = torch.randn(rows, columns) * columns**-0.5
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"model.layers.{layer}.{name}.weight"] = torch.ones(hidden)
    return found


def tokenizer() -> Tokenizer:
    """A token for each byte, and one for each mark."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    found = Tokenizer(models.BPE({sign: number for number, sign in enumerate(alphabet)}, []))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    return found


def write(folder: Path) -> None:
    """Write the checkpoint's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(), folder / "model.safetensors", {"format": "pt"})
    tokenizer().save(str(folder / "tokenizer.json"))
    write_object(folder / "config.json", CONFIG)
    write_object(folder / "tokenizer_config.json", {"bos_token": MARKS[0], "eos_token": MARKS[2]})
    write_text(folder / "chat_template.jinja", TEMPLATE)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m redraft.train.tiny_llama FOLDER")
    write(Path(sys.argv[1]))
