"""Regular expressions in the common syntax of Python, JavaScript (JSON schema) and RE2, as expressions over text.

A pattern matches the whole text. Where dialects read the same syntax differently, a text is one that matches in all of
them: ``\\d``, ``\\w`` and ``\\s`` are ASCII; ``\\D``, ``\\W`` and ``\\S`` are no digit, no part of a word and no white
space of any script; ``.`` is no line end. Lookahead may stand outside all groups, where all of the text that follows
is known. What they write differently is refused, and so are lookbehind and back-references.
"""

import re
from dataclasses import dataclass
from typing import NoReturn

from redraft.constrain.expression import (
    EMPTY,
    LAST_CODE_POINT,
    AllOf,
    AnyOf,
    Characters,
    Expression,
    Literal,
    Repeat,
    Sequence,
    Without,
    optional,
)
from redraft.constrain.language import character_classes
from redraft.errors import ConstraintError

_MAX_GROUP_DEPTH = 100
_MAX_COUNT = 1_000_000

_ANYTHING = Repeat(Characters.of([(0, LAST_CODE_POINT)]), 0, None)
# Python's dot leaves out the line feed only, JavaScript's all that ends a line.
_LINE_FEED = Characters.among("\n")
_LINE_ENDS = Characters.among("\n\r\u2028\u2029")
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_REPEATS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_HEX_ESCAPE = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}")
_LOW_SURROGATE = re.compile(r"\\u([dD][c-fC-F][0-9A-Fa-f]{2})")
_COUNT = re.compile(r"\{([0-9]+)(,)?([0-9]+)?\}")
_COUNT_BEGINS = re.compile(r"\{[0-9,]")  # other braces are characters, as Python and JavaScript read them
_FLAGS = re.compile(r"\(\?[A-Za-z^]*-?[A-Za-z]*[:)]")
_NAME = re.compile(r"\(\?P?<([A-Za-z_][A-Za-z0-9_]*)>")

# By how they begin, the longest first.
_REFUSED_GROUPS = {
    "(?<=": "lookbehind (?<=...)",
    "(?<!": "negative lookbehind (?<!...)",
    "(?=": "lookahead (?=...) inside a group",
    "(?!": "negative lookahead (?!...) inside a group",
    "(?>": "the atomic group (?>...)",
    "(?P=": "the back-reference (?P=...)",
    "(?P>": "recursion (?P>...)",
    "(?#": "the comment (?#...)",
    "(?(": "the conditional (?(...)...)",
    "(?|": "the branch reset (?|...)",
    "(?&": "recursion (?&...)",
    "(?R": "recursion (?R)",
}
_REFUSED_ESCAPES = {
    "b": "the word boundary \\b",
    "B": "the word boundary \\B",
    "A": "the anchor \\A",
    "Z": "the anchor \\Z",
    "z": "the anchor \\z",
    "G": "the anchor \\G",
    "k": "the back-reference \\k",
    "g": "the back-reference \\g",
    "p": "the Unicode property \\p",
    "P": "the Unicode property \\P",
    "c": "the control character \\c",
}


def parse(pattern: str, *, any_dialect: bool = False, following: Expression = EMPTY) -> Expression:
    """The expression of the texts that the whole of ``pattern`` matches in every dialect, or in ``any_dialect``.

    ``following`` is what comes after it, up to the end of the text, which lookahead sees too. ``^`` at the very start
    and ``$`` at the very end say nothing more and may stand there. Groups only group; a lazy repeat matches the same
    texts as a greedy one. Raise ConstraintError, with the position, for anything else.
    """
    return _Parser(pattern, any_dialect, following).parse()


@dataclass(frozen=True)
class _Ahead:
    """An expression that the text from here on to its end must match, or must not."""

    text: Expression
    negative: bool


class _Level:
    """An open group: the options that are complete, and the parts of the one being read."""

    def __init__(self, opened: int, following: Expression = EMPTY, negative: bool | None = None) -> None:
        """``negative`` is None for what is no lookahead, and ``following`` comes after each of its options."""
        self.opened = opened
        self.following = following
        self.negative = negative
        self.parts: list[Expression] = []
        self._ahead: list[tuple[int, _Ahead]] = []
        self._options: list[Expression] = []

    def look_ahead(self, ahead: _Ahead) -> None:
        """Add what must follow the parts that there are."""
        self._ahead.append((len(self.parts), ahead))

    def next_option(self, following: Expression | None = None) -> None:
        """Begin another option; ``following`` is what comes after the last one, in the place of the level's."""
        following = self.following if following is None else following
        parts = self.parts if following == EMPTY else [*self.parts, following]
        for at, ahead in reversed(self._ahead):
            rest = _sequence(parts[at:])
            held = Without(rest, ahead.text) if ahead.negative else AllOf((rest, ahead.text))
            parts = [*parts[:at], held]
        self._options.append(_sequence(parts))
        self.parts, self._ahead = [], []

    def finish(self, following: Expression | None = None) -> Expression:
        self.next_option(following)
        return self._options[0] if len(self._options) == 1 else AnyOf(tuple(self._options))


def _sequence(parts: list[Expression]) -> Expression:
    """The parts one after the other, with characters that follow one another as one text."""
    merged: list[Expression] = []
    for part in parts:
        if isinstance(part, Literal) and merged and isinstance(merged[-1], Literal):
            merged[-1] = Literal(merged[-1].text + part.text)
        else:
            merged.append(part)
    return merged[0] if len(merged) == 1 else Sequence(tuple(merged))


class _Parser:
    """Reads a pattern from left to right; open groups wait on a stack of their own, not on Python's."""

    def __init__(self, pattern: str, any_dialect: bool, following: Expression) -> None:
        self._pattern = pattern
        self._any_dialect = any_dialect
        self._position = 0
        self._levels = [_Level(0, following)]
        # What the option of a lookahead that was ended by a $ is followed by.
        self._ended: Expression | None = None
        self._names: set[str] = set()
        # Whether what was read last is something that a repeat can follow.
        self._repeatable = False

    def parse(self) -> Expression:
        while self._position < len(self._pattern):
            self._read()
        if len(self._levels) > 1:
            self._fail("the group is never closed; add a )", self._levels[-1].opened)
        return self._levels[0].finish()

    def _read(self) -> None:
        character = self._pattern[self._position]
        if character in _REPEATS or _COUNT_BEGINS.match(self._pattern, self._position):
            self._read_repeat()
        elif character == "(":
            self._open_group()
        elif character == ")":
            self._close_group()
        elif character == "|":
            self._position += 1
            self._levels[-1].next_option(self._take_ended())
            self._repeatable = False
        elif character in "^$":
            self._read_anchor(character)
        else:
            self._levels[-1].parts.append(self._read_character())
            self._repeatable = True

    def _read_character(self) -> Expression:
        character = self._pattern[self._position]
        if character == "[":
            return self._read_set()
        if character == "\\":
            escaped = self._read_escape()
            return Literal(escaped) if isinstance(escaped, str) else escaped
        self._position += 1
        if character == ".":
            return (_LINE_FEED if self._any_dialect else _LINE_ENDS).complement()
        return Literal(self._checked(character, self._position - 1))

    def _take_ended(self) -> Expression | None:
        ended, self._ended = self._ended, None
        return ended

    def _read_anchor(self, character: str) -> None:
        if self._levels[-1].negative is not None and self._in_lookahead(character):
            return
        if self._position != (0 if character == "^" else len(self._pattern) - 1):
            edge = "start" if character == "^" else "end"
            self._fail(
                f"{character} is allowed only at the very {edge}: a pattern matches the whole text anyway; leave it "
                f"out, or write \\{character} for the character"
            )
        self._position += 1
        self._repeatable = False

    def _in_lookahead(self, character: str) -> bool:
        """Read an anchor that says something inside a lookahead: a ^ at the start of the text, a $ before the end."""
        at, level = self._position, self._levels[-1]
        if character == "^":
            first = at == level.opened + 3 and self._pattern[: level.opened] in ("", "^")
        else:
            first = self._pattern[at + 1 : at + 2] in ("|", ")")
            if first:
                # Python's $ overlooks a line feed at the end.
                self._ended = optional(Literal("\n")) if self._any_dialect else EMPTY
        if first:
            self._position += 1
            self._repeatable = False
        return first

    def _open_lookahead(self) -> None:
        negative = self._pattern[self._position + 2] == "!"
        self._levels.append(_Level(self._position, _ANYTHING, negative))
        # What is ruled out in some dialect is not certain to be allowed.
        self._any_dialect ^= negative
        self._position += 3
        self._repeatable = False

    def _open_group(self) -> None:
        at, pattern = self._position, self._pattern
        if len(self._levels) == 1 and pattern.startswith(("(?=", "(?!"), at):
            self._open_lookahead()
            return
        if len(self._levels) > _MAX_GROUP_DEPTH:
            self._fail(f"groups stand inside one another more than {_MAX_GROUP_DEPTH} deep; write it flatter")
        name = _NAME.match(pattern, at)
        if name:
            if name[1] in self._names:
                self._fail(f"two groups have the name {name[1]}; rename one, or leave the names out")
            self._names.add(name[1])
            self._position = name.end()
        elif pattern.startswith("(?:", at):
            self._position += 3
        elif pattern.startswith("(?", at):
            self._fail_group()
        else:
            self._position += 1
        self._levels.append(_Level(at))
        self._repeatable = False

    def _fail_group(self) -> NoReturn:
        for begin, name in _REFUSED_GROUPS.items():
            if self._pattern.startswith(begin, self._position):
                self._refuse(name)
        if self._pattern.startswith(("(?<", "(?P<"), self._position):
            self._fail("a group's name must be ASCII letters, digits and _, no digit first, between < and >")
        flags = _FLAGS.match(self._pattern, self._position)
        if flags:
            self._refuse(f"the inline flag group {flags[0]}")
        self._fail("the group begins in a way that is not known; write ( or (?: for a group, \\( for the character")

    def _close_group(self) -> None:
        if len(self._levels) == 1:
            self._fail("this ) closes no group; write \\) for the character")
        self._position += 1
        level = self._levels.pop()
        group = level.finish(self._take_ended())
        if level.negative is not None:
            self._any_dialect ^= level.negative
            self._levels[-1].look_ahead(_Ahead(group, level.negative))
        else:
            self._levels[-1].parts.append(group)
        self._repeatable = level.negative is None

    def _read_repeat(self) -> None:
        at = self._position
        low, high = self._read_bounds()
        if not self._repeatable:
            self._fail(f"{self._pattern[at]} has nothing to repeat; write \\{self._pattern[at]} for the character", at)
        following = self._pattern[self._position : self._position + 1]
        if following == "+":
            self._refuse(f"the possessive repeat {self._pattern[at : self._position + 1]}", at)
        if following == "?":
            self._position += 1
        parts = self._levels[-1].parts
        parts.append(Repeat(parts.pop(), low, high))
        self._repeatable = False

    def _read_bounds(self) -> tuple[int, int | None]:
        at = self._position
        if self._pattern[at] in _REPEATS:
            self._position += 1
            return _REPEATS[self._pattern[at]]
        found = _COUNT.match(self._pattern, at)
        if not found:
            self._fail("the count is none of {m}, {m,} and {m,n}; write \\{ for the character")
        if len(found[1]) > 7 or len(found[3] or "") > 7:
            self._fail(f"the count {found[0][:20]} is too large; at most {_MAX_COUNT} is possible")
        low = int(found[1])
        high = int(found[3]) if found[3] else None if found[2] else low
        if max(low, high or 0) > _MAX_COUNT:
            self._fail(f"the count {found[0]} is too large; at most {_MAX_COUNT} is possible")
        if high is not None and high < low:
            self._fail(f"the count {found[0]} ends below its start; write {{{high},{low}}}")
        self._position = found.end()
        return low, high

    def _read_set(self) -> Characters:
        """Read a class in brackets."""
        opened = self._position
        self._position += 1
        negated = self._pattern.startswith("^", self._position)
        self._position += negated
        if self._pattern.startswith("]", self._position):
            self._fail("a class begins with ], which dialects understand differently; write \\] for the character")
        # What is in the class in some dialect is outside the negated class in that dialect.
        self._any_dialect ^= negated
        ranges: list[tuple[int, int]] = []
        while not self._pattern.startswith("]", self._position):
            ranges += self._read_range(opened)
        self._any_dialect ^= negated
        self._position += 1
        characters = Characters.of(ranges)
        return characters.complement() if negated else characters

    def _read_range(self, opened: int) -> tuple[tuple[int, int], ...]:
        """Read one item of a class: a character, a range or an escape for several."""
        at, pattern = self._position, self._pattern
        first = self._read_member(opened)
        if not pattern.startswith("-", self._position) or pattern.startswith("-]", self._position):
            return first.ranges if isinstance(first, Characters) else ((ord(first), ord(first)),)
        self._position += 1
        last = self._read_member(opened)
        written = pattern[at : self._position]
        if isinstance(first, Characters) or isinstance(last, Characters):
            self._fail(f"the range {written} has an end that is no single character; write \\- for the character -", at)
        if last < first:
            self._fail(f"the range {written} ends below its start; write {_shown(last)}-{_shown(first)}", at)
        return ((ord(first), ord(last)),)

    def _read_member(self, opened: int) -> str | Characters:
        pattern, at = self._pattern, self._position
        if at >= len(pattern):
            self._fail("the class is never closed; add a ], or write \\[ for the character", opened)
        if pattern[at] == "\\":
            if pattern.startswith("\\b", at):
                self._position += 2
                return "\b"
            return self._read_escape()
        if pattern.startswith(("[:", "[=", "[."), at):
            self._fail(
                "a POSIX class such as [:alpha:] is not supported; write its characters, or \\[ for the character ["
            )
        self._position += 1
        return self._checked(pattern[at], at)

    def _read_escape(self) -> str | Characters:
        pattern, at = self._pattern, self._position
        letter = pattern[at + 1 : at + 2]
        if not letter:
            self._fail("a single \\ ends the pattern; write \\\\ for the character")
        if letter in "xu":
            return self._read_code_point()
        self._position += 2
        if letter in character_classes.LETTERS:
            in_dialects = character_classes.in_any_dialect if self._any_dialect else character_classes.in_all_dialects
            return in_dialects(letter)
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter == "0" and not pattern[at + 2 : at + 3].isdigit():
            return "\0"
        if letter in _REFUSED_ESCAPES:
            self._refuse(_REFUSED_ESCAPES[letter], at)
        if letter == "0":
            self._refuse("the octal escape \\0...; write \\xHH", at)
        if letter.isascii() and letter.isdigit():
            self._refuse(f"the back-reference \\{letter}", at)
        if letter.isascii() and letter.isalpha():
            self._fail(f"the escape \\{letter} is not known; write {letter} for the character", at)
        return self._checked(letter, at)

    def _read_code_point(self) -> str:
        at = self._position
        found = _HEX_ESCAPE.match(self._pattern, at + 1)
        if not found:
            self._fail("the escape is none of \\xHH, \\uHHHH and \\u{H...} with hexadecimal digits H")
        point = int(found[1] or found[2] or found[3], 16)
        self._position = found.end()
        low = _LOW_SURROGATE.match(self._pattern, self._position)
        if found[2] and 0xD800 <= point < 0xDC00 and low:
            point = 0x10000 + ((point - 0xD800) << 10) + int(low[1], 16) - 0xDC00
            self._position = low.end()
        if point > LAST_CODE_POINT:
            self._fail(f"{found[0]} is above the last code point, 10FFFF", at)
        return self._checked(chr(point), at)

    def _checked(self, character: str, at: int) -> str:
        if "\ud800" <= character <= "\udfff":
            self._fail(f"{_shown(character)} is half a surrogate pair, which is no character", at)
        return character

    def _refuse(self, construct: str, at: int | None = None) -> NoReturn:
        self._fail(f"{construct} is not supported", at)

    def _fail(self, problem: str, at: int | None = None) -> NoReturn:
        at = self._position if at is None else at
        begin, end = max(at - 30, 0), at + 50
        excerpt = "..." * (begin > 0) + self._pattern[begin:end] + "..." * (end < len(self._pattern))
        raise ConstraintError(f"regular expression, position {at} (in {excerpt!a}): {problem}")


def _shown(character: str) -> str:
    return character if character.isprintable() else f"\\u{{{ord(character):X}}}"
