"""Words that values are made of, and the fifth of them that training never sees."""

import re
from functools import cache
from importlib.resources import files
from zlib import crc32

_HELD_OUT = 5


def held_out(name: str) -> bool:
    """Tell whether training never sees it: the same fifth of all names, on every machine and whatever else there is."""
    return crc32(name.encode()) % _HELD_OUT == 0


@cache
def words(name: str) -> tuple[str, ...]:
    """The lines of a file in ``words/``."""
    return tuple((files(__package__) / "words" / f"{name}.txt").read_text("utf-8").splitlines())


@cache
def pool(name: str, held: bool) -> tuple[str, ...]:
    """The words that training sees, or the others."""
    return tuple(word for word in words(name) if held_out(word) == held)


@cache
def any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the words, in the plural as well. A capital counts: many names are words besides."""
    ways = [re.escape(word) if word[0].isupper() else f"(?i:{re.escape(word)})" for word in words]
    return re.compile(rf"(?<!\w)(?:{'|'.join(ways)})(?:e?s)?(?!\w)")
