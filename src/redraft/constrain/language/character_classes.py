"""The escapes \\d, \\w and \\s in the dialects of regular expressions: ASCII in JavaScript and RE2, Unicode in others.

Python, Rust and .NET read them by Unicode, each a little differently; JavaScript's \\s is of a third kind.
"""

import sys
import unicodedata
from collections.abc import Callable
from functools import cache

from redraft.constrain.expression import Characters

LETTERS = "dDsSwW"

_IN_ALL = {
    "d": Characters.among("0123456789"),
    "w": Characters.of([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]),
    # RE2's has no vertical tab.
    "s": Characters.among(" \t\n\f\r"),
}
# Zero-width joiners are parts of words, the byte order mark is JavaScript's white space.
_JOINERS, _BYTE_ORDER_MARK = "\u200c\u200d", "\ufeff"


def in_all_dialects(letter: str) -> Characters:
    """The characters that \\ and one of ``LETTERS`` matches in every dialect."""
    return _IN_ALL[letter] if letter.islower() else in_any_dialect(letter.lower()).complement()


@cache
def in_any_dialect(letter: str) -> Characters:
    """The characters that \\ and one of ``LETTERS`` matches in some dialect."""
    if letter.isupper():
        return in_all_dialects(letter.lower()).complement()
    belongs = _IN_SOME[letter]
    return Characters.of([(point, point) for point in range(sys.maxunicode + 1) if belongs(chr(point))])


def _is_word(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] in "LNM" or category == "Pc" or character.isalnum() or character in _JOINERS


_IN_SOME: dict[str, Callable[[str], bool]] = {
    "d": str.isdecimal,
    "w": _is_word,
    "s": lambda character: character.isspace() or character == _BYTE_ORDER_MARK,
}
