"""The place of each value in a JSON text: its path, its characters and its tokens."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Key = str | int
Scalar = str | int | float | bool | None
# RFC 8259, to the letter: json.loads reads NaN too, and \d other scripts' digits.
_SPACE = re.compile(r"[ \t\n\r]*")
_EMPTY = re.compile(r"\[[ \t\n\r]*\]|\{[ \t\n\r]*\}")
_STRING = re.compile(r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*"')
_SCALAR = re.compile(rf"{_STRING.pattern}|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_SHOWN = 20


@dataclass(frozen=True)
class Leaf:
    """A string, number, true, false or null, or an array or object without anything in it, and where it stands."""

    path: tuple[Key, ...]
    """The keys of objects and the indices in arrays that lead to it; empty for a text that is one leaf."""
    value: Scalar | list[object] | dict[str, object]
    start: int
    """The index of its first character; for a string, the one after the opening quote."""
    end: int
    """The index after its last character; for a string, the closing quote."""

    @property
    def pointer(self) -> str:
        """The path as a JSON pointer (RFC 6901), such as ``/people/0/name``; empty for a text that is one leaf."""
        return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in self.path)

    @property
    def span(self) -> tuple[int, int]:
        """The characters: ``text[slice(*leaf.span)]`` is the value as it is written, escapes and all."""
        return self.start, self.end


def leaves(text: str) -> list[Leaf]:
    """The leaves of a JSON text in their order, however deep.

    The last value of a key that an object has twice counts, as for ``json.loads``. Raises ValueError, with the
    position, for what is not one JSON value.
    """
    found: dict[tuple[Key, ...], Leaf] = {}
    # The key or index in each array and object that is open.
    path: list[Key] = []
    at = _after_space(text, 0)
    while True:
        if (opening := text[at : at + 1]) in ("[", "{") and not _EMPTY.match(text, at):
            path.append(0)
            at = _after_space(text, at + 1) if opening == "[" else _read_key(text, at + 1, path, found)
            continue
        leaf = _leaf(text, at, tuple(path))
        found[leaf.path] = leaf
        at = _after_space(text, leaf.end + isinstance(leaf.value, str))
        while path and text[at : at + 1] == _closing(path[-1]):
            path.pop()
            at = _after_space(text, at + 1)
        if not path:
            break
        _expect(",", text, at)
        if isinstance(index := path[-1], int):
            path[-1], at = index + 1, _after_space(text, at + 1)
        else:
            at = _read_key(text, at + 1, path, found)
    if at < len(text):
        raise _malformed(text, at, "the end of the text")
    return list(found.values())


def token_spans(spans: Iterable[tuple[int, int]], pieces: Sequence[bytes]) -> list[range]:
    """The tokens that share a byte with each span of characters, given the bytes of each token of the whole text.

    A span without characters, such as that of an empty string, has the token of the character that follows it: the
    one that says that nothing stands there. Raises ValueError where the bytes are not UTF-8, or a span is not within
    their text.
    """
    data = b"".join(pieces)
    length = len(data.decode())
    codes = np.frombuffer(data, dtype=np.uint8)
    # Where each character starts: at every byte that does not go on with one.
    byte = np.append(np.flatnonzero(codes & 0xC0 != 0x80), len(data))
    first_byte = np.cumsum([0, *map(len, pieces)])
    found = []
    for start, end in spans:
        if not 0 <= start <= end <= length:
            raise ValueError(f"span ({start}, {end}) is not within the text of {length} characters")
        first = int(np.searchsorted(first_byte, byte[start], side="right")) - 1
        last = int(np.searchsorted(first_byte, byte[end], side="left"))
        found.append(range(first, min(max(last, first + 1), len(pieces))))
    return found


def _leaf(text: str, at: int, path: tuple[Key, ...]) -> Leaf:
    match = _EMPTY.match(text, at) or _SCALAR.match(text, at)
    if match is None:
        raise _malformed(text, at, "a value")
    quote = int(text[at] == '"')
    return Leaf(path, json.loads(match[0]), at + quote, match.end() - quote)


def _read_key(text: str, at: int, path: list[Key], found: dict[tuple[Key, ...], Leaf]) -> int:
    """Read an object's next key and its colon into the last place of the path; return where the value starts.

    Values found under the same key before no longer count.
    """
    at = _after_space(text, at)
    match = _STRING.match(text, at)
    if match is None:
        raise _malformed(text, at, "a key in double quotes")
    path[-1] = json.loads(match[0])
    for replaced in [known for known in found if known[: len(path)] == tuple(path)]:
        del found[replaced]
    at = _after_space(text, match.end())
    _expect(":", text, at)
    return _after_space(text, at + 1)


def _closing(key: Key) -> str:
    return "]" if isinstance(key, int) else "}"


def _after_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return at if space is None else space.end()


def _expect(mark: str, text: str, at: int) -> None:
    if text[at : at + 1] != mark:
        raise _malformed(text, at, repr(mark))


def _malformed(text: str, at: int, expected: str) -> ValueError:
    there = repr(text[at : at + _SHOWN]) if at < len(text) else "the end"
    return ValueError(f"position {at} (at {there}): the text is not JSON, which has {expected} here")
