"""Text that spells special tokens and means none: the places at which to cut it, so that no tokenizer finds one."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from redraft.errors import RequestError

# Unicode's noncharacters: no text that is exchanged has them.
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
# Characters that are looked through in a millisecond or two.
_AT_ONCE = 1 << 16


class SpecialNames:
    """The names of special tokens, and where a text spells one."""

    def __init__(self, names: Iterable[str]) -> None:
        # One character cannot be cut.
        self._names = frozenset(name for name in names if len(name) > 1)
        self._lengths = sorted({len(name) for name in self._names}, reverse=True)
        self._starts = re.compile(f"(?=(?:{_any_of(self._names)}))") if self._names else None
        self._prefixes = {name[:count] for name in self._names for count in range(1, len(name))}
        self._suffixes = {name[-count:] for name in self._names for count in range(1, len(name))}

    def cut(self, text: str) -> list[str]:
        """Cut a text in the midst of every name that it spells."""
        places = [start + 1 for start in self._found(text)]
        return [text[start:end] for start, end in pairwise([0, *places, len(text)])]

    def marked(self, text: str, mark: str) -> str:
        """Return the text with ``mark`` within every name that it spells, and within what may be the beginning of one
        at its end, or the end of one at its beginning: something else may be written beside it."""
        if self._starts is None:
            return text
        places = {start + 1 for start in self._found(text)} | self._at_the_borders(text)
        return mark.join(text[start:end] for start, end in pairwise([0, *sorted(places), len(text)]))

    def needed(self, text: str, mark: str) -> list[str]:
        """Cut a text at those of its marks without which it would spell a name."""
        pieces = text.split(mark)
        plain = "".join(pieces)
        spans = [(start, start + self._longest(plain, start)) for start in self._found(plain)]
        cuts, at = [], 0
        for piece in pieces[:-1]:
            at += len(piece)
            if any(start < at < end for start, end in spans):
                cuts.append(at)
        return [plain[start:end] for start, end in pairwise([0, *cuts, len(plain)])]

    def _found(self, text: str) -> list[int]:
        if self._starts is None:
            return []
        # The interpreter's lock is held until the next name is found, which may be far.
        found, beyond = [], self._lengths[0] - 1
        for begin in range(0, len(text), _AT_ONCE):
            end = begin + _AT_ONCE
            matches = self._starts.finditer(text, begin, end + beyond)
            found += [match.start() for match in matches if match.start() < end]
        return found

    def _longest(self, text: str, start: int) -> int:
        return next(length for length in self._lengths if text[start : start + length] in self._names)

    def _at_the_borders(self, text: str) -> set[int]:
        """Templates strip what they are given, so spaces around a text are no border."""
        first, last = len(text) - len(text.lstrip()), len(text.rstrip())
        longest = min(self._lengths[0] - 1, max(0, last - first))
        counts = range(1, longest + 1)
        ends = {last - count + 1 for count in counts if text[last - count : last] in self._prefixes}
        begins = {first + count - 1 for count in counts if text[first : first + count] in self._suffixes}
        return ends | begins


def mark_for(texts: Iterable[str]) -> str:
    """Choose a character that none of ``texts`` has; RequestError where they have all of them."""
    known = list(texts)
    mark = next((mark for mark in _MARKS if not any(mark in text for text in known)), None)
    if mark is None:
        raise RequestError("the messages hold every one of Unicode's noncharacters U+FDD0 to U+FDEF; leave one out")
    return mark


def texts_in(value: Any) -> Iterable[str]:
    """Yield all texts in what JSON can hold, keys of mappings among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from texts_in(name)
            yield from texts_in(one)
    elif isinstance(value, Sequence):
        for one in value:
            yield from texts_in(one)


def with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return ``value`` with every text in it changed; see ``texts_in``."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {with_texts(name, change): with_texts(one, change) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [with_texts(one, change) for one in value]
    return value


def _any_of(names: Collection[str]) -> str:
    """Write a pattern that matches where one of the names begins, as a tree: the time does not grow with the names."""
    if "" in names:
        return ""
    by_first: dict[str, set[str]] = {}
    for name in names:
        by_first.setdefault(name[0], set()).add(name[1:])
    branches = [re.escape(first) + _any_of(rest) for first, rest in sorted(by_first.items())]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
