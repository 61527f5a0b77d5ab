"""The values of a JSON schema as slots of fixed width on one canvas; training and serving share it.

What stands between the slots is pinned (see ``layout``). A slot holds a space, the value's text, and end tokens up to
its width. Texts are raw; ``null`` says that a value is absent, and the items of an array end at the first one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redraft.constrain.language.json.keywords import joined_pointer
from redraft.errors import GenerationError, RequestError, counted
from redraft.models.tokenizer import ChatTokenizer
from redraft.tasks.layout import CHARACTERS_A_TOKEN, NULL, WIDTH, Fields, Items, Part, Slot, described, laid_out, slots
from redraft.tasks.presence import Fork, presence

INSTRUCTION = "Fill in these fields from the text. Write null where it does not say."


@dataclass(frozen=True)
class Pinned:
    """Text that stands on a canvas from the start, and stays."""

    text: str


@dataclass(frozen=True)
class Filled:
    """Text in a slot of ``width`` tokens, with end tokens after it."""

    text: str
    width: int


Piece = Pinned | Filled


@dataclass(frozen=True)
class Canvas:
    """The tokens of pieces, and which positions are free; the others are pinned."""

    tokens: tuple[int, ...]
    free: tuple[bool, ...]

    @classmethod
    def of(cls, pieces: Iterable[Piece], tokenizer: ChatTokenizer, end_token_id: int) -> "Canvas":
        """Encode each piece by itself. Raises RequestError for a text that leaves its slot no end token."""
        tokens: list[int] = []
        free: list[bool] = []
        for piece in pieces:
            own = tokenizer.encode_text(piece.text, literal=True)
            if isinstance(piece, Filled):
                if len(own) >= piece.width:
                    raise RequestError(
                        f"{piece.text!r} takes {counted(len(own), 'token')}, and its slot holds {piece.width - 1} "
                        "and an end token"
                    )
                own += [end_token_id] * (piece.width - len(own))
            tokens += own
            free += [isinstance(piece, Filled)] * len(own)
        return cls(tuple(tokens), tuple(free))


class _Absent:
    """Nothing is said."""


_ABSENT = _Absent()


@dataclass(frozen=True)
class Slots:
    """The slots of a schema for one tokenizer, in the order in which they stand on the canvas."""

    slots: tuple[Slot, ...]
    tokenizer: ChatTokenizer = field(repr=False)
    end_token_id: int
    _root: Fields = field(repr=False)

    @classmethod
    def of(cls, schema: Mapping[str, Any] | str, tokenizer: ChatTokenizer, end_token_id: int) -> "Slots":
        """Lay a schema out. Raises RequestError, naming the JSON pointer, for what has no fixed layout."""
        root = laid_out(schema, tokenizer)
        return cls(tuple(slots(root)), tokenizer, end_token_id, root)

    def start(self, possible: Callable[[Slot], bool]) -> Fork:
        """Return the place before the first slot, from which all ways to say a value or null in each slot lead on.

        ``possible``: tells the slots in which a value may stand. Raises RequestError naming one that needs a value.
        """
        found = presence(self._root, possible)
        if found is not None:
            return found
        pointer = next(slot.pointer for slot in self.slots if not possible(slot))
        raise RequestError(f"no text can stand at {pointer}, and a value of the schema needs one there, or elsewhere")

    @property
    def empty(self) -> Canvas:
        """The canvas with nothing but end tokens in its slots; as long as that of any value."""
        return Canvas.of(self._pieces([""] * len(self.slots)), self.tokenizer, self.end_token_id)

    def pieces(self, value: Any) -> tuple[Piece, ...]:
        """The canvas of a value, as text. Raises RequestError naming a value that the schema does not allow, or that is
        longer than its slot."""
        texts = [f" {text}" for text in _written(self._root, value)]
        for slot, text in zip(self.slots, texts, strict=True):
            taken = len(self.tokenizer.encode_text(text, literal=True))
            if taken >= slot.width:
                raise RequestError(
                    f"value at {slot.pointer}: {text[1:]!r} takes {counted(taken, 'token')}, and its slot holds "
                    f"{slot.width - 1}; "
                    f"a 'maxLength' above {CHARACTERS_A_TOKEN * WIDTH} makes that of a string wider"
                )
        return tuple(self._pieces(texts))

    def canvas(self, value: Any) -> Canvas:
        """The canvas of a value; errors as in ``pieces``."""
        return Canvas.of(self.pieces(value), self.tokenizer, self.end_token_id)

    def split(self, length: int) -> list[tuple[range, Canvas]]:
        """Spread the slots over canvases of at most ``length`` positions -> the numbers of each one's slots, and the
        canvas with nothing but end tokens in them. RequestError for a slot that is longer than that with its key."""
        found: list[tuple[range, Canvas]] = []
        start, tokens, free = 0, tuple[int, ...](), tuple[bool, ...]()
        for number, slot in enumerate(self.slots):
            own = Canvas.of((Pinned(slot.key), Filled("", slot.width)), self.tokenizer, self.end_token_id)
            if len(own.tokens) > length:
                raise RequestError(
                    f"value at {slot.pointer} takes {len(own.tokens)} positions, and a canvas has {length}"
                )
            if len(tokens) + len(own.tokens) > length:
                found.append((range(start, number), Canvas(tokens, free)))
                start, tokens, free = number, (), ()
            tokens, free = tokens + own.tokens, free + own.free
        return [*found, (range(start, len(self.slots)), Canvas(tokens, free))]

    def decode(self, tokens: Sequence[Sequence[int]]) -> Any:
        """The JSON value that the tokens of each slot say, up to the first end token.

        A value that is absent is left out; it is null where that is a value, and an array is empty. Raises
        GenerationError naming the pointer of a value that is malformed or missing.
        """
        if len(tokens) != len(self.slots):
            raise RequestError(f"there are {len(self.slots)} slots, and tokens for {len(tokens)}")
        return _read(self._root, map(self._text, tokens))

    def _text(self, tokens: Sequence[int]) -> str:
        own = list(tokens)
        text = self.tokenizer.decode(own[: own.index(self.end_token_id)] if self.end_token_id in own else own)
        return text.removeprefix(" ")

    def _pieces(self, texts: Sequence[str]) -> Iterator[Piece]:
        for slot, text in zip(self.slots, texts, strict=True):
            yield Pinned(slot.key)
            yield Filled(text, slot.width)


def asked(schema: Mapping[str, Any] | str, instruction: str = INSTRUCTION) -> str:
    """Ask a model to fill the slots of a schema: an instruction, then a line for each field with what it may be
    and its description. Raises RequestError as ``Slots.of`` does."""
    return "\n".join([instruction, *described(laid_out(schema))])


def _written(part: Part, value: Any) -> list[str]:
    """The texts of a part's slots."""
    if value is None or value is _ABSENT:
        if not (part.nullable if value is None else part.may_be_absent):
            said = "null, which the schema does not allow" if value is None else "missing"
            raise RequestError(f"value at {part.pointer or 'the root'} is {said}")
        return [NULL for _ in slots(part)]
    match part:
        case Slot():
            return [part.text(value)]
        case Fields():
            return _written_members(part, value)
        case Items():
            return _written_items(part, value)


def _written_members(part: Fields, value: Any) -> list[str]:
    if not isinstance(value, Mapping):
        raise RequestError(f"value at {part.pointer or 'the root'}: {value!r} is not an object")
    for name in value:
        if name not in part.members:
            raise RequestError(f"value at {joined_pointer(part.pointer, name)}: the schema has no such key")
    for name in part.required:
        if name not in value:
            raise RequestError(f"value at {joined_pointer(part.pointer, name)} is missing")
    members = part.members.items()
    return [text for name, member in members for text in _written(member, value.get(name, _ABSENT))]


def _written_items(part: Items, value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise RequestError(f"value at {part.pointer}: {value!r} is not an array")
    if not part.min <= len(value) <= len(part.items):
        raise RequestError(f"value at {part.pointer} has {len(value)} items; it needs {part.min} to {len(part.items)}")
    texts: list[str] = []
    for item, own in zip(part.items, value, strict=False):
        written = _written(item, own)
        if set(written) == {NULL}:
            raise RequestError(f"value at {item.pointer}: {own!r} says nothing, as the end of the array does")
        texts += written
    return texts + [NULL for item in part.items[len(value) :] for _ in slots(item)]


def _read(part: Part, texts: Iterator[str]) -> Any:
    """The value that texts say, or that there is none."""
    match part:
        case Slot():
            text = next(texts)
            return _ABSENT if text == NULL and part.may_be_absent else part.value(text)
        case Fields():
            found = {name: _read(member, texts) for name, member in part.members.items()}
            silent = part.may_be_absent and all(value is _ABSENT for value in found.values())
            return _ABSENT if silent else _settled_members(part, found)
        case Items():
            return _read_items(part, [_read(item, texts) for item in part.items])


def _read_items(part: Items, items: list[Any]) -> Any:
    count = next((number for number, value in enumerate(items) if value is _ABSENT), len(items))
    for item, value in zip(part.items[count:], items[count:], strict=True):
        if value is not _ABSENT:
            raise GenerationError(f"value at {item.pointer} comes after the end of its array")
    if 0 < count < part.min:
        raise GenerationError(f"value at {part.items[count].pointer} is missing; {part.min} items are needed")
    return items[:count] or _ABSENT


def _settled_members(part: Fields, found: Mapping[str, Any]) -> dict[str, Any]:
    settled = {name: _settled(part.members[name], value, name in part.required) for name, value in found.items()}
    return {name: value for name, value in settled.items() if value is not _ABSENT}


def _settled(part: Part, value: Any, required: bool) -> Any:
    """Return what stands in an object for a member that may say nothing."""
    if value is not _ABSENT:
        return value
    if isinstance(part, Items) and part.min == 0:
        return []
    if part.nullable:
        return None
    if required and isinstance(part, Fields):
        return _settled_members(part, dict.fromkeys(part.members, _ABSENT))
    if required:
        raise GenerationError(f"value at {part.pointer} is missing, and the schema requires it")
    return _ABSENT
