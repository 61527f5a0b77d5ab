"""Texts become the tokens that the file's own rules give: those of ``transformers``, or its scores applied by hand."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from redraft.errors import CheckpointError
from redraft.formats.gguf.header import Header, read_header
from redraft.formats.gguf.tokenizer import read_tokenizer
from redraft.models.tokenizer import ChatTokenizer
from tests import gguf_files
from tests.gguf_files import gemma3_first_part, smollm2_path, write_gguf
from tests.published import SMOLLM2_TEXTS, published

ROOT = Path(__file__).parents[3]
# Prose, code, tables, and characters of all kinds.
TEXTS = [
    *((ROOT / name).read_text() for name in ("docs/train.md", "docs/serve.md", "src/redraft/canvas/step.py")),
    *SMOLLM2_TEXTS[3:],
]


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    return read_tokenizer(read_header(smollm2_path())).tokenizer


@pytest.fixture(scope="module")
def gemma3_header() -> Header:
    return gguf_files.gemma3_header()


@pytest.fixture(scope="module")
def gemma3() -> Tokenizer:
    return gguf_files.gemma3_tokenizer()


def test_smollm2_has_the_tokens_of_transformers(smollm2: Tokenizer):
    for text, expected in zip(SMOLLM2_TEXTS, published("smollm2")["tokens"], strict=True):
        assert smollm2.encode(text).ids == expected
        assert smollm2.decode(expected, skip_special_tokens=False) == text


def merged(piece_scores: dict[str, tuple[int, float]], text: str) -> list[int]:
    """SentencePiece's rule by hand: of all neighbours that are a piece together, those that score best are joined, the
    leftmost first; what is no piece is spelled in bytes."""
    parts = list(text.replace(" ", "\u2581"))
    while True:
        pairs = [(parts[i] + parts[i + 1], i) for i in range(len(parts) - 1)]
        known = [(-piece_scores[pair][1], i) for pair, i in pairs if pair in piece_scores]
        if not known:
            break
        _, at = min(known)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    ids = []
    for part in parts:
        own = [part] if part in piece_scores else [f"<0x{byte:02X}>" for byte in part.encode()]
        ids += [piece_scores[one][0] for one in own]
    return ids


@pytest.mark.slow
def test_gemma3_joins_what_scores_best(gemma3: Tokenizer, gemma3_header: Header):
    fields = {name: gemma3_header.field(f"tokenizer.ggml.{name}") for name in ("tokens", "scores", "token_type")}
    rows = zip(fields["tokens"], fields["scores"], fields["token_type"], strict=True)
    # What is declared or special is cut out of a text before, and is no part of the words that are joined.
    scores = {piece: (token, score) for token, (piece, score, kind) in enumerate(rows) if kind in (1, 6)}
    words = {word for text in TEXTS for word in re.findall(r" ?[^\s<>|]+", text)}
    assert len(words) > 500
    for word in words:
        assert gemma3.encode(word, add_special_tokens=False).ids == merged(scores, word), word


@pytest.mark.slow
def test_gemma3_comes_back_as_it_was_and_begins_with_its_token(gemma3: Tokenizer):
    for text in TEXTS:
        ids = gemma3.encode(text).ids
        assert ids[0] == 2
        assert gemma3.decode(ids[1:], skip_special_tokens=False) == text


@pytest.mark.parametrize("path", [smollm2_path, pytest.param(gemma3_first_part, marks=pytest.mark.slow)])
def test_every_special_token_is_one_token(path: Any, request: pytest.FixtureRequest):
    header = gguf_files.gemma3_header() if path is gemma3_first_part else read_header(path())
    tokenizer = request.getfixturevalue("smollm2" if path is smollm2_path else "gemma3")
    pieces, kinds = (header.field(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    control = [(token, pieces[token]) for token, kind in enumerate(kinds) if kind == 3]
    assert len(control) > 10
    for token, piece in control[:200]:
        assert tokenizer.encode(f"a{piece}b", add_special_tokens=False).ids[1:-1] == [token], piece


def test_smollm2_renders_its_own_chat_template():
    tokenizer = ChatTokenizer.from_checkpoint(smollm2_path())
    found = tokenizer.decode_all(tokenizer.encode_chat([{"role": "user", "content": "Hi 5"}]))
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nHi 5<|im_end|>\n<|im_start|>assistant\n"
    assert found == turns
    assert tokenizer.special["eos_token"] == "<|im_end|>"


BYTES = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]


def byte_level(folder: Path, extra: Sequence[str], merges: Sequence[str], **fields: Any) -> Tokenizer:
    # An array in a file is not empty.
    pieces = [*BYTES, "!!", *extra]
    described = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": [1] * len(pieces),
        "tokenizer.ggml.merges": ["! !", *merges],
        **{f"tokenizer.ggml.{name}": value for name, value in fields.items()},
    }
    path = write_gguf(folder / "t.gguf", "llama", described, {"x": torch.ones(4)})
    return read_tokenizer(read_header(path)).tokenizer


def test_how_digits_are_parted_is_what_the_file_names(tmp_path: Path):
    extra, merges = ["12", "123", "1234"], ["1 2", "12 3", "123 4"]
    found = {
        name: byte_level(tmp_path, extra, merges, pre=name).encode("1234").tokens
        for name in ("gpt-2", "smollm", "llama-bpe")
    }
    assert found == {"gpt-2": ["1234"], "smollm": ["1", "2", "3", "4"], "llama-bpe": ["123", "4"]}


def test_llama3_takes_a_whole_word_that_no_merges_lead_to(tmp_path: Path):
    assert byte_level(tmp_path, ["word"], [], pre="llama-bpe").encode("word").tokens == ["word"]
    assert byte_level(tmp_path, ["word"], [], pre="gpt-2").encode("word").tokens == list("word")


def test_tokens_around_a_text_are_those_that_the_file_says(tmp_path: Path):
    own = {"bos_token_id": 5, "eos_token_id": 6}
    for begins, ends in [(False, False), (True, False), (False, True), (True, True)]:
        tokenizer = byte_level(tmp_path, [], [], add_bos_token=begins, add_eos_token=ends, **own)
        assert tokenizer.encode("a").ids == [*[5] * begins, BYTES.index("a"), *[6] * ends]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pre": "qwen35"}, r"pre 'qwen35' is not supported; supported are .*'smollm'"),
        ({"model": "rwkv"}, r"model 'rwkv' is not supported; supported are 'gpt2', 'llama', 'gemma4'"),
        ({"merges": ["ab"]}, "'ab', which is no pair"),
        ({"tokens": ["a"] * (len(BYTES) + 1)}, "each another one"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, fields: dict[str, Any], words: str):
    merges = fields.pop("merges", [])
    with pytest.raises(CheckpointError, match=words):
        byte_level(tmp_path, [], merges, **fields)


def test_gemma4_has_its_merges_listed(tmp_path: Path):
    """Of two merges that meet, the one that is listed first is made."""
    letters = ["a", "b", "c", "\u2581", "ab", "bc", "\u2581a"]
    pieces = ["<unk>", "<bos>", *[f"<0x{byte:02X}>" for byte in range(256)], *letters]
    fields = {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": [2, 3, *[6] * 256, *[1] * 7],
        "tokenizer.ggml.merges": ["b c", "a b", "\u2581 a"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.add_space_prefix": False,
    }
    path = write_gguf(tmp_path / "t.gguf", "diffusion-gemma", fields, {"x": torch.ones(4)})
    tokenizer = read_tokenizer(read_header(path)).tokenizer
    assert tokenizer.encode("abc ab").tokens == ["<bos>", "a", "bc", "\u2581", "ab"]
    assert tokenizer.encode(" aé").tokens == ["<bos>", "\u2581a", "<0xC3>", "<0xA9>"]
