"""Turns finished canvases into text that never has to be taken back."""

from collections.abc import Callable, Sequence

from redraft.constrain.compiler import ThoughtMarkers

# What decoders put for bytes that do not yet make a character.
_INCOMPLETE = "\ufffd"


def stop_at(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop string begins that is complete first, as it is if the text comes letter by letter."""
    found = min(((at + len(one), at) for one in stop if (at := text.find(one)) >= 0), default=None)
    return None if found is None else found[1]


def overlap(text: str, following: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``following``: the most that are."""
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
        self.token_ids: list[int] = []
        self.text = ""
        self.stopped = False

    def add(self, tokens: Sequence[int], last: bool) -> str:
        """Append a canvas's tokens; returns the new text that is safe to hand out. ``last``: nothing follows."""
        before = len(self.token_ids)
        self.token_ids.extend(tokens)
        self.text = self._decode(self.token_ids)
        found = stop_at(self.text, self._stop)
        if found is not None:
            self.text, self.stopped = self.text[:found], True
            del self.token_ids[self._tokens_until_stop(before) :]
        safe = len(self.text) if last or self.stopped else self._safe_length()
        new, self._given = self.text[self._given : safe], max(self._given, safe)
        return new

    def _tokens_until_stop(self, before: int) -> int:
        """The least number of tokens whose text has a stop string; more than ``before``, or it was found earlier."""
        low, high = before + 1, len(self.token_ids)
        while low < high:
            middle = (low + high) // 2
            text = self._decode(self.token_ids[:middle])
            if any(stop in text for stop in self._stop):
                high = middle
            else:
                low = middle + 1
        return low

    def _safe_length(self) -> int:
        settled = self._settled(self.token_ids)
        text = self.text if settled == len(self.token_ids) else self._decode(self.token_ids[:settled])
        text = text.rstrip(_INCOMPLETE)
        return len(text) - max((overlap(text, stop) for stop in self._stop), default=0)


class AnswerText:
    """An answer's text, and apart from it the thought before it, where a model thinks between markers."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str],
        markers: ThoughtMarkers | None,
        settled: Callable[[Sequence[int]], int] = len,
    ) -> None:
        self._answer = TextStream(decode, stop, settled)
        self._thoughts = None if markers is None else TextStream(decode, (), settled)
        self._markers = markers
        self._marked: list[int] = []
        self._thinking = False

    @property
    def text(self) -> str:
        return self._answer.text

    @property
    def thought(self) -> str | None:
        """None where markers are not looked for."""
        return None if self._thoughts is None else self._thoughts.text

    @property
    def token_ids(self) -> list[int]:
        """All tokens, those of the thought and its markers included."""
        return [*self._marked, *self._answer.token_ids]

    @property
    def stopped(self) -> bool:
        return self._answer.stopped

    def add(self, tokens: Sequence[int], last: bool) -> tuple[str, str]:
        """Append a canvas's tokens; returns new text of the thought and of the answer, as ``TextStream.add`` does."""
        if self._thoughts is None or self._markers is None:
            return "", self._answer.add(tokens, last)
        rest = list(tokens)
        if not self.token_ids and rest[:1] == [self._markers.opening]:
            self._thinking = True
            self._marked.append(rest.pop(0))
        if not self._thinking:
            return "", self._answer.add(rest, last)
        closed = self._markers.closing in rest
        thoughts = rest[: rest.index(self._markers.closing)] if closed else rest
        self._marked += rest[: len(thoughts) + int(closed)]
        self._thinking = not closed
        thought = self._thoughts.add(thoughts, last or closed)
        return thought, self._answer.add(rest[len(thoughts) + 1 :], last) if closed else ""
