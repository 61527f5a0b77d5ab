"""``TextStream`` and ``AnswerText`` against brute force: however tokens are cut into canvases, the answer is one."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from redraft.constrain.compiler import ThoughtMarkers
from redraft.engine.text import AnswerText, TextStream, thought_tokens
from redraft.models.tokenizer import ChatTokenizer
from tests.random_checkpoint import LETTERS_SIZE, write_letters_tokenizer
from tests.thorough import some


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


@settings(max_examples=some(60), deadline=None)
@given(text=st.text("abc€é", max_size=5), stop=STOPS)
@example(text="abab€", stop=["ab€"])
def test_every_split_of_random_text_gives_the_same(text, stop):
    assert_same_for_all_canvases(TOKENIZER.encode(text).ids[:8], stop)


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


# Thoughts, among special tokens as DiffusionGemma has them.

SPECIAL = ("<|channel>", "<channel|>", "<|tool_call>", "<pad>")


def marked_tokenizer() -> ChatTokenizer:
    """Bytes, the name of the channel as one token, and special tokens."""
    merges = [("t", "h"), ("th", "o"), ("tho", "u"), ("thou", "g"), ("thoug", "h"), ("though", "t")]
    tokenizer = byte_tokenizer(merges)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    return ChatTokenizer(tokenizer, {}, None)


MARKED = marked_tokenizer()
OPENING, CLOSING, CALL, PAD = (token for name in SPECIAL if (token := MARKED.token_id(name)) is not None)
MARKERS = ThoughtMarkers(OPENING, CLOSING, "thought\n")

WRITTEN = [
    # What the model writes; what of it is the thought, and the answer.
    ("<|channel>thought\n<channel|>yes", "", "yes"),
    ("<|channel>thought\nhm é<channel|>yes", "hm é", "yes"),
    ("<|channel>hm<channel|>yes", "hm", "yes"),
    ("<|channel><channel|>yes", "", "yes"),
    ("<|channel>thought<channel|>yes", "", "yes"),
    ("<|channel>thoughtful<channel|>yes", "thoughtful", "yes"),
    ("<|channel>thou<channel|>yes", "thou", "yes"),
    ("\n<|channel>thought\nhm<channel|>yes", "hm", "\nyes"),
    ("y<|channel>thought\na<channel|>e<|channel>thought\nb<channel|>s", "ab", "yes"),
    ("<|channel>thought\nhm", "hm", ""),
    ("<|channel>thought\nhm<|channel>hm<channel|>yes", "hmhm", "yes"),
    ("y<|channel>thought\nes", "es", "y"),
    ("y<|channel>es", "es", "y"),
    ("y<|channel>thought", "", "y"),
    ("yes<|channel>thought\n", "", "yes"),
    ("yes<channel|>", "", "yes"),
    ("thought\nyes", "", "thought\nyes"),
    ("<pad>é<pad><|channel>t<pad>u<channel|><|tool_call>y<pad>", "tu", "éy"),
    ("", "", ""),
]


def answered(tokens: list[int], stop: Sequence[str], thinking: bool, parts: list[list[int]]) -> AnswerText:
    """An answer that came in these parts; what was handed out on the way is what there is in the end."""
    answer = AnswerText(MARKED.decode, stop, MARKERS, MARKED.settled, thinking)
    thoughts, texts = [], []
    for index, part in enumerate(parts):
        thought, text = answer.add(part, last=index == len(parts) - 1)
        thoughts.append(thought)
        texts.append(text)
        if answer.stopped:
            break
    assert "".join(texts) == answer.text, parts
    assert "".join(thoughts) == (answer.thought or ""), parts
    assert answer.token_ids == tokens[: len(answer.token_ids)], parts
    return answer


@pytest.mark.parametrize(("written", "thought", "text"), WRITTEN)
def test_a_thought_is_found_wherever_it_stands_and_special_tokens_are_no_text(written, thought, text):
    """Whether or not one was asked for; what was not asked for, and is none, is not there."""
    tokens = MARKED.encode_text(written)
    # Every way to cut a long answer into canvases would be too many.
    cuts = canvases(tokens) if len(tokens) <= 10 else [[[token] for token in tokens], [tokens[:5], tokens[5:]]]
    for parts in cuts or [[[]]]:
        asked = answered(tokens, (), True, parts)
        assert (asked.thought, asked.text, asked.token_ids) == (thought, text, tokens), parts
        plain = answered(tokens, (), False, parts)
        assert (plain.thought, plain.text, plain.token_ids) == (thought or None, text, tokens), parts


@settings(max_examples=some(80), deadline=None)
@given(
    pieces=st.lists(st.sampled_from(["<|channel>", "<channel|>", "<pad>", "thought\n", "a", "b", "é"]), max_size=7),
    stop=st.sampled_from([(), ("ab",), ("b", "aa")]),
    thinking=st.booleans(),
)
def test_every_split_of_a_random_answer_with_thoughts_gives_the_same(pieces, stop, thinking):
    tokens = MARKED.encode_text("".join(pieces))[:8]
    splits = list(canvases(tokens)) or [[[]]]
    found = [answered(tokens, stop, thinking, parts) for parts in splits]
    assert len({(one.text, one.thought, tuple(one.token_ids), one.stopped) for one in found}) == 1
    for name in SPECIAL:
        assert name not in found[0].text + (found[0].thought or "")


@pytest.mark.parametrize("thinking", [True, False])
def test_a_stop_string_ends_the_answer_not_the_thought(thinking):
    tokens = MARKED.encode_text("<|channel>thought\nab<channel|>xaby<|channel>z<channel|>")
    answer = answered(tokens, ("ab",), thinking, [tokens])
    assert (answer.text, answer.stopped) == ("x", True)
    assert answer.thought == "ab"
    assert MARKED.decode_all(answer.token_ids) == "<|channel>thought\nab<channel|>xab"


def test_tokens_of_thoughts_are_counted_with_their_markers():
    for written, *_ in WRITTEN:
        tokens = MARKED.encode_text(written)
        inside, expected = False, 0
        for token in tokens:
            inside = inside or token == OPENING
            expected += inside or token == CLOSING
            inside = inside and token != CLOSING
        assert thought_tokens(tokens, MARKERS) == expected, written


@pytest.mark.parametrize("stop", [(), ("never",)])
def test_a_long_answer_by_single_tokens_is_decoded_in_parts_and_reads_the_same(tmp_path, stop) -> None:
    """Letters, bytes of characters, words with their spaces: each part begins with tokens before it."""
    write_letters_tokenizer(tmp_path, LETTERS_SIZE)
    tokenizer = ChatTokenizer.from_folder(tmp_path)
    tokens = tokenizer.encode("the 日本 and, on the ü of € is " * 40, literal=True)[1:]
    decoded: list[int] = []

    def decode(part: Sequence[int]) -> str:
        decoded.append(len(part))
        return tokenizer.decode(part)

    stream, given = TextStream(decode, stop, tokenizer.settled), ""
    for token in tokens:
        given += stream.add([token], last=False)
        assert tokenizer.decode(tokens).startswith(given)
    given += stream.add([], last=True)
    assert given == stream.text == tokenizer.decode(tokens)
    assert len(tokens) > 800
    assert sum(size > 400 for size in decoded) == 1, "all of it is decoded once, at the end"
