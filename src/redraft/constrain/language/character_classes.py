"""The escapes \\d, \\w and \\s in the dialects of regular expressions: ASCII in JavaScript and RE2, Unicode in others.

Python, Rust and .NET read them by Unicode, each a little differently; JavaScript's \\s is of a third kind.
"""

import re
import sys
import unicodedata
from functools import cache

from redraft.constrain.expression import Characters

LETTERS = "dDsSwW"

_IN_ALL = {
    "d": Characters.among("0123456789"),
    "w": Characters.of([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]),
    # RE2's has no vertical tab.
    "s": Characters.among(" \t\n\f\r"),
}


def in_all_dialects(letter: str) -> Characters:
    """The characters that \\ and one of ``LETTERS`` matches in every dialect."""
    return _IN_ALL[letter] if letter.islower() else in_any_dialect(letter.lower()).complement()


@cache
def in_any_dialect(letter: str) -> Characters:
    """The characters that \\ and one of ``LETTERS`` matches in some dialect."""
    if letter.isupper():
        return in_all_dialects(letter.lower()).complement()
    # Each character stands where its number says.
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    runs = [found.span() for found in re.finditer(_IN_SOME[letter], every)]
    if letter == "w":
        categories = "".join(map(unicodedata.category, every))
        runs += [(start // 2, end // 2) for start, end in (found.span() for found in _IN_WORDS.finditer(categories))]
    return Characters.of([(start, end - 1) for start, end in runs])


# Python's own, with zero-width joiners, which are parts of words, and the byte order mark, JavaScript's white space.
_IN_SOME = {"d": r"\d+", "w": r"[\w\u200c\u200d]+", "s": r"[\s\ufeff]+"}
# Of two letters each: letters, numbers, marks and what connects words.
_IN_WORDS = re.compile("(?:[LNM][a-z]|Pc)+")
