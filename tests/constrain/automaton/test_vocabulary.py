from collections.abc import Callable
from functools import cache
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.errors import ConstraintError

TEXT = (
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich; 日本語 日本 語学 😀😃😄 naïve\n\n  x = {'a': 1}\n"
    * 3
)


@cache
def _gemma_like() -> Tokenizer:
    """BPE with U+2581 for a space and a token for every byte."""
    words = ["▁", "a", "b", "▁a", "▁ab", "ab", "日本", "é", "▁▁▁", "\n", "<0x4>", "0x41"]
    pieces = ["<pad>", "<eos>", "<unk>", *(f"<0x{value:02X}>" for value in range(256)), *words]
    merges = [("▁", "a"), ("▁a", "b"), ("a", "b")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<pad>", "<eos>"])
    written = ["<table>", "▁▁▁▁", "<unused0>", "<unused1>x"]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in written])
    return tokenizer


@cache
def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|end|>"])
    )
    # The first has letters outside the alphabet of bytes; the second does not, and reads as bytes.
    tokenizer.add_tokens([AddedToken("日 é", normalized=False), AddedToken("<|x|>", normalized=False)])
    return tokenizer


def _words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"one": 0, " two": 1, "<unk>": 2, "\n": 3}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _metaspace() -> Tokenizer:
    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁a", -3.0), ("a", -4.0), ("b▁", -5.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer.add_special_tokens(["<unk>"])
    return tokenizer


def _sudoku() -> Tokenizer:
    return Tokenizer.from_str((files("redraft") / "bundled/sudoku/tokenizer.json").read_text(encoding="utf-8"))


@cache
def _vocabulary(make: Callable[[], Tokenizer]) -> Vocabulary:
    return Vocabulary.of(make(), make().get_vocab_size())


def _id(tokenizer: Tokenizer, piece: str) -> int:
    found = tokenizer.token_to_id(piece)
    assert found is not None
    return found


KINDS = [_gemma_like, _byte_level, _words, _metaspace, _sudoku]
BYTE_WISE = [_gemma_like, _byte_level]


@pytest.mark.parametrize("make", KINDS)
def test_random_tokens_decode_to_their_bytes_one_after_the_other(make: Callable[[], Tokenizer]) -> None:
    tokenizer, vocabulary = make(), _vocabulary(make)
    rng = np.random.default_rng(1)
    spoken = np.flatnonzero(np.diff(vocabulary.offsets))
    compared = 0
    for _ in range(2000):
        sequence = rng.choice(spoken, size=rng.integers(1, 12)).tolist()
        spelled = vocabulary.spell(sequence)
        try:
            text = spelled.decode()
        except UnicodeDecodeError:
            continue
        assert tokenizer.decode(sequence, skip_special_tokens=False) == text
        compared += 1
    assert compared > 50


@cache
def _of_text(make: Callable[[], Tokenizer]) -> Tokenizer:
    """A copy to which the name of a special token, written out, is text like any other."""
    tokenizer = Tokenizer.from_str(make().to_str())
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.mark.parametrize("make", BYTE_WISE)
@given(text=st.text())
@example(text="<pad>")
@example(text="<|end|><table>")
@settings(max_examples=40, deadline=None)
def test_the_tokens_of_any_text_spell_it(make: Callable[[], Tokenizer], text: str) -> None:
    ids = _of_text(make).encode(text, add_special_tokens=False).ids
    expected = text.replace("▁", " ") if make is _gemma_like else text
    assert _vocabulary(make).spell(ids) == expected.encode()


def test_parts_of_characters_are_tokens_of_a_byte_level_tokenizer() -> None:
    vocabulary = _vocabulary(_byte_level)
    tokens = [vocabulary.spell([token]) for token in range(vocabulary.size)]
    assert {bytes([value]) for value in range(256)} <= set(tokens)
    assert any(len(token) == 2 and "�" in token.decode(errors="replace") for token in tokens)


def test_every_byte_is_a_token_of_a_tokenizer_with_byte_fallback() -> None:
    tokenizer, vocabulary = _gemma_like(), _vocabulary(_gemma_like)
    for value in range(256):
        assert vocabulary.spell([_id(tokenizer, f"<0x{value:02X}>")]) == bytes([value])
    assert vocabulary.spell([_id(tokenizer, "<0x4>")]) == b"<0x4>"


def test_cells_and_digits_of_the_bundled_sudoku_are_words() -> None:
    tokenizer = _sudoku()
    vocabulary = Vocabulary.of(tokenizer, 826)
    for word in ("<r1c1=.>", "<r9c9=9>", "7", "\n"):
        assert vocabulary.spell([_id(tokenizer, word)]) == word.encode()
    assert vocabulary.spell(tokenizer.encode("<r1c1=5><r1c2=.>12\n", add_special_tokens=False).ids) == (
        b"<r1c1=5><r1c2=.>12\n"
    )


@pytest.mark.parametrize(
    ("make", "silent", "spoken"),
    [
        (
            _gemma_like,
            ["<pad>", "<eos>", "<unk>", "<unused0>"],
            {"<table>": b"<table>", "▁▁▁▁": b"    ", "<unused1>x": b"<unused1>x"},
        ),
        (_byte_level, ["<|end|>"], {"<|x|>": b"<|x|>", "日 é": "日 é".encode()}),
        (_words, ["<unk>"], {" two": b" two"}),
        (_sudoku, ["<pad>", "<eos>", "<bos>"], {}),
    ],
)
def test_only_tokens_that_are_text_have_bytes(
    make: Callable[[], Tokenizer], silent: list[str], spoken: dict[str, bytes]
) -> None:
    tokenizer = make()
    known = tokenizer.get_vocab_size()
    vocabulary = Vocabulary.of(tokenizer, known + 3)
    silent_ids = sorted(_id(tokenizer, piece) for piece in silent)
    assert vocabulary.size == known + 3
    assert np.flatnonzero(np.diff(vocabulary.offsets) == 0).tolist() == [*silent_ids, known, known + 1, known + 2]
    for piece, spelled in spoken.items():
        assert vocabulary.spell([_id(tokenizer, piece)]) == spelled


def test_tokens_can_be_declared_to_have_no_text() -> None:
    tokenizer = _sudoku()
    image = [_id(tokenizer, piece) for piece in ("<image_start>", "<image_end>", "<image_soft>")]
    assert len(Vocabulary.of(tokenizer, 826).spell(image)) > 0
    assert Vocabulary.of(tokenizer, 826, without_text=image).spell(image) == b""


@pytest.mark.parametrize(
    ("decoder", "named"),
    [
        (None, "no decoder"),
        (decoders.WordPiece(), "WordPiece"),
        (decoders.BPEDecoder(), "BPEDecoder"),
        (decoders.CTC(), "CTC"),
        (decoders.Metaspace(), "Metaspace drops the space"),
        (decoders.Strip(" ", 1, 0), "Strip"),
        (decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]), "Strip after Fuse"),
        (decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "c")]), "Replace after Fuse"),
        (decoders.Sequence([decoders.ByteFallback(), decoders.Replace("é", "e")]), "Replace after ByteFallback"),
        (decoders.Replace(Regex("a+"), "b"), "Regex"),
    ],
)
def test_decoders_that_look_beyond_one_token_are_refused_by_name(decoder: decoders.Decoder | None, named: str) -> None:
    tokenizer = _words()
    if decoder is None:
        tokenizer = Tokenizer(models.WordLevel({"one": 0, "two": 1}, unk_token="one"))
    else:
        tokenizer.decoder = decoder
    with pytest.raises(ConstraintError, match=named):
        Vocabulary.of(tokenizer, 4)


def test_a_token_that_does_not_decode_as_its_rule_says_is_found() -> None:
    # The decoder's number parser takes a sign, so that these six letters are the byte 0x0A to it.
    tokenizer = Tokenizer(models.WordLevel({"<0x+A>": 0, "b": 1}, unk_token="?"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    assert tokenizer.decode([0]) == "\n"
    with pytest.raises(ConstraintError, match=r"tokens that spell .*<0x\+A>"):
        Vocabulary.of(tokenizer, 2)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=6) | st.text("ab", max_size=6).map(str.encode), max_size=30))
def test_the_prefix_tree_holds_each_prefix_once_and_leads_to_every_token(tokens: list[bytes]) -> None:
    tree = Vocabulary.from_tokens(tokens).prefixes
    spelled = [b""]
    for node in range(1, len(tree.parent)):
        assert tree.parent[node] < node
        spelled.append(spelled[tree.parent[node]] + bytes([tree.byte[node]]))
    assert sorted(spelled) == sorted({token[:end] for token in tokens for end in range(len(token) + 1)} | {b""})
    assert [spelled[node] for node in tree.token_node] == tokens
    levels = np.repeat(np.arange(len(tree.level_start) - 1), np.diff(tree.level_start))
    assert [len(prefix) for prefix in spelled] == levels.tolist()


def test_markers_have_a_byte_that_no_text_has() -> None:
    tokens = [b"", b"a", b"", bytes([0xF9]), "é".encode(), b""]
    marked = Vocabulary.from_tokens(tokens).with_markers([5, 2])
    assert [marked.spell([token]) for token in range(6)] == [b"", b"a", b"\xf9", b"", "é".encode(), b"\xf8"]
    assert marked.has_text.tolist() == [False, True, False, False, True, False]
    with pytest.raises(ValueError, match="room for 8"):
        marked.with_markers(range(9))
