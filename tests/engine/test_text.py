"""``TextStream`` against brute force: however the tokens are cut into canvases, the answer is the same."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from redraft.engine.text import TextStream


def byte_tokenizer(merges: Sequence[tuple[str, str]] = ()) -> Tokenizer:
    """One token a byte, and one for each merge: characters beyond ASCII take several tokens."""
    alphabet = sorted(ByteLevel.alphabet())
    pieces = [*alphabet, *(one + other for one, other in merges)]
    tokenizer = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, list(merges)))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


TOKENIZER = byte_tokenizer([("a", "b"), ("ab", "c"), ("b", "b")])


def decode(tokens: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(tokens), skip_special_tokens=False))


def canvases(tokens: list[int]) -> Iterator[list[list[int]]]:
    """All ways to cut the tokens into consecutive canvases."""
    inner = range(1, len(tokens))
    for count in range(len(tokens)):
        for cuts in combinations(inner, count):
            bounds = [0, *cuts, len(tokens)]
            yield [tokens[a:b] for a, b in pairwise(bounds)]


def expected(tokens: list[int], stop: Sequence[str]) -> tuple[str, list[int], bool]:
    """Text, tokens and whether it stopped, found token by token."""
    for count in range(1, len(tokens) + 1):
        text = decode(tokens[:count])
        if hits := [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]:
            return text[: min(hits)[1]], tokens[:count], True
    return decode(tokens), tokens, False


def assert_same_for_all_canvases(tokens: list[int], stop: Sequence[str]) -> None:
    answer = expected(tokens, stop)
    for parts in canvases(tokens):
        stream, deltas = TextStream(decode, stop), []
        for index, part in enumerate(parts):
            deltas.append(stream.add(part, last=index == len(parts) - 1))
            if stream.stopped:
                break
        assert (stream.text, stream.token_ids, stream.stopped) == answer, parts
        assert "".join(deltas) == stream.text, parts


@pytest.mark.parametrize(
    ("text", "stop"),
    [
        ("", ()),
        ("plain", ()),
        ("abcabc", ("cab",)),
        ("ababac", ("abac",)),
        ("aaab", ("aab",)),
        ("xabcd", ("cd", "ab")),
        ("xabcy", ("abx", "bcx", "cx")),
        ("abc", ("abcd",)),
        ("abcabc", ("abc",)),
        ("a€b😀", ()),
        ("é€", ("€",)),
        ("a€bb€", ("b€", "€a")),
        ("x\n\ny", ("\n\n",)),
        ("abc", ("abc", "b")),
        ("xabcd", ("abcd", "bc")),
    ],
)
def test_every_split_gives_the_same(text, stop):
    assert_same_for_all_canvases(TOKENIZER.encode(text).ids, stop)


STOPS = st.lists(st.text("abc€", min_size=1, max_size=4), max_size=3)


@settings(max_examples=150, deadline=None)
@given(text=st.text("abc€é", max_size=5), stop=STOPS)
@example(text="abab€", stop=["ab€"])
def test_every_split_of_random_text_gives_the_same(text, stop):
    assert_same_for_all_canvases(TOKENIZER.encode(text).ids[:9], stop)


def test_characters_are_handed_out_when_their_last_byte_is_there():
    stream = TextStream(decode, ())
    tokens = TOKENIZER.encode("a€😀b").ids
    assert [stream.add([token], last=False) for token in tokens] == ["a", "", "", "€", "", "", "", "😀", "b"]


def test_what_cannot_become_a_stop_string_is_handed_out_at_once():
    stream = TextStream(decode, ("stop",))
    assert stream.add(TOKENIZER.encode("xst").ids, last=False) == "x"
    assert stream.add(TOKENIZER.encode("ay").ids, last=False) == "stay"


def test_an_answer_that_ends_within_a_character_says_so():
    stream = TextStream(decode, ())
    assert stream.add(TOKENIZER.encode("a€").ids[:-1], last=True) == "a\ufffd"


def test_bytes_that_are_no_text_do_not_hold_back_what_follows():
    stream = TextStream(decode, ())
    broken = TOKENIZER.encode("€").ids[:2]
    assert stream.add(broken, last=False) == ""
    assert stream.add(TOKENIZER.encode("a").ids, last=False) == "\ufffda"


def test_text_that_a_byte_to_come_may_change_is_held_back() -> None:
    """Decoders make of neighbouring byte tokens either characters or none, so an A may yet become no A."""

    def decode(tokens: Sequence[int]) -> str:
        data = bytes(tokens)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(data)

    stream = TextStream(decode, (), settled=lambda tokens: 0)
    assert stream.add([65, 66], last=False) == ""
    assert stream.add([0xFF], last=True) == "\ufffd" * 3
