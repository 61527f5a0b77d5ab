"""Leaves of JSON texts compared with json.loads, and token spans against the definition, byte by byte."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redraft.constrain.language.json.spans import Leaf, leaves, token_spans
from tests.thorough import some

CHARACTERS = st.characters(exclude_categories=["Cs"])
STRINGS = st.text(CHARACTERS, max_size=6) | st.text('"\\/~\n\t\x00é😀\x7f', max_size=6)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | STRINGS
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRINGS, inner, max_size=4), max_leaves=12
)


def rebuilt(found: list[Leaf]) -> Any:
    """The document that leaves are of: containers are made as paths ask for them."""
    root: dict[str, Any] = {}
    for leaf in found:
        place: Any = root
        key: str | int = "document"
        for step in leaf.path:
            place = _entered(place, key, [] if isinstance(step, int) else {})
            key = step
        _entered(place, key, leaf.value)
    return root["document"]


def _entered(place: Any, key: str | int, value: Any) -> Any:
    if isinstance(key, int):
        if key == len(place):
            place.append(value)
    else:
        place.setdefault(key, value)
    return place[key]


def resolved(document: Any, pointer: str) -> Any:
    """What a JSON pointer points to (RFC 6901, section 4)."""
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


@st.composite
def _texts(draw: st.DrawFn) -> tuple[str, Any]:
    """A document written with any white space wherever it may stand, and with characters escaped or not."""
    space = st.text(" \t\n\r", max_size=2)

    def write(value: Any) -> str:
        before, after = draw(space), draw(space)
        if isinstance(value, str):
            return before + _quoted(draw, value) + after
        if isinstance(value, list):
            return f"{before}[{','.join(map(write, value)) or draw(space)}]{after}"
        if isinstance(value, dict):
            items = [f"{write(key)}:{write(item)}" for key, item in value.items()]
            return f"{before}{{{','.join(items) or draw(space)}}}{after}"
        return before + json.dumps(value) + after

    document = draw(DOCUMENTS)
    return write(document), document


def _quoted(draw: st.DrawFn, value: str) -> str:
    short = {"\n": "\\n", "\t": "\\t", "/": "\\/", '"': '\\"', "\\": "\\\\"}
    written = ""
    for character in value:
        units = character.encode("utf-16-be")
        long = "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
        plain = [] if character in '"\\' or character < " " else [character]
        written += draw(st.sampled_from([long, *plain, *([short[character]] if character in short else [])]))
    return f'"{written}"'


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: 1 is neither 1.0 nor true."""
    return repr(one) == repr(other)


@settings(deadline=None, max_examples=some(100, 40))
@given(_texts())
def test_leaves_put_together_are_the_document(case: tuple[str, Any]):
    """Whatever the white space and the escapes; each leaf's characters are its value as it is written."""
    text, document = case
    found = leaves(text)
    assert same(rebuilt(found), json.loads(text))
    assert same(json.loads(text), document)
    for leaf in found:
        written = text[slice(*leaf.span)]
        if isinstance(leaf.value, str):
            assert text[leaf.start - 1] == text[leaf.end] == '"'
            written = f'"{written}"'
        assert same(json.loads(written), leaf.value)
        assert written == written.strip()
        assert same(resolved(document, leaf.pointer), leaf.value)
    assert len({leaf.pointer for leaf in found}) == len(found)
    assert all(before.end < after.start for before, after in itertools.pairwise(found))


def test_a_document_by_hand():
    text = '{"a/b": [1, {"~": "x\\n"}], "e": [], "": {"é": null}, "s": ""}'
    found = leaves(text)
    assert [(leaf.pointer, leaf.path, leaf.value, text[leaf.start : leaf.end]) for leaf in found] == [
        ("/a~1b/0", ("a/b", 0), 1, "1"),
        ("/a~1b/1/~0", ("a/b", 1, "~"), "x\n", "x\\n"),
        ("/e", ("e",), [], "[]"),
        ("//é", ("", "é"), None, "null"),
        ("/s", ("s",), "", ""),
    ]
    assert leaves(" true ") == [Leaf((), True, 1, 5)]
    assert leaves("true")[0].pointer == ""


def test_depth_has_no_limit():
    depth = 20_000
    (leaf,) = leaves("[" * depth + "0" + "]" * depth)
    assert leaf.path == (0,) * depth


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"position 0 \(at the end\): .* has a value here"),
        ("  ", "position 2"),
        ("[1,]", r"position 3 \(at ']'\): .* has a value here"),
        ("[1 2]", "position 3 .* has ',' here"),
        ("[1}", "position 2 .* has ',' here"),
        ('{"a":1]', "position 6 .* has ',' here"),
        ('{"a" 1}', "position 5 .* has ':' here"),
        ("{a:1}", "position 1 .* has a key in double quotes here"),
        ('{"a":1,}', "position 7 .* has a key in double quotes here"),
        ("[1", r"position 2 \(at the end\): .* has ',' here"),
        ("1 2", "position 2 .* has the end of the text here"),
        ("NaN", "position 0"),
        ("[-Infinity]", "position 1"),
        ("01", "position 1"),
        ("1.", "position 1"),
        (".5", "position 0"),
        ("+1", "position 0"),
        ("\u0661", "position 0"),
        ("'a'", "position 0"),
        ('"a', "position 0"),
        ('"\n"', "position 0"),
        ('"\\x"', "position 0"),
        ('"\\u12g4"', "position 0"),
        ("\u00a01", "position 0"),
        ("[1]]", "position 3"),
        ("tru", "position 0"),
    ],
)
def test_what_is_not_json_is_refused_with_its_position(text: str, match: str):
    with pytest.raises(ValueError, match=match):
        leaves(text)


@settings(deadline=None, max_examples=some(60, 40))
@given(_texts(), st.data())
def test_a_damaged_text_is_refused_exactly_if_json_refuses_it(case: tuple[str, Any], data: st.DataObject):
    """One character left out, put in or replaced; Python's NaN and Infinity are refused besides."""
    text, _ = case
    at = data.draw(st.integers(0, len(text)))
    damaged = text[:at] + data.draw(st.sampled_from(["", *'[]{},:"\\ 0-e.tn/'])) + text[at + data.draw(st.booleans()) :]

    def refuse(*_: Any) -> Any:
        raise ValueError("not JSON")

    try:
        expected = json.loads(damaged, parse_constant=refuse)
    except ValueError:
        with pytest.raises(ValueError, match=r"^position "):
            leaves(damaged)
        return
    assert same(rebuilt(leaves(damaged)), expected)


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', '{"a":{"b":1,"c":2},"\\u0061":[3],"d":4}', '[{"a":[1,2],"a":{}}]'])
def test_of_a_key_that_stands_there_twice_the_last_value_counts(text: str):
    assert rebuilt(leaves(text)) == json.loads(text)


def _overlapping(start: int, end: int, pieces: list[bytes]) -> list[int]:
    """Bytes of the characters, each with the token it is of."""
    owner = [token for token, piece in enumerate(pieces) for _ in piece]
    text = b"".join(pieces).decode()
    first, last = len(text[:start].encode()), len(text[:end].encode())
    return sorted(set(owner[first : max(last, first + 1)]))


@example("é", [1], [(0, 1), (1, 1)])
@settings(deadline=None)
@given(
    st.text(st.sampled_from('a"é日😀'), max_size=12),
    st.lists(st.integers(0, 40), max_size=12),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=5),
)
def test_tokens_overlap_a_span_that_share_a_byte_with_it(text: str, cuts: list[int], spans: list[tuple[int, int]]):
    """Tokens cut anywhere, in the middle of characters too; some are empty."""
    data = text.encode()
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(bounds)]
    spans = [(min(a, b, len(text)), min(max(a, b), len(text))) for a, b in spans]
    found = token_spans(spans, pieces)
    for (start, end), tokens in zip(spans, found, strict=True):
        assert [token for token in tokens if pieces[token]] == _overlapping(start, end, pieces)
        if tokens:
            assert pieces[tokens[0]]
            assert pieces[tokens[-1]]


def test_the_tokens_of_leaves():
    pieces = [b'{"na', b'me":', b' "', b"Zo", b"\xc3", b'\xab"', b', "x": ""', b"}"]
    text = b"".join(pieces).decode()
    name, empty = leaves(text)
    assert token_spans([name.span, empty.span], pieces) == [range(3, 6), range(6, 7)]


def test_spans_and_bytes_that_do_not_fit_are_refused():
    for span in ((0, 3), (-1, 1), (2, 1)):
        with pytest.raises(ValueError, match=r"is not within the text of 2 characters"):
            token_spans([span], ["é".encode(), b"a"])
    with pytest.raises(ValueError, match="utf-8"):
        token_spans([], [b"\xc3"])
