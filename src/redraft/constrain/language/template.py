"""Text with holes: a fixed frame, and the texts that each named hole may hold."""

import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.expression import AllOf, Characters, Expression, Literal, Repeat, any_of, joined
from redraft.constrain.language import regex
from redraft.constrain.language.json import text as json_text
from redraft.constrain.language.json.text import ANY_CHARACTER, IN_A_LINE, Layout
from redraft.errors import ConstraintError

HoleType = typing.Literal["integer", "number", "boolean", "string", "line", "word", "json"]

_JSON_DEPTH = 3
_PIECE = re.compile(r"[^{}]+|\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TYPES: dict[str, Expression] = {
    "integer": json_text.INTEGER,
    "number": json_text.NUMBER,
    "boolean": any_of("true", "false"),
    "string": Repeat(ANY_CHARACTER, 0, None),
    "line": Repeat(IN_A_LINE, 0, None),
    "word": Repeat(
        Characters.of([(ord(c), ord(c)) for c in map(chr, range(0x3001)) if c.isspace()]).complement(), 1, None
    ),
    "json": json_text.any_value(Layout.of("compact"), _JSON_DEPTH),
}


@dataclass(frozen=True)
class Hole:
    """The texts that may stand in a hole: those of a regular expression, several options, or a type ("string").

    ``type`` is "integer", "number" or "json" (as in JSON, compact), "boolean" (true or false), "string" (any text),
    "line" (any text without a line end) or "word" (one character or more, none of them white space). The lengths are in
    characters and hold besides.
    """

    regex: str | None = None
    choices: tuple[str, ...] | None = None
    type: HoleType | None = None
    min_length: int | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("regex", "choices", "type") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConstraintError(f"a hole has {' and '.join(given)}; give one of them")
        if self.regex is not None and not isinstance(self.regex, str):
            raise ConstraintError(f"the hole's regex {self.regex!r} must be a text")
        if self.type is not None and (not isinstance(self.type, str) or self.type not in _TYPES):
            raise ConstraintError(f"hole type {self.type!r} is unknown; use one of {', '.join(_TYPES)}")
        if self.choices is not None:
            # A string is a sequence of strings too, and a list would make the hole unhashable.
            if isinstance(self.choices, str) or not isinstance(self.choices, Iterable):
                raise ConstraintError(f"choices {self.choices!r} must be several texts, such as ('yes', 'no')")
            choices = tuple(self.choices)
            if not all(isinstance(choice, str) for choice in choices):
                raise ConstraintError(f"choices {self.choices!r} must be several texts, such as ('yes', 'no')")
            object.__setattr__(self, "choices", choices)
            if not self.choices:
                raise ConstraintError("choices is empty; give at least one text")
        self._check_lengths()

    def _check_lengths(self) -> None:
        for name in ("min_length", "max_length"):
            length = getattr(self, name)
            if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 0):
                raise ConstraintError(f"{name} {length!r} must be an integer, 0 or more")
        if self.max_length is not None and (self.min_length or 0) > self.max_length:
            raise ConstraintError(f"min_length {self.min_length} is above max_length {self.max_length}")

    @property
    def expression(self) -> Expression:
        """The texts that may stand in the hole."""
        content = self._content
        if self.min_length is None and self.max_length is None:
            return content
        length = Repeat(ANY_CHARACTER, self.min_length or 0, self.max_length)
        return length if content == _TYPES["string"] else AllOf((content, length))

    @property
    def _content(self) -> Expression:
        if self.regex is not None:
            return regex.parse(self.regex)
        if self.choices is not None:
            return any_of(*self.choices)
        return _TYPES[self.type or "string"]


@dataclass(frozen=True)
class _Part:
    """A piece of the frame, or a hole, which has a name."""

    content: Expression
    name: str | None = None


def expression(text: str, holes: Mapping[str, Hole]) -> Expression:
    """``text`` with each hole ``{name}`` filled in; ``{{`` and ``}}`` stand for braces. Each name stands there once."""
    return joined(*(part.content for part in _parts(text, holes)))


def escaped(text: str) -> str:
    """``text`` as a template without holes."""
    return text.replace("{", "{{").replace("}", "}}")


def names(text: str) -> list[str]:
    """The names of the holes, in the order in which they stand."""
    return [name for _, name in pieces(text) if name is not None]


def values(text: str, holes: Mapping[str, Hole], produced: str) -> dict[str, str]:
    """The values in the holes of a produced text, by name.

    If there is more than one way to read it, holes are as short as possible, the leftmost first.
    """
    parts = _parts(text, holes)
    encoded = produced.encode(errors="surrogatepass")
    automata = [byte_automaton.build(part.content) for part in parts]
    # The positions from which each part, and all after it, can be read to the end.
    readable = [np.arange(len(encoded) + 1) == len(encoded)]
    for automaton in reversed(automata):
        readable.insert(0, _starts(automaton, encoded, readable[0]))
    if not readable[0][0]:
        raise ConstraintError("the text was not produced from this template: it cannot be read back")
    found, position = {}, 0
    for part, automaton, ends in zip(parts, automata, readable[1:], strict=True):
        end = _nearest_end(automaton, encoded, position, ends)
        if part.name is not None:
            found[part.name] = encoded[position:end].decode()
        position = end
    return found


def _parts(text: str, holes: Mapping[str, Hole]) -> list[_Part]:
    parts: list[_Part] = []
    seen = set()
    for piece, name in pieces(text):
        if name is None:
            parts.append(_Part(Literal(piece)))
            continue
        if name in seen:
            raise ConstraintError(f"template: the hole {{{name}}} stands there twice; give the second another name")
        if name not in holes:
            raise ConstraintError(f"template: the hole {{{name}}} is not described; add it to the holes, or write {{{{")
        seen.add(name)
        parts.append(_Part(_content(name, holes[name]), name))
    unused = [name for name in holes if name not in seen]
    if unused:
        raise ConstraintError(f"template: the text has no hole {{{unused[0]}}}; add it to the text, or take it away")
    return parts


def _content(name: str, hole: Hole) -> Expression:
    try:
        return hole.expression
    except ConstraintError as error:
        raise ConstraintError(f"template: the hole {{{name}}}: {error}") from None


def pieces(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield (text, None) for each piece of the frame and ("", name) for each hole, in their order."""
    position = 0
    while position < len(text):
        match = _PIECE.match(text, position)
        if match is None:
            raise ConstraintError(
                f"template, position {position} (at {text[position : position + 20]!r}): a brace that is neither a "
                "hole {name} nor doubled; write {{ or }} for the character"
            )
        yield ("", match[1]) if match[1] else (match[0].replace("{{", "{").replace("}}", "}"), None)
        position = match.end()


def _starts(automaton: ByteAutomaton, text: bytes, ends: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Positions [len(text) + 1] from which the automaton can read to one of ``ends``."""
    starts = np.zeros_like(ends)
    finishing = automaton.accepting & ends[-1]
    starts[-1] = finishing[automaton.start]
    for position in range(len(text) - 1, -1, -1):
        finishing = finishing[automaton.transitions[:, text[position]]] | (automaton.accepting & ends[position])
        starts[position] = finishing[automaton.start]
    return starts


def _nearest_end(automaton: ByteAutomaton, text: bytes, position: int, ends: NDArray[np.bool_]) -> int:
    """The first of ``ends`` that the automaton, started at ``position``, accepts; there is one."""
    state = automaton.start
    while not (automaton.accepting[state] and ends[position]):
        state = automaton.transitions[state, text[position]]
        position += 1
    return position
