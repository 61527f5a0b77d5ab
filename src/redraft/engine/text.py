"""Turns finished canvases into text that never has to be taken back."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from redraft.constrain.compiler import ThoughtMarkers

# What decoders put for bytes that do not yet make a character.
_INCOMPLETE = "\ufffd"
# Tokens that are decoded once more with those that come after them, before their text stands.
_DECODED_AGAIN = 64


def stop_at(text: str, stop: Sequence[str]) -> int | None:
    """Find where the stop string begins that is complete first, as it is if the text comes letter by letter."""
    found = min(((at + len(one), at) for one in stop if (at := text.find(one)) >= 0), default=None)
    return None if found is None else found[1]


def overlap(text: str, following: str) -> int:
    """Count the characters at the end of ``text`` that may be the beginning of ``following``: the most that are."""
    longest = min(len(following), len(text))
    return next((count for count in range(longest, 0, -1) if following.startswith(text[-count:])), 0)


class TextStream:
    """Decodes a growing answer; holds back unfinished characters and whatever may yet become a stop string."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str],
        settled: Callable[[Sequence[int]], int] = len,
    ) -> None:
        """``settled``: how many of the first tokens have a text that none which follow can change."""
        self._decode, self._stop, self._settled = decode, stop, settled
        self._given = 0
        self._anchor = self._fixed = 0
        self._fixed_text = ""
        self.token_ids: list[int] = []
        self.text = ""
        self.stopped = False
        self.unstoppable = 0
        """The number of the first tokens in whose text no stop string begins that counts."""

    def add(self, tokens: Sequence[int], last: bool) -> str:
        """Append a canvas's tokens; returns the new text that is safe to hand out. ``last``: nothing follows."""
        before = len(self.token_ids)
        self.token_ids.extend(tokens)
        # At the end all is decoded once as it is.
        self.text = self._decode(self.token_ids) if last else self._text_of(len(self.token_ids))
        found = self._stop_in(self.text)
        if found is not None:
            self.text, self.stopped = self.text[:found], True
            del self.token_ids[self._tokens_until_stop(before) :]
        safe = len(self.text) if last or self.stopped else self._safe_length()
        new, self._given = self.text[self._given : safe], max(self._given, safe)
        return new

    def _stop_in(self, text: str) -> int | None:
        """Find the stop string at which ``text``, of the first tokens, ends."""
        if not self._stop:
            return None
        first = len(self._decode(self.token_ids[: self.unstoppable])) if self.unstoppable else 0
        found = stop_at(text[first:], self._stop)
        return None if found is None else first + found

    def _tokens_until_stop(self, before: int) -> int:
        """The least number of tokens whose text has a stop string; more than ``before``, or it was found earlier."""
        low, high = before + 1, len(self.token_ids)
        while low < high:
            middle = (low + high) // 2
            text = self._decode(self.token_ids[:middle])
            if self._stop_in(text) is not None:
                high = middle
            else:
                low = middle + 1
        return low

    def _text_of(self, count: int) -> str:
        """Return the text of the first ``count`` tokens, decoding the latest of them alone.

        Decoders look at a token's neighbours, and at the first token of all. So what is new is told by two texts that
        begin with tokens before it.
        """
        if count < self._fixed or not self._fixed:
            return self._decode(self.token_ids[:count])
        known = self._decode(self.token_ids[self._anchor : self._fixed])
        return self._fixed_text + self._decode(self.token_ids[self._anchor : count])[len(known) :]

    def _fix(self, settled: int) -> None:
        """Let the text of the first ``settled`` tokens stand once they are many more than those that do."""
        if settled - self._fixed < _DECODED_AGAIN:
            return
        text = self._text_of(settled)
        if text.endswith(_INCOMPLETE) or not self._decode(self.token_ids[self._fixed : settled]):
            return
        self._anchor, self._fixed, self._fixed_text = self._fixed, settled, text

    def _safe_length(self) -> int:
        settled = self._settled(self.token_ids)
        text = self.text if settled == len(self.token_ids) else self._text_of(settled)
        self._fix(settled)
        text = text.rstrip(_INCOMPLETE)
        return len(text) - max((overlap(text, stop) for stop in self._stop), default=0)


class AnswerText:
    """An answer's text and, apart from it, what the model thought: a state machine over tokens.

    An opening marker begins a thought wherever it stands, a closing one ends it; one that is not closed goes on to the
    end of the answer. So it is whether or not a thought was asked for: none of it is text.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str],
        markers: ThoughtMarkers | None,
        settled: Callable[[Sequence[int]], int] = len,
        thinking: bool = True,
        min_tokens: int = 0,
    ) -> None:
        """``thinking``: a thought was asked for. ``markers``: None where they are not looked for. ``min_tokens``: no
        stop string counts that begins in the text of so many first tokens, those of thoughts counted."""
        self._min_tokens = min_tokens
        self._decode, self._markers, self._settled = decode, markers, settled
        self._thinking = thinking and markers is not None
        self._answer = TextStream(decode, stop, settled)
        self._block: _Block | None = None
        self._thought = ""
        self._token_ids: list[int] = []
        self._places: list[int] = []
        """The places of the answer's tokens among all tokens."""

    @property
    def text(self) -> str:
        return self._answer.text

    @property
    def thought(self) -> str | None:
        """None where none was asked for, and none came unasked."""
        return self._thought if self._thinking else self._thought or None

    @property
    def token_ids(self) -> list[int]:
        """All tokens, those of thoughts and their markers included."""
        return self._token_ids

    @property
    def stopped(self) -> bool:
        return self._answer.stopped

    def add(self, tokens: Sequence[int], last: bool) -> tuple[str, str]:
        """Append a canvas's tokens; returns new text of the thought and of the answer, as ``TextStream.add`` does."""
        said: list[int] = []
        thought = text = ""
        for token in tokens:
            place = len(self._token_ids)
            self._token_ids.append(token)
            if self._markers is not None and token == self._markers.opening:
                # What ends the answer before a thought ends it there.
                text, said = text + self._add(said, False), []
                if self.stopped:
                    break
                self._block = self._block or _Block(TextStream(self._decode, (), self._settled), self._markers.name)
            elif self._markers is not None and token == self._markers.closing:
                thought += self._block.new(last=True) if self._block is not None else ""
                self._block = None
            elif self._block is not None:
                self._block.take(token)
            else:
                said.append(token)
                self._places.append(place)
        if self._block is not None:
            thought += self._block.new(last)
        if not self.stopped:
            text += self._add(said, last)
        if self.stopped:
            del self._token_ids[self._places[len(self._answer.token_ids) - 1] + 1 :]
        self._thought += thought
        return thought, text

    def _add(self, said: Sequence[int], last: bool) -> str:
        self._answer.unstoppable = bisect_left(self._places, self._min_tokens)
        return self._answer.add(said, last)


class _Block:
    """The text after an opening marker: the block's name, which is no part of the thought, and the thought."""

    def __init__(self, stream: TextStream, name: str) -> None:
        self._stream, self._name = stream, name
        self._waiting: list[int] = []
        self._text, self._given = "", 0

    def take(self, token: int) -> None:
        """Take the next token."""
        self._waiting.append(token)

    def new(self, last: bool) -> str:
        """Return the thought's text since the last call."""
        self._text += self._stream.add(self._waiting, last)
        self._waiting = []
        named = self._text.startswith(self._name) or (self._name.startswith(self._text) and not last)
        thought = self._text[len(self._name) :] if named or self._text == self._name.rstrip() else self._text
        new, self._given = thought[self._given :], len(thought)
        return new


def thought_tokens(tokens: Sequence[int], markers: ThoughtMarkers) -> int:
    """Count the tokens of an answer that are thoughts, their markers included."""
    count, thinking = 0, False
    for token in tokens:
        count += thinking or token in (markers.opening, markers.closing)
        thinking = token != markers.closing and (thinking or token == markers.opening)
    return count
