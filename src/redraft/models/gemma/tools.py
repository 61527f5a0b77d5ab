"""Gemma's tool calls: ``<|tool_call>call:NAME{key:value,...}<tool_call|>``, keys bare, strings between ``<|"|>``.

The marks are special tokens. What stands between two ``<|"|>`` is the string as it is: nothing is escaped.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from redraft.constrain.constraint import Constraint
from redraft.constrain.expression import AllOf, Characters, Expression, Literal, Marker, Repeat, any_of, joined
from redraft.constrain.language.json import text as json_text
from redraft.constrain.language.json.schema import SchemaWriter
from redraft.constrain.language.json.text import ANY_CHARACTER, Layout, Member
from redraft.errors import ConstraintError
from redraft.models.tools import CallPart, Tool

MARKERS = ("<|tool_call>", "<tool_call|>", '<|"|>')
_OPENING, _CLOSING, _QUOTE = map(Marker, range(len(MARKERS)))
_DEPTH = 3
_ANY_TEXT = Repeat(ANY_CHARACTER, 0, None)
_BARE = re.compile(r"[A-Za-z0-9_$.-]+")
_BARE_KEY = Repeat(
    Characters.of([(ord(a), ord(b)) for a, b in ("az", "AZ", "09", "__", "$$", "..", "--")]),
    1,
    None,
)
_KEY_IN_CALL = re.compile(r"([{,])([^{}\[\],:]+):")
_OPEN_KEY = re.compile(r"[{,][^{}\[\],:]*\Z")


class _ArgumentsWriter(SchemaWriter):
    """Values under a JSON schema, in the syntax of a call's arguments."""

    def string(self, min_length: int, max_length: int | None) -> Expression:
        return self.string_of(Repeat(ANY_CHARACTER, min_length, max_length))

    def string_of(self, value: Expression) -> Expression:
        return joined(_QUOTE, value, _QUOTE)

    def key(self, name: str) -> Expression:
        if not _BARE.fullmatch(name):
            raise ConstraintError(
                f"the argument {name!r} cannot be written in this model's tool calls, where keys stand bare; use "
                "letters, digits, '_', '-', '.' and '$'"
            )
        return Literal(name)

    def other_key(self, names: Iterable[str], within: Expression | None = None) -> Expression:
        excluded = set(names)
        parts = [_BARE_KEY] + [json_text.other_text(excluded)] * bool(excluded) + ([] if within is None else [within])
        return AllOf(tuple(parts)) if len(parts) > 1 else _BARE_KEY

    def ordered(self, names: Iterable[str]) -> list[str]:
        # As the chat template sorts the arguments of earlier calls.
        return sorted(set(names), key=lambda name: (name.lower(), name))

    def fixed_value(self, value: object) -> Expression:
        if isinstance(value, str):
            return self.string_of(Literal(value))
        if isinstance(value, Mapping):
            pairs = [(name, value[name]) for name in self.ordered(value)]
            members = [
                Member(json_text.member(self._layout, self.key(name), self.fixed_value(item)), True)
                for name, item in pairs
            ]
            return json_text.object_text(self._layout, members, None)
        if isinstance(value, list | tuple):
            items = [self.fixed_value(item) for item in value]
            return json_text.array_text(self._layout, items, None, len(items), len(items))
        return json_text.fixed(value, self._layout)

    def any_value(self, depth: int) -> Expression:
        scalars = any_of(self.string(0, None), json_text.NUMBER, "true", "false", "null")
        value: Expression = scalars
        for _ in range(depth):
            pair = json_text.member(self._layout, _BARE_KEY, value)
            value = any_of(
                scalars,
                json_text.array_text(self._layout, [], value, 0, None),
                json_text.object_text(self._layout, [], pair),
            )
        return value


@dataclass(frozen=True)
class ToolCalls:
    """A constraint: answers with calls of these tools; see ``tools.ToolSyntax``."""

    tools: tuple[Tool, ...]
    min_calls: int
    max_calls: int | None
    content: Constraint | None

    @property
    def expression(self) -> Expression:
        calls = any_of(*map(_call, self.tools))
        if self.min_calls:
            return Repeat(calls, self.min_calls, self.max_calls)
        if self.content is not None:
            return any_of(self.content.expression, Repeat(calls, 1, self.max_calls))
        return joined(_ANY_TEXT, Repeat(calls, 0, self.max_calls))


def _call(tool: Tool) -> Expression:
    try:
        schema = json.loads(tool.schema)
        if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
            raise ConstraintError("the schema of a tool's arguments must be an object's, with 'type': 'object'")
        arguments = _ArgumentsWriter.write_whole({**schema, "type": "object"}, Layout.of("compact"), _DEPTH)
    except ConstraintError as error:
        raise ConstraintError(f"tool {tool.name}: {error}") from None
    return joined(_OPENING, f"call:{tool.name}", arguments, _CLOSING)


class GemmaTools:
    """The family's ``tools.ToolSyntax``."""

    @property
    def markers(self) -> tuple[str, ...]:
        """See ``tools.ToolSyntax``."""
        return MARKERS

    def constraint(
        self, tools: Sequence[Tool], *, min_calls: int, max_calls: int | None, content: Constraint | None
    ) -> ToolCalls:
        """See ``tools.ToolSyntax``."""
        return ToolCalls(tuple(tools), min_calls, max_calls, content)

    def reader(
        self,
        markers: Sequence[int],
        decode: Callable[[Sequence[int]], str],
        settled: Callable[[Sequence[int]], int] = len,
    ) -> "GemmaCallReader":
        """See ``tools.ToolSyntax``."""
        return GemmaCallReader(markers, decode, settled)


class GemmaCallReader:
    """Takes an answer apart by its tokens: text that spells a marker's name is text."""

    def __init__(
        self,
        markers: Sequence[int],
        decode: Callable[[Sequence[int]], str],
        settled: Callable[[Sequence[int]], int],
    ) -> None:
        self._opening, self._closing, self._quote = markers
        self._decode, self._settled = decode, settled
        self._call: _Call | None = None
        self._calls = 0

    def add(self, tokens: Sequence[int]) -> tuple[list[int], list[CallPart]]:
        """See ``tools.CallReader``."""
        said: list[int] = []
        parts: list[CallPart] = []
        for token in tokens:
            if self._call is None:
                if token == self._opening:
                    self._call = _Call(self._calls, self._quote, self._decode, self._settled)
                    self._calls += 1
                else:
                    said.append(token)
            elif token == self._closing:
                parts.append(self._call.part(last=True))
                self._call = None
            else:
                self._call.take(token)
        if self._call is not None:
            part = self._call.part(last=False)
            parts += [part] if part.name is not None or part.arguments else []
        return said, parts


class _Call:
    """One call on its way from the model's syntax to JSON, piece by piece: bare text and strings in turns."""

    def __init__(
        self, number: int, quote: int, decode: Callable[[Sequence[int]], str], settled: Callable[[Sequence[int]], int]
    ) -> None:
        self._number, self._quote, self._decode, self._settled = number, quote, decode, settled
        self._in_string = self._named = False
        self._tokens: list[int] = []
        """The number of characters in the piece so far."""
        self._read = 0
        """Characters of the piece that were taken out of it."""
        self._bare = ""
        """Bare text that does not say yet what it is."""
        self._name: str | None = None
        self._arguments = ""

    def take(self, token: int) -> None:
        """The next token; a mark ends a piece and begins the other kind."""
        if token != self._quote:
            self._tokens.append(token)
            return
        self._flush(whole=True)
        self._arguments += '"'
        self._in_string = not self._in_string
        self._tokens, self._read = [], 0

    def part(self, last: bool) -> CallPart:
        """Return what is new since the part before."""
        self._flush(whole=last)
        part = CallPart(self._number, self._name, self._arguments, last)
        self._name, self._arguments = None, ""
        return part

    def _flush(self, whole: bool) -> None:
        """Read the piece as far as nothing that follows can change it; if it is ``whole``, to its end."""
        tokens = self._tokens if whole else self._tokens[: self._settled(self._tokens)]
        text = self._decode(tokens)
        # Decoders put this for bytes that do not make a character yet.
        text = text if whole else text.rstrip("\ufffd")
        new, self._read = text[self._read :], max(self._read, len(text))
        if self._in_string:
            self._arguments += json.dumps(new, ensure_ascii=False)[1:-1]
        else:
            self._bare += new
            self._read_bare(whole)

    def _read_bare(self, whole: bool) -> None:
        if not self._named:
            name, brace, rest = self._bare.partition("{")
            if not brace and not whole:
                return
            self._name, self._named, self._bare = name.removeprefix("call:"), True, brace + rest
        # What stands after a brace or comma is a key if a colon comes after it.
        open_key = None if whole else _OPEN_KEY.search(self._bare)
        end = len(self._bare) if open_key is None else open_key.start()
        self._arguments += _KEY_IN_CALL.sub(lambda key: f"{key[1]}{json.dumps(key[2])}:", self._bare[:end])
        self._bare = self._bare[end:]
