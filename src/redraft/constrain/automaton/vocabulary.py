"""The bytes that every token of a vocabulary stands for, read from the tokenizer's decoder and checked against it."""

import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from redraft.constrain.automaton.byte_level import from_letters
from redraft.constrain.expression import FIRST_MARKER, MAX_MARKERS
from redraft.errors import ConstraintError

# The form that a decoder's steps give one token: its text, or its bytes where these need not be whole characters.
_Spelling = str | bytes
_Step = Callable[[_Spelling], _Spelling]

_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")
# Gemma's and BERT's names of tokens that nothing was trained with, which their tokenizers do not call special.
_UNUSED_TOKEN = re.compile(r"<unused\d+>|\[unused\d+\]")
_CHECKED_TOGETHER = 32
_SHOWN = 20


@dataclass(frozen=True, eq=False)
class PrefixTree:
    """Every prefix of a token once, the shorter ones first; node 0 is the empty prefix."""

    parent: NDArray[np.int32]
    """[nodes]: the prefix without its last byte; node 0 is its own parent."""
    byte: NDArray[np.uint8]
    """[nodes]: the last byte of the prefix."""
    level_start: NDArray[np.int64]
    """[longest token + 2]: prefixes of n bytes are the nodes from ``level_start[n]`` up to ``level_start[n + 1]``."""
    token_node: NDArray[np.int32]
    """[V]: the prefix that is the whole token; 0 for a token without bytes."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The bytes of V tokens, laid out one after the other.

    A token without bytes stands for no text (a special token, an unused id): no constraint ever allows it, unless as
    an end token.
    """

    flat: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    """[V + 1]: the bytes of token t are ``flat[offsets[t] : offsets[t + 1]]``."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, vocab_size: int, without_text: Collection[int] = ()) -> "Vocabulary":
        """The vocabulary of a model with ``vocab_size`` logits.

        Special tokens, those that are named unused, ids that the tokenizer lacks and ``without_text`` have no bytes.
        Raises ConstraintError for a tokenizer whose text is not its tokens' bytes one after the other.
        """
        spell = _spelling_rule(tokenizer)
        silent = _silent_tokens(tokenizer).union(without_text)
        pieces = (None if token in silent else tokenizer.id_to_token(token) for token in range(vocab_size))
        spoken = (None if piece is None or _UNUSED_TOKEN.fullmatch(piece) else piece for piece in pieces)
        vocabulary = cls.from_tokens([b"" if piece is None else spell(piece) for piece in spoken])
        _check_against_decoder(tokenizer, vocabulary)
        return vocabulary

    @classmethod
    def from_tokens(cls, tokens: Sequence[bytes]) -> "Vocabulary":
        """The bytes of token 0, 1, ..., empty for tokens without text."""
        offsets = np.zeros(len(tokens) + 1, dtype=np.int64)
        np.cumsum([len(token) for token in tokens], out=offsets[1:])
        return cls(np.frombuffer(b"".join(tokens), dtype=np.uint8), offsets)

    def with_markers(self, markers: Sequence[int]) -> "Vocabulary":
        """The vocabulary in which the n-th of these special tokens is what ``expression.Marker(n)`` stands for.

        It has a byte that no UTF-8 text has; tokens that had such a byte, and could be part of no text, lose theirs.
        """
        if len(markers) > MAX_MARKERS:
            raise ValueError(f"{len(markers)} markers; there is room for {MAX_MARKERS}")
        data = self.flat.tobytes()
        pieces = [data[start:end] for start, end in pairwise(self.offsets.tolist())]
        pieces = [b"" if piece and max(piece) >= FIRST_MARKER else piece for piece in pieces]
        for number, token in enumerate(markers):
            pieces[token] = bytes([FIRST_MARKER + number])
        return Vocabulary.from_tokens(pieces)

    @cached_property
    def silent(self) -> NDArray[np.bool_]:
        """[V]: True for tokens without bytes."""
        return np.diff(self.offsets) == 0

    @cached_property
    def has_text(self) -> NDArray[np.bool_]:
        """[V]: True for tokens that stand for text and are no markers."""
        found = np.diff(self.offsets) > 0
        found[found] = self.flat[self.offsets[:-1][found]] < FIRST_MARKER
        return found

    @cached_property
    def longest(self) -> int:
        """The bytes of the longest token that stands for text."""
        return int(np.diff(self.offsets).max(initial=1))

    @property
    def size(self) -> int:
        return len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        """Memory of the tokens' bytes and of their prefix tree."""
        tree = self.prefixes
        return sum(
            array.nbytes
            for array in (self.flat, self.offsets, tree.parent, tree.byte, tree.level_start, tree.token_node)
        )

    def spell(self, tokens: Iterable[int]) -> bytes:
        """The bytes of the tokens, one after the other."""
        return b"".join(self.flat[self.offsets[token] : self.offsets[token + 1]].tobytes() for token in tokens)

    @cached_property
    def prefixes(self) -> PrefixTree:
        """The tokens as a tree, made at its first use: whatever walks the vocabulary walks each prefix once."""
        starts, lengths = self.offsets[:-1], np.diff(self.offsets)
        token_node = np.zeros(self.size, dtype=np.int32)
        parents, ends, level_start = [np.zeros(1, dtype=np.int32)], [np.zeros(1, dtype=np.uint8)], [0, 1]
        for depth in range(int(lengths.max(initial=0))):
            longer = np.flatnonzero(lengths > depth)
            steps = token_node[longer].astype(np.int64) * 256 + self.flat[starts[longer] + depth]
            distinct, where = np.unique(steps, return_inverse=True)
            parents.append((distinct // 256).astype(np.int32))
            ends.append((distinct % 256).astype(np.uint8))
            token_node[longer] = level_start[-1] + where
            level_start.append(level_start[-1] + len(distinct))
        return PrefixTree(np.concatenate(parents), np.concatenate(ends), np.array(level_start), token_node)


def _silent_tokens(tokenizer: Tokenizer) -> set[int]:
    """Special tokens, and the one that stands for what the tokenizer does not know."""
    silent = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    unknown = getattr(tokenizer.model, "unk_token", None)
    unknown_id = None if unknown is None else tokenizer.token_to_id(unknown)
    return silent if unknown_id is None else silent | {unknown_id}


def _spelling_rule(tokenizer: Tokenizer) -> Callable[[str], bytes]:
    """The function by which the decoder turns one token into bytes."""
    if tokenizer.decoder is None:
        raise ConstraintError(_refusal("it has no decoder, and joins tokens with spaces"))
    steps = _steps(json.loads(tokenizer.decoder.__getstate__()))

    def spell(piece: str) -> bytes:
        spelling: _Spelling = piece
        for step in steps:
            spelling = step(spelling)
        return spelling.encode() if isinstance(spelling, str) else spelling

    return spell


def _steps(decoder: dict[str, Any]) -> list[_Step]:
    """The steps of a decoder that treat each token alone; those that see the whole text must leave it as it is."""
    parts = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    steps: list[_Step] = []
    joined_by = None
    for part in parts:
        kind = part["type"]
        if kind == "Fuse":
            joined_by = kind
        elif joined_by is not None:
            raise ConstraintError(_refusal(f"its decoder applies {kind} after {joined_by}, to more than one token"))
        else:
            steps.append(_step(part))
            # What follows these would see characters that several tokens spell together.
            joined_by = kind if kind in ("ByteFallback", "ByteLevel") else None
    return steps


def _step(part: dict[str, Any]) -> _Step:
    match part:
        case {"type": "Replace", "pattern": {"String": old}, "content": new}:
            return lambda piece: piece.replace(old, new) if isinstance(piece, str) else piece
        case {"type": "Metaspace", "replacement": mark, "prepend_scheme": "never"}:
            return lambda piece: piece.replace(mark, " ") if isinstance(piece, str) else piece
        case {"type": "ByteFallback"}:
            return lambda piece: _from_byte_token(piece) if isinstance(piece, str) else piece
        case {"type": "ByteLevel"}:
            return lambda piece: from_letters(piece) if isinstance(piece, str) else piece
        case {"type": "Metaspace"}:
            raise ConstraintError(_refusal("its decoder Metaspace drops the space before the first token"))
        case _:
            settings = ", ".join(f"{key} {value}" for key, value in part.items() if key != "type")
            raise ConstraintError(_refusal(f"its decoder {part['type']} ({settings}) looks beyond one token"))


def _refusal(reason: str) -> str:
    return (
        f"constraints cannot use this tokenizer: {reason}, so that a text is not its tokens' texts one after the "
        "other; decoders that work are ByteLevel, Metaspace with prepend_scheme 'never', and Replace of a string, "
        "ByteFallback and Fuse in this order"
    )


def _from_byte_token(piece: str) -> _Spelling:
    found = _BYTE_TOKEN.fullmatch(piece)
    return piece if found is None else bytes.fromhex(found[1])


def _check_against_decoder(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Decode every token once, in company, and compare with its bytes.

    Tokens of whole characters are decoded in a random order, some thousands of sequences that begin and end with all
    kinds of tokens. Parts of characters are decoded alone: decoders differ in how they mark what is not UTF-8.
    """
    data = vocabulary.flat.tobytes()
    tokens = [data[start:end] for start, end in pairwise(vocabulary.offsets.tolist())]
    whole = [token for token, spelled in enumerate(tokens) if spelled and _is_text(spelled)]
    order = np.random.default_rng(0).permutation(whole).astype(int).tolist()
    sequences = [order[start : start + _CHECKED_TOGETHER] for start in range(0, len(order), _CHECKED_TOGETHER)]
    sequences += [[token] for token, spelled in enumerate(tokens) if spelled and not _is_text(spelled)]
    sequences += _characters_in_bytes(tokens, order[:_CHECKED_TOGETHER])
    for sequence in sequences:
        expected = b"".join([tokens[token] for token in sequence]).decode("utf-8", errors="replace")
        produced = tokenizer.decode(sequence, skip_special_tokens=False)
        if produced != expected:
            raise ConstraintError(_refusal(_difference(produced, expected)))


def _is_text(spelled: bytes) -> bool:
    try:
        spelled.decode()
    except UnicodeDecodeError:
        return False
    return True


def _characters_in_bytes(tokens: list[bytes], company: list[int]) -> list[list[int]]:
    """Characters of two to four bytes, a token for each byte, between other tokens; empty where bytes are no tokens."""
    of_byte = {spelled: token for token, spelled in enumerate(tokens) if len(spelled) == 1}
    spelled = [[of_byte.get(bytes([value])) for value in character.encode()] for character in "é€😀"]
    return [
        [company[0], *(token for token in sequence if token is not None), *company[1:]]
        for sequence in spelled
        if company and None not in sequence
    ]


def _difference(produced: str, expected: str) -> str:
    """The place where two texts part, in words."""
    pairs = zip(produced, expected, strict=False)
    place = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(produced), len(expected)))
    start = max(0, place - _SHOWN // 2)
    return (
        f"it decodes tokens that spell ...{expected[start : start + _SHOWN]!r}... as "
        f"...{produced[start : start + _SHOWN]!r}..."
    )
