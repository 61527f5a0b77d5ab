"""The patterns of JSON schemas: texts in which a regular expression is found somewhere.

Readers' dialects differ about some characters. A text matches *certainly* if it does so to all readers, and *possibly*
if it may do so to some.
"""

from functools import lru_cache

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.expression import EMPTY, Expression, Literal, Repeat, any_of, joined, optional
from redraft.constrain.language import regex
from redraft.constrain.language.json.text import ANY_CHARACTER


@lru_cache(512)
def automaton(pattern: str, possibly: bool) -> ByteAutomaton:
    """The automaton of ``searched``."""
    return byte_automaton.build(searched(pattern, possibly=possibly))


def searched(pattern: str, *, possibly: bool = False) -> Expression:
    """Texts in which ``pattern`` is found somewhere, certainly or ``possibly``.

    ^ and $ fix it to the ends, each of its options for itself.
    """
    around = Repeat(ANY_CHARACTER, 0, None)
    found = []
    for option in _options(pattern):
        # Python's $ overlooks a line feed at the end.
        ending = optional(Literal("\n")) if possibly else EMPTY
        following = ending if _ends_anchored(option) else around
        text = regex.parse(option, any_dialect=possibly, following=following)
        found.append(text if option.startswith("^") else joined(around, text))
    return any_of(*found)


def _options(pattern: str) -> list[str]:
    """The pattern cut at each | that is in no group and no class."""
    options, start, groups, in_class, position = [], 0, 0, False, 0
    while position < len(pattern):
        character = pattern[position]
        if character == "\\":
            position += 1
        elif in_class or character == "[":
            in_class = character != "]"
        elif character in "()":
            groups += 1 if character == "(" else -1
        elif character == "|" and groups == 0:
            options.append(pattern[start:position])
            start = position + 1
        position += 1
    return [*options, pattern[start:]]


def _ends_anchored(option: str) -> bool:
    before = option.removesuffix("$")
    escapes = len(before) - len(before.rstrip("\\"))
    return before != option and escapes % 2 == 0
