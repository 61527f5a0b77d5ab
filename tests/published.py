"""What ``transformers`` makes of two real GGUF files, written down: it takes many seconds to read either.

``python -m tests.published`` reads them, computes in float32 and writes it down anew.
"""

import json
import re
import tempfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tests.gguf_files import gemma3_path, gemma3_tokenizer, smollm2_path, without_tokenizer

FILE = Path(__file__).with_name("published.json")
Model = Literal["smollm2", "gemma3"]
SAMPLE = 24
SMOLLM2_MASK = 16
"""A token of SmolLM2 that stands for nothing, and whose row is another one in what is made of it."""
# Prose, code, a table, and characters of all kinds; texts that do not change.
SMOLLM2_TEXTS = (
    (Path(__file__).parents[1] / "LICENSE").read_text(),
    "class A:\n    def f(self, x: int = 3) -> list[str]:\n\t\treturn [str(x) for _ in range(10**6)]  # 0x1F\n\n\n",
    "| model | tokens/s | size |\n|---|--:|--:|\n| `int8` | 1,234.5 | 26 GB |\n| `int4`|  99 | 13.2 GB |\n",
    "Hello  world! It's 2024: ünïcödé, 日本語, עברית, 🧩👩‍🚀, naïve.\n\n\tdef f(x):\n    return x ** 2\r\n",
    "   leading, trailing   \n\n\n \t \n",
    "3.14159 and 10,000,000; ١٢٣ and ½²",
    "<|im_start|>user\nhi<|im_end|>\n<start_of_turn>user\nhi<end_of_turn>\n<unused7><repo_name>",
    "don't WE'LL you're I'd",
    "",
)
# Characters that stand for numbers, whatever the script; \d would leave out the fractions.
_DIGIT = re.compile("([" + "".join(chr(c) for c in range(0x20000) if unicodedata.category(chr(c))[0] == "N") + "])")
GEMMA3_TEXT = "It was a dark and stormy night, and the rain fell in torrents. " * 40
GEMMA3_ROWS = 8
GEMMA3_PROMPTS = ("The capital of France is", "One, two, three, four, five, six,")
GEMMA3_COUNT = 12


def smollm2_tokens() -> Tensor:
    """Two texts [2, T] of any tokens but the mask."""
    tokens = torch.randint(0, 49_152, (2, 30), generator=torch.Generator().manual_seed(0))
    return torch.where(tokens == SMOLLM2_MASK, 3, tokens)


def measures(logits: Tensor, left_out: int | None = None) -> dict[str, Tensor]:
    """What tells logits [..., V] from others: the largest, the logarithm of the sum that the softmax divides by, and
    some of all. left_out: a token that does not count."""
    counted = logits if left_out is None else logits[..., torch.arange(logits.shape[-1]) != left_out]
    size = counted.shape[-1]
    return {
        "largest": counted.amax(-1),
        "log of the sum": counted.logsumexp(-1),
        "some": counted[..., torch.arange(7, size, size // SAMPLE)],
    }


def published(model: Model) -> dict[str, Any]:
    """What was written down of a model."""
    return dict(json.loads(FILE.read_text())[model])


def assert_published(found: Mapping[str, Tensor], model: Model) -> None:
    """Compare ``measures``."""
    written = published(model)
    for name, values in found.items():
        expected = torch.tensor(written[name]).view_as(values)
        torch.testing.assert_close(values, expected, atol=1e-4, rtol=0, msg=f"{model}: {name}")


@torch.inference_mode()
def _smollm2(folder: Path) -> dict[str, Any]:
    model = _model(smollm2_path(), folder, 49_152)
    return {**_listed(measures(model(smollm2_tokens()).logits, SMOLLM2_MASK)), "tokens": _smollm2_tokens()}


def _smollm2_tokens() -> list[list[int]]:
    """The converter does not know that SmolLM parts digits from all else; so each digit is asked for alone."""
    from transformers import AutoTokenizer

    path = smollm2_path()
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return [
        [t for part in _DIGIT.split(text) for t in theirs.encode(part, add_special_tokens=False)]
        for text in SMOLLM2_TEXTS
    ]


@torch.inference_mode()
def _gemma3(folder: Path) -> dict[str, Any]:
    model = _model(gemma3_path(folder), folder, 262_144)
    text = torch.tensor([gemma3_tokenizer().encode(GEMMA3_TEXT).ids])
    found = _listed(measures(model(input_ids=text, logits_to_keep=GEMMA3_ROWS).logits[0]))
    for prompt in GEMMA3_PROMPTS:
        tokens = torch.tensor([gemma3_tokenizer().encode(prompt).ids])
        written = model.generate(
            tokens, max_new_tokens=GEMMA3_COUNT, min_new_tokens=GEMMA3_COUNT, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
        found[prompt] = written[0, tokens.shape[1] :].tolist()
    return found


def _model(path: Path, folder: Path, vocab_size: int) -> Any:
    from transformers import AutoModelForCausalLM

    bare = without_tokenizer(path, folder / "bare.gguf", vocab_size)
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=bare.name, dtype=torch.float32).eval()


def _listed(found: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: [round(one, 5) for one in values.flatten().tolist()] for name, values in found.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        content = {"smollm2": _smollm2(Path(one)), "gemma3": _gemma3(Path(other))}
    FILE.write_text(json.dumps(content) + "\n")
