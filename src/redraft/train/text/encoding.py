"""Records as tokens: prompts, and the clean canvases that answer them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from redraft.errors import DataError, RequestError, counted
from redraft.models.tokenizer import ChatTokenizer
from redraft.tasks.layout import NULL, Slot
from redraft.tasks.slots import Canvas, Filled, Piece, Slots
from redraft.train.text.records import Prompt, Question, Record, SchemaValue

FILLER_WEIGHT = 0.15
"""The weight of an end token behind the first one: fillers are many, and all alike."""

SlotKind = Literal["absent", "class", "copied", "rewritten"]
"""The kind of a value in a schema's slot: none, one of the values that the schema lists, text as the prompt has it, or
text that it has not, such as a date in another form."""


@dataclass(frozen=True)
class CleanCanvas:
    """A canvas as it should become, C positions."""

    tokens: tuple[int, ...]
    free: tuple[bool, ...]
    """Positions that are filled in; the others are pinned."""
    weights: tuple[float, ...]
    """The weight of each position's loss; 0 where it is pinned."""
    kinds: tuple[SlotKind, ...] = ()
    """The kind of each slot, where a schema says which slots there are."""


@dataclass(frozen=True)
class EncodedQuestion:
    """A prompt's tokens, and the canvases that follow it and each other."""

    prompt: tuple[int, ...]
    canvases: tuple[CleanCanvas, ...]
    task: str


@dataclass(frozen=True)
class EncodedRecord:
    """Questions, and how many first tokens all their prompts have in common."""

    questions: tuple[EncodedQuestion, ...]
    shared: int
    where: str


@dataclass(frozen=True)
class Encoder:
    """Makes tokens of records for one tokenizer and model. Raises DataError that begins with where a record stands."""

    tokenizer: ChatTokenizer
    canvas_length: int
    """Positions of the canvases that a text is written on; one of pieces is as long as they are."""
    context_length: int
    mask_token: int
    end_token: int
    filler_weight: float = FILLER_WEIGHT

    def encode(self, record: Record) -> EncodedRecord:
        """Return the tokens of a record."""
        try:
            questions = tuple(self._numbered(number, record) for number in range(len(record.questions)))
        except (DataError, RequestError) as error:
            raise DataError(f"{record.where}: {error}") from None
        return EncodedRecord(questions, _shared([question.prompt for question in questions]), record.where)

    def _numbered(self, number: int, record: Record) -> EncodedQuestion:
        """Return the tokens of one question; a fault among several names it by its number, from 0."""
        try:
            return self._question(record.questions[number])
        except (DataError, RequestError) as error:
            if len(record.questions) == 1:
                raise
            raise DataError(f"question {number}: {error}") from None

    def _question(self, question: Question) -> EncodedQuestion:
        if isinstance(question.prompt, str):
            prompt = self.tokenizer.encode(question.prompt)
        else:
            prompt = self.tokenizer.encode_chat(question.prompt)
        match question.answer:
            case str(text):
                canvases = tuple(self._of_text(text, question.weight))
            case SchemaValue(schema, value):
                laid_out = Slots.of(schema, self.tokenizer, self.end_token)
                pieces = laid_out.pieces(value)
                said = _said(question.prompt)
                filled = [piece.text.strip() for piece in pieces if isinstance(piece, Filled)]
                kinds = tuple(_kind(*one, said) for one in zip(laid_out.slots, filled, strict=True))
                canvases = (replace(self._of_pieces(pieces, question.weight), kinds=kinds),)
            case pieces:
                # Text before the first slot is context, as where a text is filled or edited.
                before, following = _led_in(pieces)
                prompt = [*prompt, *self._encode(before)]
                canvases = (self._of_pieces(following, question.weight),)
        length = len(prompt) + sum(len(canvas.tokens) for canvas in canvases)
        if length > self.context_length:
            raise DataError(
                f"prompt and answer take {counted(length, 'token')}, and the model reads {self.context_length}"
            )
        return EncodedQuestion(tuple(prompt), canvases, question.task)

    def _of_text(self, text: str, weight: float) -> Iterator[CleanCanvas]:
        tokens = [*self._encode(text), self.end_token]
        size, ended = self.canvas_length, len(tokens)
        tokens += [self.end_token] * (-ended % size)
        weights = [weight if i < ended else weight * self.filler_weight for i in range(len(tokens))]
        for start in range(0, len(tokens), size):
            own = slice(start, start + size)
            yield CleanCanvas(tuple(tokens[own]), (True,) * size, tuple(weights[own]))

    def _of_pieces(self, pieces: Sequence[Piece], weight: float) -> CleanCanvas:
        tokens: list[int] = []
        weights: list[float] = []
        for piece in pieces:
            self._encode(piece.text)
            own = list(Canvas.of((piece,), self.tokenizer, self.end_token).tokens)
            tokens += own
            if isinstance(piece, Filled):
                ended = own.index(self.end_token)
                weights += [weight if i <= ended else weight * self.filler_weight for i in range(len(own))]
            else:
                weights += [0.0] * len(own)
        return CleanCanvas(tuple(tokens), tuple(one > 0 for one in weights), tuple(weights))

    def _encode(self, text: str) -> list[int]:
        tokens = self.tokenizer.encode_text(text)
        for token in (self.mask_token, self.end_token):
            if token in tokens:
                name = self.tokenizer.decode_all([token])
                raise DataError(f"the answer {text[:40]!r} spells the special token {name!r}")
        return tokens


def _said(prompt: Prompt) -> str:
    """Return the text of a prompt."""
    return prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)


def _kind(slot: Slot, text: str, said: str) -> SlotKind:
    if text == NULL and slot.may_be_absent:
        return "absent"
    if slot.type in ("enum", "boolean"):
        return "class"
    return "copied" if text in said else "rewritten"


def _led_in(pieces: Sequence[Piece]) -> tuple[str, Sequence[Piece]]:
    """Return the pinned text before the first slot, and the pieces from there on."""
    first = next((number for number, piece in enumerate(pieces) if isinstance(piece, Filled)), 0)
    return "".join(piece.text for piece in pieces[:first]), pieces[first:]


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many first tokens are the same in all prompts; all of a single one."""
    if not prompts:
        return 0
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False)))
